"""What only a GPU can show of evaluation: its answers, in batches of any size, on one device and two."""

import pytest
import torch

from tests.entry.answers import answers, differing_rows


@pytest.mark.parametrize("sampled", ["true", "false"])
def test_every_split_asks_the_same_and_lists_the_rows_that_a_tie_changes(
    sampled, world, launch, tmp_path, record_property
):
    splits = [(64, 1), (1, 1), (3, 1), (64, 0)]
    splits += [(3, 2)] if torch.cuda.device_count() > 1 else []
    results = []
    for batch_size, gpus in splits:
        save = tmp_path / f"{batch_size} {gpus}"
        more = ["--precision", "fp32", "--do-sample", sampled, "--eval-batch-size", batch_size]
        launch("evaluate.py", world.evaluation(save, *more), gpus)
        results.append(answers(save))
    whole = results[0]
    assert [len(lines) for lines in whole.values()] == [6] * 4
    for split, other in zip(splits[1:], results[1:], strict=True):
        ties = differing_rows(whole, other)
        record_property(f"batches of {split[0]}, {split[1]} GPUs", str(ties))
        assert len(ties) <= 1, f"more than ties explain: {ties}"
