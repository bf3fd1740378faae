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
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

import finetune
import train_velocity_field
from contra.training import FieldTrainer
from distillm.distributed import World
from distillm.models.generation import ResponseGenerator
from distillm.run.loggers import JsonLinesLogger
from distillm.training.checkpoint import check_hashes
from distillm.training.engine import TorchEngine
from distillm.training.trainer import Trainer
from tests.entry.conftest import LONGEST_RUN, in_child, wait_for
from tools import generate_responses

ALONE = World(0, 1, torch.device("cpu"))
FINISHED = 10**9  # steps
Place = tuple[Any, str, int]  # the owner of a method, its name, and about how often it is called in two steps

FILES: dict[str, Place] = {
    "a file gets its name": (os, "replace", 10),
    "a file is flushed": (os, "fsync", 40),
    "a folder gets its name": (os, "rename", 2),
    "a file is removed": (os, "unlink", 20),
}
TRAINING: dict[str, Place] = {
    **FILES,
    "a checkpoint gets its name": (Path, "rename", 2),
    "a step": (Trainer, "_train_step", 3),
    "generation": (ResponseGenerator, "_respond_batch", 2),
    "a decoding step": (torch, "searchsorted", 20),
    "weights are written": (TorchEngine, "save_state", 3),
    "a model is written": (PreTrainedTokenizerBase, "save_pretrained", 1),
    "a step of the field": (FieldTrainer, "train_step", 6),
    "a log line": (JsonLinesLogger, "log", 4),
}
STAGE_1: dict[str, Place] = {**FILES, "a step of the field": (FieldTrainer, "train_step", 3)}
RESPONSES: dict[str, Place] = {
    "a decoding step": (torch, "searchsorted", 20),
    "lines are flushed": (os, "fsync", 3),
    "the file gets its name": (os, "replace", 1),
}


@dataclass
class Killer:
    """Runs a script over and over; each attempt but the last ones is killed, by a clock or inside a kind of call."""

    places: dict[str, Place]
    longest: float  # seconds to a kill by the clock
    hits: Counter = field(default_factory=Counter)
    draws: random.Random = field(default_factory=lambda: random.Random(2012))

    def attempt(self, act: Callable[[], int]) -> bool:
        """Run `act` in a child; say whether the child was killed, else it has ended well."""
        by_clock = sum(self.hits.values()) > 2 * self.hits["the clock"]
        place = min(self.places, key=lambda name: self.hits[name])
        owner, method, most = self.places[place]
        due, late = self.draws.randint(1, most), self.draws.random() < 0.5

        def child() -> int:
            # tqdm's lock is shared by forked processes, and who is killed does not give it back.
            tqdm.set_lock(threading.RLock())
            signal.alarm(LONGEST_RUN)
            return act() if by_clock else act_and_die(act, owner, method, due, late)

        process = in_child(child)
        if by_clock:
            time.sleep(self.draws.uniform(0, self.longest))
            os.kill(process, signal.SIGKILL)
        status = wait_for(process)
        assert status in (0, -signal.SIGKILL)
        if status:
            self.hits["the clock" if by_clock else place] += 1
        return status != 0


def act_and_die(act: Callable[[], int], owner: Any, method: str, due: int, late: bool) -> int:
    """Die at a call of a method, before or (`late`) after its work."""
    original, calls = getattr(owner, method), 0

    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == due and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        value = original(*arguments, **keywords)
        if calls == due:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    with mock.patch.object(owner, method, call):
        return act()


def kill_often(killer: Killer, kills: int, folder: Path, act, progress_of, compare) -> None:
    """Kill runs in `folder/1`, `folder/2`, ... so often; what they have reached never shrinks, their ends compare."""
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


def newest_step(save: Path) -> int:
    """Load what `latest` names; return its step."""
    if not (save / "checkpoints" / "latest").exists():
        return -1 if not (save / "finished.json").exists() else FINISHED
    name = (save / "checkpoints" / "latest").read_text().strip()
    folder = save / "checkpoints" / name
    check_hashes(folder, ALONE)
    assert load_file(folder / "engine" / "weights.safetensors").keys()
    assert load_file(folder / "engine" / "optimizer.safetensors").keys()
    assert load_file(folder / "velocity_field" / "velocity_field.safetensors").keys()
    assert json.loads((folder / "on_policy.json").read_text())["threshold"]["reference"]
    step = json.loads((folder / "trainer.json").read_text())["step"]
    assert name == f"step-{step:08d}"
    return step


def newest_field_step(save: Path) -> int:
    """Load the checkpoint of stage 1, under its name or, in the middle of its replacement, beside; return its step."""
    folders = [save / "checkpoint", *save.glob(".checkpoint.*.old")]
    folders = [folder for folder in folders if folder.exists()]
    if not folders:
        return -1 if not (save / "finished.json").exists() else FINISHED
    check_hashes(folders[0], ALONE)
    assert load_file(folders[0] / "velocity_field.safetensors").keys()
    return json.loads((folders[0] / "loop.json").read_text())["step"]


@pytest.fixture
def same_result(contents):
    """Assert that a run ended like another one, file by file, and left nothing else."""

    def compare(save: Path, whole: Path) -> None:
        ours, theirs = (
            {name: data for name, data in contents(folder).items() if name not in ("args.json", "training.log")}
            for folder in (save, whole)
        )
        assert ours == theirs

    return compare


def test_fifty_kills_of_a_training_run_change_no_byte_of_its_result(world, call_script, same_result, tmp_path):
    def act(save: Path) -> int:
        options = ["--save-interval", 1, "--epochs", 3, "--eval-interval", 3, "--dev-num", 4]
        return call_script(finetune.main, world.training(save, *options, type="adaptive-srkl-contra"))

    whole = tmp_path / "whole"
    assert act(whole) == 0
    killer = Killer(TRAINING, longest=1.0)
    kill_often(killer, 50, tmp_path / "killed", act, newest_step, lambda save: same_result(save, whole))


def test_a_velocity_field_killed_often_is_the_same_field(world, call_script, same_result, tmp_path):
    def act(save: Path) -> int:
        return call_script(train_velocity_field.main, world.stage_1(save, "--save-interval", 1))

    whole = tmp_path / "whole"
    assert act(whole) == 0
    killer = Killer(STAGE_1, longest=0.6)
    kill_often(killer, 10, tmp_path / "killed", act, newest_field_step, lambda save: same_result(save, whole))


def test_responses_are_the_same_however_often_their_generation_is_killed(world, call_script, tmp_path):
    def act(output: Path) -> int:
        words = ["--data", world.data / "dolly" / "train.jsonl", "--model-path", world.student, "--output", output]
        words += ["--eval-batch-size", 2, "--max-prompt-length", 48, "--max-new-tokens", 16]
        return call_script(generate_responses.main, words)

    def rows_of(output: Path) -> int:
        partial = Path(f"{output}.partial")
        written = output if output.exists() else partial
        lines = written.read_bytes().split(b"\n")[:-1] if written.exists() else []
        assert lines == expected[: len(lines)]
        return len(lines)

    whole = tmp_path / "whole"
    assert act(whole) == 0
    expected = whole.read_bytes().splitlines()
    (tmp_path / "killed").mkdir()

    def compare(output: Path) -> None:
        assert rows_of(output) == len(expected) == 26
        assert not Path(f"{output}.partial").exists()

    kill_often(Killer(RESPONSES, longest=0.8), 10, tmp_path / "killed", act, rows_of, compare)
    assert not list((tmp_path / "killed").glob(".*"))
