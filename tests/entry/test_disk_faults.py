"""A full or read-only disk ends a run in one line and costs nothing that was saved; the run can resume later."""

import builtins
import errno
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

import finetune
import train_velocity_field
from data_utils import files
from tests.entry.conftest import Outcome, error_line
from tests.entry.outputs import result, saved_step
from tests.entry.processes import call, in_child, wait_for
from tools import generate_responses, keep_best_run

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a failing write raises it: without a path
FULL_WEIGHTS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
FULL_TOKENIZER = Exception("No space left on device (os error 28)")  # tokenizers raises nothing more specific
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS), "somewhere")
WEIGHTS = safetensors.torch, "serialize_file"

# What fails on which path, and how; what the line names; the newest checkpoint then (every 2 of 6 steps).
FAULTS = {
    "args.json": (Path, "write_text", ".args.json", FULL, "", None),
    "weights of a checkpoint": (*WEIGHTS, "step-00000004.tmp/engine/weights", FULL_WEIGHTS, "checkpoints/step-", 2),
    "weights of its field": (*WEIGHTS, "step-00000004.tmp/velocity_field/", FULL_WEIGHTS, "checkpoints/step-", 2),
    "a flush of a checkpoint": (os, "fsync", "step-00000004.tmp", FULL, "checkpoints/step-00000004", 2),
    "removal of the older checkpoint": (shutil, "rmtree", "/step-00000002", READ_ONLY, "checkpoints/step-00000004", 4),
    "name of a checkpoint": (Path, "rename", "step-00000004.tmp", READ_ONLY, "checkpoints/step-00000004", 2),
    "a log line": (builtins, "open", "log.jsonl", FULL, "log.jsonl", 2),
    "the best model": (*WEIGHTS, ".best.", FULL_WEIGHTS, "best", 4),
    "its tokenizer": (PreTrainedTokenizerBase, "save_pretrained", ".best.", FULL_TOKENIZER, "best", 4),
    "what is kept": (Path, "replace", "best/model", READ_ONLY, "", 4),
}


@pytest.fixture(scope="module")
def options(world):
    return lambda save: world.training(save, "--save-interval", 2, "--epochs", 1, type="rkl-contra")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, options):
    save = tmp_path_factory.mktemp("runs") / "whole"
    assert call(finetune.main, options(save)) == 0
    return result(save)


def path_in(argument):
    """Return the path of a path or of an open file's number."""
    if isinstance(argument, int):
        return os.readlink(f"/proc/self/fd/{argument}")
    return str(argument) if isinstance(argument, str | Path) else ""


def let_fail(patch, owner, method, where, error, begins):
    """Make the calls of a method that get such a path raise, once `begins` is true."""
    original = getattr(owner, method)

    def call_or_raise(*arguments, **keywords):
        if any(where in path_in(argument) for argument in arguments) and begins():
            raise error
        return original(*arguments, **keywords)

    patch.setattr(owner, method, call_or_raise)


def assert_names_path_and_advice(outcome, path, *words):
    line = error_line(outcome)
    assert line.split(".py")[0].isidentifier(), "on a line of its own"
    assert f"cannot write {path}" in line
    for word in (*words, "run the same command again", "is intact"):
        assert word in line


@pytest.mark.parametrize("place", FAULTS)
def test_a_failing_write_is_one_line_and_the_previous_checkpoint_stays(
    place, options, run, uninterrupted, monkeypatch, tmp_path
):
    owner, method, where, error, named, step = FAULTS[place]
    save = tmp_path / "save"
    with monkeypatch.context() as patch:
        let_fail(patch, owner, method, where, error, lambda: step is None or saved_step(save) is not None)
        outcome = run(finetune.main, options(save))
    assert_names_path_and_advice(outcome, save / named, "make it writable" if error is READ_ONLY else "make room there")
    assert not list(save.rglob(".*.tmp")), "a full disk is left fuller"
    assert saved_step(save) == step
    assert run(finetune.main, options(save)).status == 0
    assert step is None or f"resumed after step {step}\n" in (save / "training.log").read_text()
    assert result(save) == uninterrupted


# ---- a limit that the system enforces, down in the libraries that write -------------------------------------------


