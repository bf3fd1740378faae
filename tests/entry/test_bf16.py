"""Guarantees of bf16 (docs/guarantees.md), on CPUs that compute it; test_resume.py runs in bf16 there, too."""

import torch

import finetune
from distillm.models.generation import ResponseGenerator
from tests.entry.curves import curve_deviation, gradients_of, steady_run, tensor_deviation
from tests.entry.outputs import read_log
from tests.entry.processes import call, run_killed, run_on
from tests.precision import needs_bf16
from tools import generate_responses

pytestmark = needs_bf16
BF16 = ["--precision", "bf16"]
GRADIENT, LOSS = 1e-2, 2e-3  # relative; largest measured, over all methods: 4e-3 and 5e-4


def test_bug_responses_of_a_run_killed_while_it_wrote_differed_from_those_of_an_uninterrupted_one(world, tmp_path):
    """The rows after the torn one ended up in other batches."""
    main, (whole, killed, partial) = generate_responses.main, map(tmp_path.joinpath, ("whole", "one", "one.partial"))
    assert call(main, world.answering(whole, *BF16)) == 0
    run_killed(main, world.answering(killed, *BF16), (ResponseGenerator, "respond", 3))
    partial.write_bytes(partial.read_bytes()[:-9])
    assert call(main, world.answering(killed, *BF16)) == 0
    assert killed.read_bytes() == whole.read_bytes()


def test_without_generated_rows_another_split_of_a_step_agrees_to_the_rounding_of_bf16(world, monkeypatch, tmp_path):
    gradients, optimiser_step = [], torch.optim.AdamW.step

    def keep(optimizer, *arguments, **keywords):
        gradients.append(gradients_of(optimizer))
        return optimiser_step(optimizer, *arguments, **keywords)

    def losses(save):
        return [{key: value for key, value in record.items() if key.endswith("loss")} for record in read_log(save)]

    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    firsts = []
    for processes, accumulation in ((1, 1), (1, 4), (2, 1)):
        save = tmp_path / f"{processes} {accumulation}"
        options = steady_run(
            world, tmp_path, "rkl-contra-fdd", save, processes, accumulation, [*BF16, "--total-iters", 4]
        )
        gradients.clear()
        if processes == 1:
            assert call(finetune.main, options) == 0
            firsts.append(gradients[0])
        else:
            run_on(processes, finetune.main, options)
        assert curve_deviation(losses(tmp_path / "1 1"), losses(save)) < LOSS
    assert 0 < tensor_deviation(*firsts) < GRADIENT
