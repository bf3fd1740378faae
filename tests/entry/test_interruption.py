"""A signal, as cluster schedulers send it, costs a training run nothing; other scripts end at once."""

import os
import signal
import subprocess
import time

import pytest

import evaluate
import finetune
from distillm.models.generation import ResponseGenerator
from distillm.training.validation import Validator
from tests.entry.curves import steady_command, without_dropout
from tests.entry.every_method import FIELDS, command_of
from tests.entry.outputs import contents, read_log, result, saved_step
from tests.entry.processes import (
    ENVIRONMENT,
    ROOT,
    STOPPED,
    TORCHRUN,
    Place,
    at_call,
    call,
    in_child,
    in_step,
    run_on,
    send,
    wait_for,
)
from tools import generate_responses

# 12 steps, two epochs; a log line spans 4 steps, so that most interruptions fall inside one.
OPTIONS = ["--epochs", 2, "--log-interval", 4]
VALIDATION = ["--eval-gen", "--eval-batch-size", 3]
CONTRA, PAIRS = "adaptive-srkl-contra", "distillm2-v1"
IN_RESPONSE = ResponseGenerator, "_respond_batch"
# What is trained, and where the signal comes. Steps 7 to 12 of CONTRA's are those of a refresh.
PLACES: dict[str, tuple[str, Place]] = {
    "in the first step": (CONTRA, in_step(1)),
    "in a step inside a log interval": (CONTRA, in_step(15)),
    "in the last step": (CONTRA, in_step(18)),
    "in the loss of a validation": (CONTRA, (Validator, "_loss", 2)),
    "in the responses of a validation": (CONTRA, (Validator, "_generation_scores", 2)),
    "in the validation before training": (CONTRA, (Validator, "_loss", 1)),
    "in a refresh": (CONTRA, in_step(8)),
    "in the last step of a refresh": (CONTRA, in_step(11)),
    "in the regeneration of responses": (PAIRS, (*IN_RESPONSE, 10)),
    "in the first step of stage 1": (FIELDS[0], in_step(1)),
    "in a step of stage 1": (FIELDS[0], in_step(5)),
    "near the end of stage 1": (FIELDS[0], in_step(11)),
}


@pytest.fixture(scope="module")
def command(world, pairs):
    """Return script and options of a training run by its kind."""

    def make(kind, save):
        return command_of(world, pairs, kind, save, *OPTIONS, *(VALIDATION if kind not in FIELDS else []))

    return make


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    """The result of a training run that got no signal."""
    results = {}

    def run_once(kind):
        if kind not in results:
            save = tmp_path_factory.mktemp("runs") / "whole"
            assert call(*command(kind, save)) == 0
            results[kind] = result(save)
        return results[kind]

    return run_once


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_ends_a_training_with_a_checkpoint_from_which_it_goes_on_bitwise(
    place, command, undisturbed, run, tmp_path
):
    kind, where = PLACES[place]
    save, number = tmp_path / "run", signal.SIGUSR1 if "stage 1" in place else signal.SIGTERM
    expected = undisturbed(kind)
    with at_call(*where, send(number)):
        stopped = run(*command(kind, save))
    assert stopped.status == STOPPED
    assert "stopped by a signal after step" in stopped.out and "Traceback" not in stopped.err
    assert (saved_step(save) is None) == (place == "in the validation before training")
    assert run(*command(kind, save)).status == 0
    assert result(save) == expected


def test_a_run_interrupted_by_every_step_and_piece_of_work_ends_bitwise_the_same(command, undisturbed, tmp_path):
    """Each start takes one step (or a batch of validation, or a step of the field) and is asked to stop."""
    starts, status = 0, STOPPED
    while status == STOPPED:
        starts += 1
        with at_call(*in_step(1), send(signal.SIGUSR1)):
            status = call(*command(CONTRA, tmp_path / "run"))
    assert status == 0 and starts > 10
    assert result(tmp_path / "run") == undisturbed(CONTRA)