@pytest.fixture
def limited(capfd):
    """Run a script in a process whose files may have `size` bytes: a write goes through in part, then fails."""

    def run_and_listen(main, script_options, size):
        def act():
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            return call(main, script_options)

        capfd.readouterr()
        status = wait_for(in_child(act))
        return Outcome(status, *capfd.readouterr())

    return run_and_listen


@pytest.mark.parametrize(
    ("size", "path"), [(600, ""), (40_000, "checkpoints/step-00000002")], ids=["options", "weights"]
)
def test_bug_a_file_that_the_system_cuts_off_is_one_line(size, path, options, limited, run, uninterrupted, tmp_path):
    """It was a traceback: safetensors and tokenizers do not raise an OSError."""
    save = tmp_path / "save"
    assert_names_path_and_advice(limited(finetune.main, options(save), size), save / path, "File too large", "ulimit")
    assert run(finetune.main, options(save)).status == 0
    assert result(save) == uninterrupted


def test_a_velocity_field_that_the_system_cuts_off_is_one_line(world, limited, train_field, tmp_path):
    save, whole, more = tmp_path / "save", tmp_path / "whole", ["--save-interval", 2, "--total-iters", 4]
    outcome = limited(train_velocity_field.main, world.stage_1(save, *more), 20_000)
    assert_names_path_and_advice(outcome, save / "checkpoints" / "step-00000002", "ulimit")
    assert train_field(save, *more).status == train_field(whole, *more).status == 0
    assert result(save) == result(whole)


def test_responses_that_the_system_cuts_off_in_a_line_go_on_with_the_first_row_that_is_missing(
    world, limited, run, tmp_path
):
    output, whole, main = tmp_path / "out.jsonl", tmp_path / "whole.jsonl", generate_responses.main
    assert run(main, world.answering(whole)).status == 0
    size = whole.stat().st_size - 100
    assert size > (tmp_path / "whole.jsonl.args.json").stat().st_size, "the run would end before"
    assert_names_path_and_advice(limited(main, world.answering(output), size), f"{output}.partial", "ulimit")
    assert (tmp_path / "out.jsonl.partial").stat().st_size == size
    assert run(main, world.answering(output)).status == 0
    assert output.read_bytes() == whole.read_bytes()


def test_bug_a_copy_of_a_run_that_the_system_cuts_off_is_one_line(limited, tmp_path):
    """It was a list of tuples: copytree raises an OSError without a number."""
    trained = tmp_path / "run"
    trained.mkdir()
    (trained / "finished.json").write_text('{"best": 1.0}')
    (trained / "model.safetensors").write_bytes(bytes(5_000))
    outcome = limited(keep_best_run.main, ["--runs", trained, "--save", tmp_path / "best"], 1_000)
    assert_names_path_and_advice(outcome, tmp_path / "best", "File too large", "ulimit")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_copytree_cannot_read_is_no_full_disk(number):
    unreadable = "a", "b", str(OSError(number, "no", "a"))
    assert files.disk_error(shutil.Error([unreadable])) == 0
    assert files.disk_error(shutil.Error([unreadable, ("c", "d", str(FULL))])) == errno.ENOSPC


# ---- a small disk, where the tests may mount one -------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk with room for one checkpoint, not two, and a way to remount it."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*how):
        return subprocess.run(["mount", *how, disk], capture_output=True).returncode == 0

    if not shutil.which("mount") or not mount("-t", "tmpfs", "-o", "size=600k", "none"):
        pytest.skip("no right to mount")
    yield disk, mount
    subprocess.run(["umount", disk], check=True)


def test_a_run_on_a_disk_that_is_full_then_read_only_goes_on_when_it_is_neither(
    small_disk, options, run, uninterrupted
):
    disk, mount = small_disk
    save = disk / "save"
    outcome = run(finetune.main, options(save))
    assert_names_path_and_advice(outcome, save / "checkpoints/step-00000004", "No space left", "make room")
    assert mount("-o", "remount,ro,size=8m")
    outcome = run(finetune.main, options(save))
    assert_names_path_and_advice(outcome, save, "Read-only file system", "make it writable")
    assert mount("-o", "remount,rw")
    assert run(finetune.main, options(save)).status == 0
    assert "resumed after step 2\n" in (save / "training.log").read_text()
    assert result(save) == uninterrupted
