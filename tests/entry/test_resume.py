"""Interrupted + resumed = uninterrupted, bitwise; a killed run leaves no trace in the result."""

import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
from transformers import PreTrainedTokenizerBase

import finetune
from distillm.run import folder as run_folder
from tests.entry.every_method import FIELDS, PATHS, command_of
from tests.entry.outputs import contents, read_log, result, saved_step, steps_with
from tests.entry.processes import Place, call, in_step, run_killed

SAVE_INTERVAL = 4  # does not divide the 6 steps of an epoch
KIND = "adaptive-srkl-contra"
# Where its run is killed (many more places are in test_kills.py). Steps 7 to 12 of these are the first refresh's.
KILLS: dict[str, Place] = {
    "between two log lines": in_step(16),
    "before the first checkpoint": in_step(3),
    "while the second checkpoint is written": (safetensors.torch, "serialize_file", 10),
    "while the best model is written": (PreTrainedTokenizerBase, "save_pretrained", 2),
    "while files are moved at the end": (Path, "replace", 3),
}


@pytest.fixture(scope="module")
def options(world):
    """The options of a run with dropout, generation where the method has it, and several checkpoints per epoch."""
    return lambda save, kind="lm": world.training(save, "--save-interval", SAVE_INTERVAL, type=kind)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, options):
    """The folder of an undisturbed run of each type."""
    folders = {}

    def run_once(kind="lm"):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("runs") / kind
            assert call(finetune.main, options(folders[kind], kind)) == 0
        return folders[kind]

    return run_once


def test_the_compared_runs_are_worth_comparing(uninterrupted):
    log = read_log(uninterrupted(KIND))
    last = [record for record in log if "loss" in record][-1]
    assert last["step"] == 18
    assert last["generated_share"] > 0 and last["replayed_share"] > 0 and last["dataset_share"] > 0
    assert steps_with(log, "velocity_field_loss") == [6, 12]
    assert steps_with(log, "dev_loss") == [0, 6, 12, 18]


@pytest.mark.parametrize("place", KILLS)
def test_a_killed_run_that_is_run_again_ends_bitwise_like_an_uninterrupted_one(place, uninterrupted, options, tmp_path):
    save = tmp_path / "killed"
    run_killed(finetune.main, options(save, KIND), KILLS[place])
    assert not (save / "finished.json").exists()
    if place == "while files are moved at the end":
        assert (save / "best").exists() and (save / "config.json").exists()
    assert call(finetune.main, options(save, KIND)) == 0
    assert result(save) == result(uninterrupted(KIND))


@pytest.mark.parametrize("name", [*PATHS, *FIELDS])
def test_every_method_ends_bitwise_the_same_when_it_is_killed_and_run_again(name, world, pairs, tmp_path):
    """After the end of an epoch, so that what was made then (field, responses, adapters) comes from the checkpoint."""
    more = ["--total-iters", 10, "--save-interval", SAVE_INTERVAL, "--log-interval", 1]
    more += ["--capacity", 8, "--mixed-alpha", 0.7] if "mixed" in name else []
    whole, killed = (command_of(world, pairs, name, tmp_path / save, *more) for save in ("whole", "killed"))
    assert call(*whole) == 0
    run_killed(*killed, in_step(15 if "contra" in name else 9))
    assert saved_step(tmp_path / "killed") == 8
    assert call(*killed) == 0
    assert "resumed after step 8\n" in (tmp_path / "killed" / "training.log").read_text()
    assert result(tmp_path / "killed") == result(tmp_path / "whole")
    log = read_log(tmp_path / "whole")
    assert len(steps_with(log, "loss")) == 10
    assert steps_with(log, "velocity_field_loss") == ([6] if "contra" in name else [])
    assert steps_with(log, "mean_rejected_length") == ([6] if "distillm2" in name else [])
    if "mixed" in name:
        assert log[-2]["mixed_share"] > 0 and log[-2]["dataset_share"] > 0


def test_the_model_kept_is_chosen_the_same_when_the_best_was_before_the_kill(world, validation_losses, tmp_path):
    whole, killed = (
        world.training(tmp_path / save, "--eval-interval", 4, "--save-interval", 5) for save in ("whole", "killed")
    )
    validation_losses(6, 4, 2, 3, 2.5, 2)
    assert call(finetune.main, whole) == 0
    assert b'"kept_step": 8' in contents(tmp_path / "whole")["finished.json"]
    validation_losses(6, 4, 2, 3)
    run_killed(finetune.main, killed, in_step(14))
    validation_losses(3, 2.5, 2)
    assert call(finetune.main, killed) == 0
    assert result(tmp_path / "killed") == result(tmp_path / "whole")


def test_a_run_may_be_continued_with_other_intervals_and_batches_of_validation(uninterrupted, options, train, tmp_path):
    save = tmp_path / "killed"
    run_killed(finetune.main, options(save), in_step(12))
    assert train(save, "--save-interval", 5, "--eval-batch-size", 3).status == 0
    assert contents(save)["model.safetensors"] == contents(uninterrupted())["model.safetensors"]


@pytest.mark.parametrize("name", ["lm", FIELDS[0]])
def test_resume_never_starts_afresh(name, world, pairs, tmp_path):
    fresh, killed = tmp_path / "fresh", tmp_path / "killed"
    run_killed(*command_of(world, pairs, name, killed, "--save-interval", SAVE_INTERVAL), in_step(9))
    for save in (fresh, killed):
        assert call(*command_of(world, pairs, name, save, "--seed", 11, "--resume", "never")) == 0
    assert result(killed) == result(fresh)
    assert "resumed" not in (killed / "training.log").read_text()


def test_bug_a_run_killed_while_resume_never_forgets_an_unfinished_one_can_be_started_again(
    uninterrupted, options, tmp_path
):
    """`latest` was still there, but what it named was not."""
    save = tmp_path / "killed"
    run_killed(finetune.main, options(save), in_step(12))
    run_killed(finetune.main, [*options(save), "--resume", "never"], (os, "unlink", 2))
    assert not (save / "checkpoints").exists()
    assert call(finetune.main, options(save)) == 0
    assert result(save) == result(uninterrupted())


def test_bug_a_run_killed_while_resume_never_forgets_a_finished_one_can_be_started_again(
    uninterrupted, options, tmp_path
):
    """`args.json` was gone, and the model in the folder belonged to nobody."""
    save = shutil.copytree(uninterrupted(), tmp_path / "killed")
    never = [*options(save), "--resume", "never"]
    run_killed(finetune.main, never, (run_folder, "write_json", 1))
    assert not (save / "finished.json").exists()
    assert call(finetune.main, never) == 0
    assert result(save) == result(uninterrupted())
