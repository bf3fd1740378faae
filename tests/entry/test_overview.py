"""A training run says at its start what it is going to do, and at its end which model it kept."""

import os
import re
import subprocess
import sys

import pytest

import finetune
from distillm.training.overview import duration, short
from tests.entry.every_method import FIELDS, command_of
from tests.entry.outputs import read_log
from tests.entry.processes import ROOT


def test_a_training_begins_with_at_most_ten_lines_that_tell_what_it_does(train, world, tmp_path):
    options = ["--precision", "fp32", "--batch-size", 2, "--gradient-accumulation-steps", 2, "--total-iters", 2]
    said = train(tmp_path / "run", *options, type="adaptive-srkl-contra").out.splitlines()
    assert said[: said.index("started") + 1] == [
        "adaptive-srkl-contra: 1 process on cpu, fp32, PyTorch",
        f"student: {world.student}, 22.8 k parameters",
        f"teacher: {world.teacher}, 53 k parameters",
        f"velocity field and projector: {world.field}, 4.53 k parameters",
        f"training data: {world.store}, 26 rows, 752 tokens",
        f"corpus: {world.corpus}, 25 rows, 1,600 tokens",
        "steps: 2, 6 per epoch; micro-batch 2 x accumulation 2 x processes 1 = 4 rows per step",
        "learning rate: 0.005 to 1e-07, cosine",
        f"save folder: {tmp_path / 'run'}",
        "started",
    ]
    assert (tmp_path / "run" / "training.log").read_text().splitlines()[:10] == said[:10]


def test_a_training_ends_with_one_line_that_names_the_step_that_was_kept_and_its_score(
    train, validation_losses, tmp_path
):
    end = r"finished after step 18 in \d+ s: "
    validation_losses(9, 7, 5, 6)
    best = train(tmp_path / "best").out
    assert re.search(end + rf"the best model is kept, of step 12 \(dev loss 5\), in {tmp_path / 'best'}\n$", best)
    validation_losses(9, 7)
    last = train(tmp_path / "last", "--only-save-last", "--eval-interval", 99).out
    assert re.search(end + rf"the last model is kept, of step 18, in {tmp_path / 'last'}\n$", last)


def test_stage_1_begins_and_ends_with_the_same_kind_of_lines(train_field, world, tmp_path):
    said = train_field(tmp_path / "field", "--total-iters", 2).out.splitlines()
    assert said[0].startswith("velocity field: 1 process on cpu, ") and said.index("started") < 10
    assert f"training data: {world.store}, 26 rows, 752 tokens" in said
    assert re.fullmatch(r"finished after step 2 in \d+ s: the last model is kept, of step 2, in .*", said[-1])


@pytest.mark.parametrize("name", ["adaptive-srkl-contra", FIELDS[0]])
def test_an_epoch_has_one_meaning_in_every_line(name, world, pairs, run, tmp_path):
    """A step logged the epoch it belonged to, a validation the passes so far: 2 and 1.111 at the same moment."""
    options = ["--epochs", 2, "--eval-interval", 5, "--log-interval", 5]
    assert run(*command_of(world, pairs, name, tmp_path / "run", *options)).status == 0
    log = read_log(tmp_path / "run")
    if name != FIELDS[0]:
        assert {"loss", "dev_loss", "velocity_field_loss"} <= {name for record in log for name in record}
    assert log and all(record["epoch"] == record["step"] / 6 for record in log)


@pytest.mark.slow  # a process of its own imports everything
def test_a_run_without_deepspeed_does_not_hear_of_it(world, tmp_path):
    command = [sys.executable, "finetune.py", *world.training(tmp_path / "run", "--total-iters", 1)]
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "accelerator" not in done.stdout + done.stderr


def test_bug_deepspeed_warned_of_the_accelerator_in_runs_without_it(run, world, monkeypatch, tmp_path):
    """Transformers imports DeepSpeed to save a model, and it warned unless this variable was set."""
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    assert run(finetune.main, world.training(tmp_path / "run", "--dry-run")).status == 0
    assert os.environ["DS_ACCELERATOR"] == "cpu"


def test_times_and_counts_are_short():
    assert [duration(seconds) for seconds in (41.2, 125, 12_010)] == ["41 s", "2 min 05 s", "3 h 20 min"]
    assert [short(number) for number in (12, 22_800, 124_439_808, 1_557_611_200)] == ["12", "22.8 k", "124 M", "1.56 G"]
