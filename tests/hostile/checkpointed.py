"""A run of `finetune.py` that was stopped with a checkpoint, and how it resumes."""

import shutil
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import finetune
from distillm.training.checkpoint import HASHES, write_hashes
from tests.entry.outputs import checkpoint_of, contents
from tests.entry.processes import STOPPED, at_call, call, in_step, send
from tests.hostile.cases import refusal

STEPS = ["--total-iters", 3, "--dev-num", 2, "--max-prompt-length", 62, "--capacity", 8, "--resume", "auto"]


class StoppedRun:
    """A run with everything that a checkpoint may hold, stopped after some of its 3 steps; copies of it resume."""

    def __init__(self, world: Any, save: Path, after: int, *more: Any):
        self.save = save
        self.words = world.training(save, *STEPS, *more, type="adaptive-srkl-contra")
        with at_call(*in_step(after), send(signal.SIGTERM)):
            assert call(finetune.main, self.words) == STOPPED
        self.checkpoint = checkpoint_of(save)
        assert self.checkpoint is not None and self.checkpoint.name == f"step-{after:08d}"

    def copied(self, save: Path) -> Path:
        """Copy the stopped run; return the copy's checkpoint."""
        shutil.rmtree(save, ignore_errors=True)
        shutil.copytree(self.save, save)
        return save / self.checkpoint.relative_to(self.save)

    def go_on(self, save: Path) -> str | None:
        """Let a copy run to its end; return the line with which it is refused instead."""
        with mock.patch.object(sys, "argv", ["finetune.py", *self.words, "--save", str(save)]):
            return refusal(finetune.main)


def rehash(checkpoint: Path) -> None:
    """Write the current hashes of a checkpoint's files, as anybody who knows about them could."""
    (checkpoint / HASHES).unlink()
    write_hashes(checkpoint)


def trained(save: Path) -> dict[str, bytes]:
    """Return the weights of a finished run, and its log."""
    return {name: data for name, data in contents(save).items() if name.endswith(("safetensors", "log.jsonl"))}
