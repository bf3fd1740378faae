"""DistiLLM-2: training on response pairs, and a velocity field on them."""

import shutil

import pytest

import finetune
from distillm.models.split_model import SplitModel
from tests.entry.every_method import FIELDS, command_of, options_of
from tests.entry.outputs import read_log, rows_of, steps_with
from tests.entry.tiny_world import STEPS_PER_EPOCH


@pytest.fixture
def seen_rows(monkeypatch):
    """Record the rows of pairs that the student is trained on, epoch by epoch: [{row id: ids}]."""
    original, epochs = SplitModel.forward, [{}]

    def forward(model, batch):
        if batch.row_ids.shape[0] == 8 and model.model.training and model.model.config.n_embd == 16:
            if len(epochs[-1]) == 8 * STEPS_PER_EPOCH:
                epochs.append({})
            epochs[-1].update(rows_of(batch))
        return original(model, batch)

    monkeypatch.setattr(SplitModel, "forward", forward)
    return epochs


def share_that_differs(before, after, side):
    """Return the share of the chosen (0) or rejected (1) rows of two epochs that differ."""
    common = {row_id for row_id in before.keys() & after.keys() if row_id % 2 == side}
    assert len(common) > 15
    return sum(before[row_id] != after[row_id] for row_id in common) / len(common)


def test_a_run_on_pairs_writes_new_rejected_responses_and_refreshes_its_field(world, pairs, run, seen_rows, tmp_path):
    save = tmp_path / "save"
    assert run(*command_of(world, pairs, "distillm2-v2-contra", save, "--epochs", 2)).status == 0
    log = read_log(save)
    for event in ("mean_rejected_length", "velocity_field_loss"):
        assert steps_with(log, event) == [STEPS_PER_EPOCH], "not after the last epoch"
    assert steps_with(log, "dev_loss") == [0, 6, 12]
    losses = [record for record in log if "loss" in record]
    terms = "distillm2", "contra", "corpus"
    assert all(record["loss"] == pytest.approx(sum(record[name] for name in terms)) for record in losses)
    assert share_that_differs(*seen_rows, side=0) == 0
    assert share_that_differs(*seen_rows, side=1) > 0.8
    assert (save / "model.safetensors").exists() and (save / "velocity_field.json").exists()


def test_the_interval_says_after_which_epochs_new_responses_are_written(world, pairs, run, seen_rows, tmp_path):
    command = command_of(world, pairs, "distillm2-v1", tmp_path / "save", "--generate-sgo-interval", 2)
    assert run(*command).status == 0
    assert steps_with(read_log(tmp_path / "save"), "mean_rejected_length") == [2 * STEPS_PER_EPOCH]
    first, second, third = seen_rows
    assert share_that_differs(first, second, side=1) == 0
    assert share_that_differs(second, third, side=1) > 0.8


def test_stage_1_stacks_the_chosen_and_the_rejected_rows(world, pairs, run, monkeypatch, tmp_path):
    original, batches = SplitModel.forward, []

    def record(model, batch):
        batches.append(batch.row_ids.tolist())
        return original(model, batch)

    monkeypatch.setattr(SplitModel, "forward", record)
    assert run(*command_of(world, pairs, FIELDS[1], tmp_path / "field", "--epochs", 1)).status == 0
    assert len(batches) == 2 * STEPS_PER_EPOCH  # of the student and of the teacher
    for ids in batches:
        chosen, rejected = ids[:4], ids[4:]
        assert all(row_id % 2 == 0 for row_id in chosen) and rejected == [row_id + 1 for row_id in chosen]


def test_pairs_built_of_other_responses_do_not_continue_an_old_run(pairs, run, refused, world, tmp_path):
    save, folder = tmp_path / "save", shutil.copytree(pairs, tmp_path / "pairs")
    options = options_of(world, folder, "distillm2-v1", save, "--total-iters", 1)
    assert run(finetune.main, options).status == 0
    (arrow,) = folder.glob("train/*.arrow")
    arrow.write_bytes(arrow.read_bytes().replace(b"Say red.", b"Say tan."))
    refused(finetune.main, options, save, "holds a run with different content in data_dir", folder)