@pytest.mark.parametrize(
    "place", ["in a step inside a log interval", "in the loss of a validation", "in a refresh", "in a step of stage 1"]
)
def test_all_processes_stop_at_the_same_step_though_one_alone_was_signalled(place, world, pairs, tmp_path, monkeypatch):
    kind, (owner, method, _) = PLACES[place]
    due = {"in the loss of a validation": 2, "in a refresh": 5}.get(place, 2)  # of 3 steps in an epoch
    more = ["--log-interval", 4, "--epochs", 2] + (["--eval-interval", 2] if kind == CONTRA else [])
    without_dropout(monkeypatch)
    whole, signalled = (steady_command(world, pairs, kind, tmp_path / save, 2, 1, more) for save in ("whole", "run"))
    run_on(2, *whole)
    signal_one = lambda: os.environ["RANK"] == "1" and os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    with at_call(owner, method, due, signal_one):
        run_on(2, *signalled, STOPPED)
    assert "stopped by a signal after step" in (tmp_path / "run" / "training.log").read_text()
    run_on(2, *signalled)
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_a_signal_while_models_are_loaded_ends_a_training_in_one_line(world, run, tmp_path):
    with at_call(finetune, "load_models", 1, send(signal.SIGTERM)):
        stopped = run(finetune.main, world.training(tmp_path / "run"))
    assert (stopped.status, stopped.err) == (STOPPED, "finetune.py: ended by SIGTERM\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_an_evaluation_at_once_with_nothing_half_written(number, world, run, tmp_path):
    save = tmp_path / "results"
    with at_call(*IN_RESPONSE, 2, send(number)):
        stopped = run(evaluate.main, world.evaluation(save, "--eval-batch-size", 4))
    assert stopped.status == STOPPED
    assert f"evaluate.py: ended by {number.name}\n" in stopped.err and "Traceback" not in stopped.err
    assert contents(save) == {}


def test_a_signal_ends_the_generation_of_responses_at_once_and_it_goes_on_the_same(world, run, tmp_path):
    main = generate_responses.main
    assert run(main, world.answering(tmp_path / "whole")).status == 0
    with at_call(*IN_RESPONSE, 6, send(signal.SIGTERM)):
        stopped = run(main, world.answering(tmp_path / "run"))
    assert stopped.status == STOPPED and "generate_responses.py: ended by SIGTERM\n" in stopped.err
    assert len((tmp_path / "run.partial").read_bytes().splitlines()) == 8
    assert run(main, world.answering(tmp_path / "run")).status == 0
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_process_that_is_signalled_from_outside_ends_within_seconds(world, tmp_path):
    save = tmp_path / "run"
    child = in_child(lambda: call(finetune.main, world.training(save, "--total-iters", 100_000)))
    while not (save / "log.jsonl").exists() or "lr" not in (save / "log.jsonl").read_text():
        time.sleep(0.05)
    os.kill(child, signal.SIGTERM)
    signalled = time.monotonic()
    assert wait_for(child) == STOPPED and time.monotonic() - signalled < 5
    assert saved_step(save) >= read_log(save)[-1]["step"]


@pytest.mark.slow
def test_torchrun_hands_the_signal_on_and_its_processes_save_before_it_kills_them(world, pairs, tmp_path):
    save = tmp_path / "run"
    _, options = steady_command(world, pairs, "kd", save, 2, 1, ["--total-iters", 100_000])
    launcher = [*TORCHRUN, "--nproc_per_node", "2", "--standalone", "finetune.py"]
    process = subprocess.Popen([*launcher, *options], cwd=ROOT, env=ENVIRONMENT)
    while not (save / "log.jsonl").exists():
        time.sleep(0.5)
    process.terminate()
    process.wait(timeout=60)
    assert "stopped by a signal after step" in (save / "training.log").read_text()
    assert saved_step(save) is not None
