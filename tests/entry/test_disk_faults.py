"""A disk that is full or read-only ends a run in one line, costs nothing that was saved, and the run goes on later."""

import errno
import os
import re
import resource
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import finetune
import train_velocity_field
from contra import field_files
from data_utils import files
from distillm.run import folder as run_folder
from distillm.run import loggers as reporting
from distillm.training import checkpoint, engine
from distillm.training.checkpoint import Checkpoints
from tests.entry.conftest import in_child, wait_for
from tools import generate_responses, keep_best_run

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a failing write says it: without a path
FULL_WEIGHTS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
FULL_TOKENIZER = Exception("No space left on device (os error 28)")  # tokenizers raises nothing finer
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS), "somewhere")

# Which call fails, with what; what the line names; the newest checkpoint that then stands (every 4 of 12 steps).
FAULTS = {
    "args.json": (Path, "write_text", 1, FULL, "", None),
    "weights of a checkpoint": (engine, "save_file", 4, FULL_WEIGHTS, "checkpoints/step-00000008", 4),
    "weights of its field": (field_files, "save_file", 5, FULL_WEIGHTS, "checkpoints/step-00000008", 4),
    "a flush of a checkpoint": (checkpoint, "fsync_tree", 2, FULL, "checkpoints/step-00000008", 4),
    "removal of the older checkpoint": (Checkpoints, "_clean", 2, READ_ONLY, "checkpoints/step-00000008", 8),
    "name of a checkpoint": (Path, "rename", 2, READ_ONLY, "checkpoints/step-00000008", 4),
    "a log line": (reporting, "open", 21, FULL, "log.jsonl", 4),
    "the best model": (PreTrainedModel, "save_pretrained", 1, FULL_WEIGHTS, "best", 4),
    "its tokenizer": (PreTrainedTokenizerBase, "save_pretrained", 1, FULL_TOKENIZER, "best", 4),
    "what is kept": (Path, "replace", 2, READ_ONLY, "", 8),
}


@pytest.fixture(scope="module")
def options(world):
    return lambda save: world.training(save, "--save-interval", 4, "--epochs", 2, type="rkl-contra")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, options, call_script):
    save = tmp_path_factory.mktemp("runs") / "whole"
    assert call_script(finetune.main, options(save)) == 0
    return save


@pytest.fixture
def fails(monkeypatch):
    """Let the n-th call of a method raise, and every later one: a disk does not become empty by itself."""

    def break_calls(patch, owner, method, count, error):
        original, calls = getattr(owner, method, open), []

        def call(*arguments, **keywords):
            calls.append(arguments)
            if len(calls) >= count:
                raise error
            return original(*arguments, **keywords)

        patch.setattr(owner, method, call, raising=False)

    return break_calls


def assert_one_line(outcome, path, *words):
    """What a run said last names the path and what to do."""
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    (line,) = [line for line in outcome.err.splitlines() if ".py: error:" in line]
    assert re.match(r"\w+\.py: error: ", line), "on a line of its own"
    assert f"cannot write {path}" in line
    for word in (*words, "run the same command again", "still stands"):
        assert word in line


def result(contents, save):
    return {name: data for name, data in contents(save).items() if name not in ("args.json", "training.log")}


@pytest.mark.parametrize("place", FAULTS)
def test_a_failing_write_is_one_line_and_the_previous_checkpoint_stands(
    place, fails, options, run, uninterrupted, contents, monkeypatch, tmp_path
):
    owner, method, count, error, named, step = FAULTS[place]
    save = tmp_path / "save"
    with monkeypatch.context() as patch:
        fails(patch, owner, method, count, error)
        outcome = run(finetune.main, options(save))
    advice = "make it writable" if error is READ_ONLY else "make room there"
    assert_one_line(outcome, save / named, advice)
    checkpoints = save / "checkpoints"
    assert not list(save.rglob(".*.tmp")), "a full disk is left fuller"
    if step is None:
        assert not checkpoints.exists()
    else:
        assert (checkpoints / "latest").read_text() == f"step-{step:08d}\n"
    assert run(finetune.main, options(save)).status == 0
    assert step is None or f"resumed after step {step}\n" in (save / "training.log").read_text()
    assert result(contents, save) == result(contents, uninterrupted)


# ---- a limit that the system enforces, down in the libraries that write -------------------------------------------


def run_limited(main, script_options, call_script, size):
    """Run a script in a process whose files may have `size` bytes: a write goes through in part, then fails."""

    def act():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return call_script(main, script_options)

    return wait_for(in_child(act))


@pytest.fixture
def limited(call_script, capfd):
    """Run a limited script: its status and what it said."""

    def run_and_listen(main, script_options, size):
        capfd.readouterr()
        status = run_limited(main, script_options, call_script, size)
        return SimpleNamespace(status=status, err=capfd.readouterr().err)

    return run_and_listen


