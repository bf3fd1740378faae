"""Interrupted + resumed = uninterrupted, bitwise; a killed run leaves no trace in the result."""

import json
import os
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

import finetune
import train_velocity_field
from contra.training import FieldTrainer
from distillm.run import folder as run_folder
from distillm.training.checkpoint import Checkpoints
from distillm.training.trainer import Trainer
from distillm.training.validation import Validator
from tests.entry.every_method import make_pairs, options_of

# `kd` stands for every divergence: they share all state.
METHODS = ["kd", "srkl-fdd", "mixed-jsd", "rkl-contra-fdd", "distillm2-v1", "distillm2-v2-contra"]
METHODS += ["lm with LoRA", "adaptive-srkl with LoRA"]
SAVE_INTERVAL = 4  # no divisor of the 6 steps of an epoch

# Where a run is killed: the owner of a method, its name, and at which call of it (many more stand in test_kills.py).
KILLS = {
    "in an epoch": (Trainer, "_train_step", 12),
    "between two log lines": (Trainer, "_train_step", 10),
    "before the first checkpoint": (Trainer, "_train_step", 3),
    "while a checkpoint is written": (Checkpoints, "_clean", 2),
    "while the best model is written": (PreTrainedTokenizerBase, "save_pretrained", 2),
}


@pytest.fixture(scope="module")
def options(world):
    """The options of a run with dropout, generation where the method has it, and several checkpoints an epoch."""
    return lambda save, kind: world.training(save, "--save-interval", SAVE_INTERVAL, type=kind)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, options, call_script):
    """The folder of a run of each type that nothing disturbed."""
    folders = {}

    def run_once(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("runs") / kind
            assert call_script(finetune.main, options(folders[kind], kind)) == 0
        return folders[kind]

    return run_once


@pytest.fixture(scope="module")
def pairs(world, tmp_path_factory, call_script):
    return make_pairs(world, tmp_path_factory.mktemp("pairs"), call_script)


def result(contents, save):
    """Every file of a run but those that name its folder or tell of its interruptions."""
    return {name: data for name, data in contents(save).items() if name not in ("args.json", "training.log")}


def test_the_compared_runs_are_worth_comparing(uninterrupted, read_log):
    log = read_log(uninterrupted("adaptive-srkl-contra"))
    last = [record for record in log if "loss" in record][-1]
    assert last["step"] == 18
    assert last["generated_share"] > 0 and last["replayed_share"] > 0 and last["dataset_share"] > 0
    assert sum("velocity_field_loss" in record for record in log) == 2
    assert json.loads((uninterrupted("lm") / "finished.json").read_text())["kept_step"] > 0


@pytest.mark.parametrize("kind", ["adaptive-srkl-contra"])
def test_a_second_run_with_the_same_options_gives_the_same_bytes(
    kind, uninterrupted, options, call_script, tmp_path, contents
):
    assert call_script(finetune.main, options(tmp_path / "again", kind)) == 0
    assert result(contents, tmp_path / "again") == result(contents, uninterrupted(kind))


@pytest.mark.parametrize(
    ("kind", "place"),
    [("lm", "in an epoch"), ("adaptive-srkl", "in an epoch"), *(("adaptive-srkl-contra", place) for place in KILLS)],
)
def test_a_killed_run_that_is_run_again_ends_bitwise_like_an_uninterrupted_one(
    kind, place, uninterrupted, options, run_killed, call_script, tmp_path, contents
):
    save = tmp_path / "killed"
    run_killed(finetune.main, options(save, kind), *KILLS[place])
    assert not (save / "finished.json").exists()
    assert call_script(finetune.main, options(save, kind)) == 0
    assert result(contents, save) == result(contents, uninterrupted(kind))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_ends_bitwise_the_same_when_it_is_killed_and_run_again(
    name, world, pairs, call_script, run_killed, read_log, contents, tmp_path
):
    """After an epoch's end, so that what was made there (a field, responses, adapters) comes from the checkpoint."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = ["--total-iters", 10, "--save-interval", SAVE_INTERVAL, "--log-interval", 1]
    if "mixed" in name:
        more += ["--capacity", 8, "--mixed-alpha", 0.7]
    assert call_script(finetune.main, options_of(world, pairs, name, whole, *more)) == 0
    run_killed(finetune.main, options_of(world, pairs, name, killed, *more), Trainer, "_train_step", 9)
    assert (killed / "checkpoints" / "latest").read_text() == "step-00000008\n"
    assert call_script(finetune.main, options_of(world, pairs, name, killed, *more)) == 0
    assert result(contents, killed) == result(contents, whole)
    log = read_log(whole)
    assert sum("loss" in record for record in log) == 10
    assert any("velocity_field_loss" in record for record in log) == ("contra" in name)
    assert any("mean_rejected_length" in record for record in log) == ("distillm2" in name)
    if "mixed" in name:
        assert log[-2]["mixed_share"] > 0 and log[-2]["dataset_share"] > 0


def test_the_model_kept_is_chosen_the_same_when_the_best_stood_before_the_kill(
    world, run_killed, call_script, contents, tmp_path, monkeypatch
):
    losses = {0: 6.0, 4: 4.0, 8: 2.0, 12: 3.0, 16: 2.5, 18: 2.0}
    monkeypatch.setattr(Validator, "validate", lambda _, student, step: {"dev_loss": losses[step]})
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def options(save):
        return world.training(save, "--eval-interval", 4, "--save-interval", 5)

    assert call_script(finetune.main, options(whole)) == 0
    assert json.loads((whole / "finished.json").read_text())["kept_step"] == 8
    run_killed(finetune.main, options(killed), Trainer, "_train_step", 14)
    assert call_script(finetune.main, options(killed)) == 0
    assert result(contents, killed) == result(contents, whole)


def test_a_run_killed_twice_and_in_the_middle_of_its_end_is_the_same_too(
    uninterrupted, options, run_killed, call_script, tmp_path, contents
):
    kind, save = "adaptive-srkl-contra", tmp_path / "killed"
    run_killed(finetune.main, options(save, kind), *KILLS["in an epoch"])
    run_killed(finetune.main, options(save, kind), Path, "replace", 3)  # the model's files are moved into the folder
    assert (save / "best").exists() and (save / "config.json").exists()
    assert call_script(finetune.main, options(save, kind)) == 0
    assert result(contents, save) == result(contents, uninterrupted(kind))


def test_a_resumed_run_starts_at_its_checkpoint_and_says_so(options, run_killed, train, tmp_path):
    save = tmp_path / "killed"
    run_killed(finetune.main, options(save, "lm"), *KILLS["in an epoch"])
    assert (save / "checkpoints" / "latest").read_text() == "step-00000008\n"
    assert train(save, "--save-interval", SAVE_INTERVAL).status == 0
    assert "resumed after step 8\n" in (save / "training.log").read_text()


def test_a_run_may_be_continued_with_other_intervals_and_batches_of_validation(
    uninterrupted, options, run_killed, train, tmp_path, contents
):
    save = tmp_path / "killed"
    run_killed(finetune.main, options(save, "lm"), *KILLS["in an epoch"])
    assert train(save, "--save-interval", 5, "--eval-batch-size", 3).status == 0
    assert contents(save)["model.safetensors"] == contents(uninterrupted("lm"))["model.safetensors"]


def test_resume_never_starts_afresh(uninterrupted, options, run_killed, train, tmp_path, contents, call_script):
    save = tmp_path / "killed"
    run_killed(finetune.main, options(save, "lm"), *KILLS["in an epoch"])
    assert train(save, "--save-interval", SAVE_INTERVAL, "--resume", "never").status == 0
    assert result(contents, save) == result(contents, uninterrupted("lm"))
    assert "resumed" not in (save / "training.log").read_text()


def test_resume_never_forgets_the_checkpoint_of_a_velocity_field(world, run_killed, train_field, tmp_path, contents):
    fresh, killed = tmp_path / "fresh", tmp_path / "killed"
    options = world.stage_1(killed, "--save-interval", SAVE_INTERVAL)
    run_killed(train_velocity_field.main, options, FieldTrainer, "train_step", 9)
    for save in (fresh, killed):
        assert train_field(save, "--save-interval", SAVE_INTERVAL, "--seed", 11, "--resume", "never").status == 0
    assert result(contents, killed) == result(contents, fresh)


@pytest.mark.parametrize(("data", "call_number"), [("rows", 3), ("rows", 9), ("rows", 12), ("pairs", 10)])
def test_a_killed_velocity_field_ends_bitwise_like_an_uninterrupted_one(
    data, call_number, world, pairs, run_killed, train_field, tmp_path, contents
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = ["--save-interval", SAVE_INTERVAL, "--data-dir", world.store if data == "rows" else pairs]
    assert train_field(whole, *more).status == 0
    run_killed(train_velocity_field.main, world.stage_1(killed, *more), FieldTrainer, "train_step", call_number)
    assert train_field(killed, *more).status == 0
    assert result(contents, killed) == result(contents, whole)


def test_bug_a_velocity_field_killed_while_its_checkpoint_is_replaced_keeps_the_previous_one(
    world, run_killed, train_field, tmp_path, contents
):
    """The old folder was moved away, the new one had no name yet, and the next start removed both."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_field(whole, "--save-interval", SAVE_INTERVAL).status == 0
    options = world.stage_1(killed, "--save-interval", SAVE_INTERVAL)
    run_killed(train_velocity_field.main, options, os, "rename", 3)  # 1: first save; 2, 3: swap at the second
    assert not (killed / "checkpoint").exists()
    assert train_field(killed, "--save-interval", SAVE_INTERVAL).status == 0
    assert "resumed after step 4\n" in (killed / "training.log").read_text()
    assert result(contents, killed) == result(contents, whole)


def test_bug_a_run_killed_while_resume_never_forgets_an_unfinished_one_can_be_started_again(
    uninterrupted, options, run_killed, call_script, tmp_path, contents
):
    """`latest` was still there, what it named was not."""
    save = tmp_path / "killed"
    run_killed(finetune.main, options(save, "lm"), *KILLS["in an epoch"])
    run_killed(finetune.main, [*options(save, "lm"), "--resume", "never"], os, "unlink", 2)
    assert not (save / "checkpoints").exists()
    assert call_script(finetune.main, options(save, "lm")) == 0
    assert result(contents, save) == result(contents, uninterrupted("lm"))


def test_bug_a_run_killed_while_resume_never_forgets_a_finished_one_can_be_started_again(
    uninterrupted, options, run_killed, call_script, tmp_path, contents
):
    """`args.json` was gone, and the model in the folder belonged to nobody."""
    save = shutil.copytree(uninterrupted("lm"), tmp_path / "killed")
    run_killed(finetune.main, [*options(save, "lm"), "--resume", "never"], run_folder, "write_json", 1)
    assert not (save / "finished.json").exists()
    assert call_script(finetune.main, [*options(save, "lm"), "--resume", "never"]) == 0
    assert result(contents, save) == result(contents, uninterrupted("lm"))
