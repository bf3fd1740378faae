"""A signal to the shell of a script or run, or to its whole group, reaches the trainings; the shell waits, leaves with
128 + its number, starts nothing further and leaves no process behind."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.scripts.commands import REPOSITORY, environment

# A training run that finishes its step when asked to stop; every other program makes its folder and is done.
PROGRAM = """#!{python} -SE
import os, pathlib, signal, sys, time
def note(*words):
    with open({log!r}, "a") as log:
        print(*words, os.getpid(), file=log, flush=True)
words = sys.argv[1:]
if "check_install" in words[0]:
    sys.exit()
trains = any(word.endswith(("finetune.py", "train_velocity_field.py")) for word in words)
if trains and os.environ["LONG"] in words[words.index("--save") + 1]:
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(note("asked")))
    note("training")
    while not asked:
        time.sleep(0.01)
    time.sleep(0.3)
    note("left")
    sys.exit(143)
note("done")
for option in ("--save", "--processed-data-dir"):
    if option in words and "table" not in words[0] and "plot" not in words[0]:
        folder = pathlib.Path(words[words.index(option) + 1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").touch()
"""
EXISTING = (
    "checkpoints/tiny/teacher",
    "checkpoints/tiny/student",
    "processed_data/dolly/full/tiny",
    "data/distillm2/tiny/formatted",
)
LEAF = ("scripts/tiny/init/init_student.sh", 1)
HUB_MODEL = {"CKPT": "owner/model"}


@pytest.fixture
def start(tmp_path):
    """Start a script of a copied tree in a session of its own; return when its training is running."""
    for folder in ("scripts", "runs"):
        shutil.copytree(REPOSITORY / folder, tmp_path / "copy" / folder)
    for name in EXISTING:
        (tmp_path / "copy" / name).mkdir(parents=True)
        (tmp_path / "copy" / name / "config.json").touch()
    log = tmp_path / "log"
    for name in ("python3", "torchrun"):
        program = tmp_path / "env" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(PROGRAM.format(python=sys.executable, log=str(log)))
        program.chmod(0o755)

    started = []

    def start(script, trainings, *arguments, long="results", **variables):
        log.write_text("")
        process = subprocess.Popen(
            ["bash", script, *arguments],
            cwd=tmp_path / "copy",
            env=environment(VIRTUAL_ENV=str(tmp_path / "env"), LONG=long, **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        started.append(process)
        deadline = time.monotonic() + 20
        while log.read_text().count("training") < trainings:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=20)


def events(log):
    return [line.split()[0] for line in log.read_text().splitlines()]


def assert_stops(process, number, log, trainings):
    """A process that survives would keep the pipe open."""
    before = events(log).count("done")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + number, output
    assert events(log).count("left") == trainings
    assert events(log).count("asked") == trainings, "each is told once"
    assert events(log).count("training") == trainings and events(log).count("done") == before, "something was started"
    for line in log.read_text().splitlines():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[1]), 0)


@pytest.mark.parametrize("to", [os.kill, os.killpg], ids=["shell", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_reaches_the_training_of_a_script_and_the_shell_waits_for_it(number, to, start, tmp_path):
    process = start(*LEAF, **HUB_MODEL)
    to(process.pid, number)
    assert_stops(process, number, tmp_path / "log", 1)


@pytest.mark.parametrize("to", [os.kill, os.killpg], ids=["shell", "group"])
@pytest.mark.parametrize(
    ("run", "long"),
    [("runs/tiny/distillm_contra.sh", "results"), ("runs/tiny/all.sh", "fdd/student")],
    ids=["teacher-and-student", "two-methods"],
)
def test_a_signal_reaches_the_trainings_that_a_run_has_at_the_same_time(run, long, to, start, tmp_path):
    process = start(run, 2, long=long)
    to(process.pid, signal.SIGTERM)
    assert_stops(process, signal.SIGTERM, tmp_path / "log", 2)


def test_several_processes_of_one_training_are_told_once_through_their_launcher(start, tmp_path):
    """A second signal would end torchrun while it stops its processes, before they have ended."""
    process = start(*LEAF, ".", "2012", "2", **HUB_MODEL)
    os.killpg(process.pid, signal.SIGUSR1)
    assert_stops(process, signal.SIGUSR1, tmp_path / "log", 1)


def test_a_second_signal_changes_nothing(start, tmp_path):
    process = start(*LEAF, **HUB_MODEL)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.1)
    assert_stops(process, signal.SIGTERM, tmp_path / "log", 1)


def test_a_training_that_is_signalled_itself_ends_its_run(start, tmp_path):
    process = start("runs/tiny/distillm_contra.sh", 1, long="velocity_field")
    training = next(line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("training"))
    before = events(tmp_path / "log").count("done")
    os.kill(int(training.split()[1]), signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert events(tmp_path / "log").count("done") == before