@pytest.mark.parametrize(
    ("size", "path"), [(600, ""), (40_000, "checkpoints/step-00000004")], ids=["options", "weights"]
)
def test_bug_a_file_that_the_system_cuts_off_is_one_line(
    size, path, options, limited, run, uninterrupted, contents, tmp_path
):
    """It was a traceback: safetensors and tokenizers raise no OSError."""
    save = tmp_path / "save"
    outcome = limited(finetune.main, options(save), size)
    assert_one_line(outcome, save / path, "File too large", "ulimit")
    assert run(finetune.main, options(save)).status == 0
    assert result(contents, save) == result(contents, uninterrupted)


def test_a_velocity_field_that_the_system_cuts_off_is_one_line(world, limited, train_field, contents, tmp_path):
    save, whole = tmp_path / "save", tmp_path / "whole"
    assert_one_line(limited(train_velocity_field.main, world.stage_1(save), 20_000), save / "checkpoint", "ulimit")
    assert train_field(save).status == train_field(whole).status == 0
    assert result(contents, save) == result(contents, whole)


def test_responses_that_the_system_cuts_off_in_a_line_go_on_with_the_first_row_that_is_missing(
    world, limited, run, tmp_path
):
    def options(output):
        words = ["--data", world.data / "dolly" / "train.jsonl", "--model-path", world.student, "--output", output]
        return [*words, "--eval-batch-size", 2, "--max-prompt-length", 48, "--max-new-tokens", 16]

    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    assert run(generate_responses.main, options(whole)).status == 0
    size = whole.stat().st_size - 100
    assert size > (tmp_path / "whole.jsonl.args.json").stat().st_size, "the run would end before"
    assert_one_line(limited(generate_responses.main, options(output), size), f"{output}.partial", "ulimit")
    assert (tmp_path / "out.jsonl.partial").stat().st_size == size
    assert run(generate_responses.main, options(output)).status == 0
    assert output.read_bytes() == whole.read_bytes()


@pytest.fixture
def trained(tmp_path):
    """A finished run with a file that a limit of 1,000 bytes cuts off."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "finished.json").write_text('{"best": 1.0}')
    (folder / "model.safetensors").write_bytes(b"0" * 5_000)
    return folder


def test_bug_a_copy_of_a_run_that_the_system_cuts_off_is_one_line(trained, limited, tmp_path):
    """It was a list of tuples: what copytree raises is an OSError without a number."""
    outcome = limited(keep_best_run.main, ["--runs", trained, "--save", tmp_path / "best"], 1_000)
    assert_one_line(outcome, tmp_path / "best", "File too large", "ulimit")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_copytree_cannot_read_is_no_full_disk(number):
    assert files.disk_error(shutil.Error([("a", "b", str(OSError(number, "no", "a")))])) == 0
    full = [("a", "b", str(OSError(number, "no", "a"))), ("c", "d", str(FULL))]
    assert files.disk_error(shutil.Error(full)) == errno.ENOSPC


# ---- a small disk, where the tests may mount one -------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk that holds a model and a checkpoint, but not two, and how to mount it otherwise."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*how):
        return subprocess.run(["mount", *how, disk], capture_output=True).returncode == 0

    if not shutil.which("mount") or not mount("-t", "tmpfs", "-o", "size=800k", "none"):
        pytest.skip("no right to mount")
    yield disk, mount
    subprocess.run(["umount", disk], check=True)


def test_a_run_on_a_disk_that_fills_up_goes_on_when_there_is_room(small_disk, options, run, uninterrupted, contents):
    disk, mount = small_disk
    save = disk / "save"
    assert_one_line(run(finetune.main, options(save)), save / "checkpoints/step-00000008", "No space left", "make room")
    assert mount("-o", "remount,size=8m")
    assert run(finetune.main, options(save)).status == 0
    assert "resumed after step 4\n" in (save / "training.log").read_text()
    assert result(contents, save) == result(contents, uninterrupted)


def test_a_run_whose_disk_becomes_read_only_goes_on_when_it_is_writable(
    small_disk, options, run, uninterrupted, contents, monkeypatch
):
    disk, mount = small_disk
    assert mount("-o", "remount,size=8m")
    save, original = disk / "save", Checkpoints.save

    def save_on_read_only(checkpoints, step):
        assert step == 4 or mount("-o", "remount,ro")
        original(checkpoints, step)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_on_read_only)
        patch.setattr(run_folder, "locked", lambda path: nullcontext())  # no disk is remounted under an open file
        outcome = run(finetune.main, options(save))
    assert_one_line(outcome, save / "checkpoints/step-00000008", "Read-only file system", "make it writable")
    assert_one_line(run(finetune.main, options(save)), save, "Read-only file system")
    assert mount("-o", "remount,rw")
    assert run(finetune.main, options(save)).status == 0
    assert "resumed after step 4\n" in (save / "training.log").read_text()
    assert result(contents, save) == result(contents, uninterrupted)
