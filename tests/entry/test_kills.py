"""Killed again and again, at random moments and in the middle of every kind of work, a run loses nothing."""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from distillm.models.generation import ResponseGenerator
from distillm.run.loggers import JsonLinesLogger
from tests.entry.every_method import FIELDS, command_of
from tests.entry.outputs import checkpoint_of, result, saved_step
from tests.entry.processes import LONGEST_RUN, Place, at_call, call, in_child, send, wait_for
from tools import generate_responses

FINISHED = 10**9  # steps or rows
# The place of a kill, and about how often it is passed in two steps.
FILES: dict[str, Place] = {
    "a file gets its name": (os, "replace", 10),
    "a file is flushed": (os, "fsync", 40),
    "a folder gets its name": (os, "rename", 2),
    "a file is removed": (os, "unlink", 20),
    "a step": (torch.Tensor, "backward", 6),
    "weights are written": (safetensors.torch, "serialize_file", 8),
}
TRAINING: dict[str, Place] = {
    **FILES,
    "a checkpoint gets its name": (Path, "rename", 2),
    "generation": (ResponseGenerator, "_respond_batch", 2),
    "a decoding step": (torch, "searchsorted", 20),
    "a model is written": (PreTrainedTokenizerBase, "save_pretrained", 1),
    "a log line": (JsonLinesLogger, "log", 4),
}
RESPONSES: dict[str, Place] = {
    "a decoding step": (torch, "searchsorted", 20),
    "lines are flushed": (os, "fsync", 3),
    "the file gets its name": (os, "replace", 1),
}


@dataclass
class Killer:
    """Runs a script over and over; all attempts except the last ones are killed, by clock or inside a kind of call."""

    places: dict[str, Place]
    longest: float  # seconds to a kill by the clock
    hits: Counter = field(default_factory=Counter)
    draws: random.Random = field(default_factory=lambda: random.Random(2012))

    def attempt(self, act: Callable[[], int]) -> bool:
        """Run `act` in a child; say whether the child was killed; otherwise it must have succeeded."""
        by_clock = sum(self.hits.values()) > 2 * self.hits["the clock"]
        place = min(self.places, key=lambda name: self.hits[name])
        owner, method, most = self.places[place]
        due, late = self.draws.randint(1, most), self.draws.random() < 0.5

        def child() -> int:
            # tqdm's lock is shared by forked processes, and one that is killed does not release it.
            tqdm.set_lock(threading.RLock())
            signal.alarm(LONGEST_RUN)
            with at_call(owner, method, 0 if by_clock else due, send(signal.SIGKILL), late):
                return act()

        process = in_child(child)
        if by_clock:
            time.sleep(self.draws.uniform(0, self.longest))
            os.kill(process, signal.SIGKILL)
        status = wait_for(process)
        assert status in (0, -signal.SIGKILL)
        if status:
            self.hits["the clock" if by_clock else place] += 1
        return status != 0


def kill_often(killer: Killer, kills: int, folder: Path, act, progress_of, compare) -> None:
    """Kill runs in `folder/1`, `folder/2`, ... this often; their progress never shrinks, and their results compare."""
    life, reached = 1, -1
    while sum(killer.hits.values()) < kills or any(killer.hits[place] == 0 for place in killer.places):
        assert life < 25, f"the runs end before they are killed: {killer.hits}"
        save = folder / str(life)
        if killer.attempt(lambda: act(save)):  # noqa: B023  # called at once
            before, reached = reached, progress_of(save)
            assert reached >= before
        else:
            compare(save)
            life, reached = life + 1, -1
    assert act(folder / str(life)) == 0
    compare(folder / str(life))
    print(f"{sum(killer.hits.values())} kills, {life} runs: {dict(killer.hits)}")


def progress(save: Path) -> int:
    """Load the whole newest checkpoint; return its step."""
    folder = checkpoint_of(save)
    for path in folder.rglob("*.*") if folder is not None else ():
        assert (load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())) is not None
    if folder is None:
        return FINISHED if (save / "finished.json").exists() else -1
    return saved_step(save)


@pytest.mark.parametrize(
    ("kind", "kills", "places"),
    [("adaptive-srkl-contra", 50, TRAINING), (FIELDS[0], 8, FILES)],
    ids=["a training", "stage 1"],
)
def test_fifty_kills_of_a_training_run_change_no_byte_of_its_result(kind, kills, places, world, pairs, tmp_path):
    more = ["--save-interval", 1] + (["--eval-interval", 3, "--dev-num", 4] if kills == 50 else [])

    def act(save: Path) -> int:
        return call(*command_of(world, pairs, kind, save, *more))

    def compare(save: Path) -> None:
        assert result(save) == expected

    assert act(tmp_path / "whole") == 0
    expected = result(tmp_path / "whole")
    kill_often(Killer(places, longest=0.8), kills, tmp_path / "killed", act, progress, compare)


def test_responses_are_the_same_however_often_their_generation_is_killed(world, tmp_path):
    def act(save: Path) -> int:
        return call(generate_responses.main, world.answering(save / "out"))

    def rows_of(save: Path) -> int:
        written = save / "out" if (save / "out").exists() else save / "out.partial"
        lines = written.read_bytes().split(b"\n")[:-1] if written.exists() else []
        assert lines == rows[: len(lines)]
        return len(lines)

    def compare(save: Path) -> None:
        assert result(save) == expected

    assert act(tmp_path / "whole") == 0
    expected = result(tmp_path / "whole")
    rows = expected["out"].splitlines()
    assert len(rows) == 26 and expected.keys() == {"out"}
    kill_often(Killer(RESPONSES, longest=0.6), 8, tmp_path / "killed", act, rows_of, compare)
