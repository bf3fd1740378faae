"""A signal, as a cluster's scheduler sends it, costs a training nothing; other scripts end at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evaluate
import finetune
import train_velocity_field
from contra.training import FieldTrainer
from distillm.models.generation import ResponseGenerator
from distillm.training.trainer import Trainer
from distillm.training.validation import Validator
from tests.entry.conftest import call, in_child, wait_for
from tests.entry.curves import steady_run
from tests.entry.every_method import make_pairs, options_of
from tests.entry.test_resume import result
from tools import generate_responses

ROOT = Path(__file__).resolve().parents[2]
STOPPED = 143
# 12 steps, two epochs; a log line spans 4 steps, so that most interruptions fall inside one.
OPTIONS = ["--epochs", 2, "--log-interval", 4, "--eval-gen", "--eval-batch-size", 3]
# Where the signal comes: the owner of a method, its name, and at which call of it.
CONTRA, PAIRS = "adaptive-srkl-contra", "distillm2-v1"
PLACES: dict[str, tuple[str, Any, str, int]] = {
    "in the first step": (CONTRA, Trainer, "_train_step", 1),
    "in a step inside a log interval": (CONTRA, Trainer, "_train_step", 9),
    "in the last step": (CONTRA, Trainer, "_train_step", 12),
    "in the loss of a validation": (CONTRA, Validator, "_loss", 2),
    "in the responses of a validation": (CONTRA, Validator, "_generation_scores", 2),
    "in the validation before training": (CONTRA, Validator, "_loss", 1),
    "in a refresh": (CONTRA, FieldTrainer, "train_step", 3),
    "in the last step of a refresh": (CONTRA, FieldTrainer, "train_step", 6),
    "in the regeneration of responses": (PAIRS, ResponseGenerator, "_respond_batch", 10),
}


@pytest.fixture(scope="module")
def pairs(world, tmp_path_factory, call_script):
    return make_pairs(world, tmp_path_factory.mktemp("pairs"), call_script)


@pytest.fixture
def signal_at(monkeypatch) -> Callable[..., None]:
    """Send this process a signal when it calls a method for the n-th time."""

    def prepare(owner: Any, method: str, due: int, number: int = signal.SIGTERM, rank: str | None = None) -> None:
        original, calls = getattr(owner, method), 0

        def act(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == due and rank in (None, os.environ.get("RANK")):
                os.kill(os.getpid(), number)
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, method, act)

    return prepare


@pytest.fixture(scope="module")
def undisturbed(world, pairs, call_script, tmp_path_factory):
    """The folder of a method's run that no signal reached."""
    folders = {}

    def run_once(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("runs") / "whole"
            assert call_script(finetune.main, options_of(world, pairs, kind, folders[kind], *OPTIONS)) == 0
        return folders[kind]

    return run_once


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_ends_a_training_with_a_checkpoint_from_which_it_goes_on_bitwise(
    place, world, pairs, undisturbed, signal_at, run, contents, tmp_path
):
    kind, *where = PLACES[place]
    options = options_of(world, pairs, kind, tmp_path / "run", *OPTIONS)
    expected = result(contents, undisturbed(kind))
    signal_at(*where)
    stopped = run(finetune.main, options)
    assert stopped.status == STOPPED
    assert "stopped by a signal after step" in stopped.out and "Traceback" not in stopped.err
    before_training = place == "in the validation before training"
    assert (tmp_path / "run" / "checkpoints" / "latest").exists() != before_training
    assert run(finetune.main, options).status == 0
    assert result(contents, tmp_path / "run") == expected


def test_a_run_interrupted_by_every_step_and_piece_of_work_ends_bitwise_the_same(
    world, pairs, undisturbed, call_script, contents, tmp_path, monkeypatch
):
    """Each start takes one step (or a batch of validation, or a step of the field) and is asked to stop."""
    options = options_of(world, pairs, CONTRA, tmp_path / "run", *OPTIONS)
    expected = result(contents, undisturbed(CONTRA))
    for owner, method in ((Trainer, "_train_step"), (FieldTrainer, "train_step")):
        original = getattr(owner, method)

        def act(*arguments, original=original):
            outcome = original(*arguments)
            os.kill(os.getpid(), signal.SIGUSR1)
            return outcome

        monkeypatch.setattr(owner, method, act)
    starts = 0
    while call_script(finetune.main, options) == STOPPED:
        starts += 1
    assert starts >= 10 and result(contents, tmp_path / "run") == expected


@pytest.mark.parametrize("place", ["in a step inside a log interval", "in the loss of a validation", "in a refresh"])
def test_all_processes_stop_at_the_same_step_though_one_alone_was_signalled(
    place, world, pairs, signal_at, run_on, contents, tmp_path, monkeypatch
):
    kind, *where = PLACES[place]
    whole, save = tmp_path / "whole", tmp_path / "run"
    more = ["--log-interval", 4, "--epochs", 2, "--eval-interval", 2]
    run_on(2, finetune.main, steady_run(world, pairs, kind, whole, 2, 1, more))
    options = steady_run(world, pairs, kind, save, 2, 1, more)
    with monkeypatch.context():
        where[-1] = min(where[-1], 3)
        signal_at(*where, rank="1")
        run_on(2, finetune.main, options, STOPPED)
    monkeypatch.undo()
    assert "stopped by a signal after step" in (save / "training.log").read_text()
    run_on(2, finetune.main, options)
    assert result(contents, save) == result(contents, whole)


@pytest.mark.parametrize(("call_number", "number"), [(1, signal.SIGTERM), (5, signal.SIGUSR1), (12, signal.SIGTERM)])
def test_a_signal_ends_stage_1_with_a_checkpoint_from_which_it_goes_on_bitwise(
    call_number, number, world, signal_at, run, contents, tmp_path
):
    whole, save = tmp_path / "whole", tmp_path / "run"
    assert run(train_velocity_field.main, world.stage_1(whole, "--log-interval", 4)).status == 0
    signal_at(FieldTrainer, "train_step", call_number, number)
    options = world.stage_1(save, "--log-interval", 4)
    stopped = run(train_velocity_field.main, options)
    assert stopped.status == STOPPED and "stopped by a signal after step" in stopped.out
    assert run(train_velocity_field.main, options).status == 0
    assert result(contents, save) == result(contents, whole)


def test_a_signal_while_models_are_loaded_ends_a_training_in_one_line(world, signal_at, run, tmp_path):
    signal_at(finetune, "load_student", 1)
    stopped = run(finetune.main, world.training(tmp_path / "run"))
    assert (stopped.status, stopped.err) == (STOPPED, "finetune.py: ended by SIGTERM\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_an_evaluation_at_once_with_nothing_half_written(
    number, world, signal_at, run, contents, tmp_path
):
    save = tmp_path / "results"
    signal_at(ResponseGenerator, "_respond_batch", 2, number)
    options = world.evaluation(save, "--eval-batch-size", 4)
    stopped = run(evaluate.main, options)
    assert stopped.status == STOPPED
    assert f"evaluate.py: ended by {number.name}\n" in stopped.err and "Traceback" not in stopped.err
    assert contents(save) == {}
    assert run(evaluate.main, options).status == 0


def test_a_signal_ends_the_generation_of_responses_at_once_and_it_goes_on_the_same(
    world, signal_at, call_script, run, tmp_path
):
    def options(output):
        words = ["--data", world.data / "dolly" / "train.jsonl", "--model-path", world.student, "--output", output]
        return [*words, "--eval-batch-size", 2, "--max-prompt-length", 48, "--max-new-tokens", 16]

    assert call_script(generate_responses.main, options(tmp_path / "whole")) == 0
    signal_at(ResponseGenerator, "_respond_batch", 6)
    stopped = run(generate_responses.main, options(tmp_path / "run"))
    assert stopped.status == STOPPED and "generate_responses.py: ended by SIGTERM\n" in stopped.err
    assert len((tmp_path / "run.partial").read_bytes().splitlines()) == 8
    assert run(generate_responses.main, options(tmp_path / "run")).status == 0
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_process_that_is_signalled_from_outside_ends_within_seconds(
    world, call_script, contents, tmp_path, monkeypatch
):
    original = Trainer._train_step
    monkeypatch.setattr(Trainer, "_train_step", lambda trainer, step: time.sleep(0.1) or original(trainer, step))
    options = world.training(tmp_path / "run", "--total-iters", 300)
    child = in_child(lambda: call(finetune.main, options))
    log = tmp_path / "run" / "log.jsonl"
    while not log.exists() or "lr" not in log.read_text():
        time.sleep(0.05)
    os.kill(child, signal.SIGTERM)
    signalled = time.monotonic()
    assert wait_for(child) == STOPPED and time.monotonic() - signalled < 5
    step = json.loads(log.read_text().splitlines()[-1])["step"]
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() >= f"step-{step:08d}"


@pytest.mark.slow
def test_torchrun_hands_the_signal_on_and_its_processes_save_before_it_kills_them(world, pairs, tmp_path):
    save = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    options = steady_run(world, pairs, "kd", save, 2, 1, ["--total-iters", 100_000])
    process = subprocess.Popen(
        [*launcher, "finetune.py", *options], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while not (save / "log.jsonl").exists():
        time.sleep(0.5)
    process.terminate()
    process.wait(timeout=60)
    assert "stopped by a signal after step" in (save / "training.log").read_text()
    assert (save / "checkpoints" / "latest").exists()
