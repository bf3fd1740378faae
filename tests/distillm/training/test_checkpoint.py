import copy
import errno
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from data_utils.files import write_json
from distillm.training import checkpoint
from distillm.training.checkpoint import Checkpoints
from distillm.training.engine import TorchEngine
from distillm.training.trainer import TrainerState
from tests.distillm.tiny import ALONE


class Counter:
    """A part of a run: a number in a file."""

    def __init__(self, value: int = 0):
        self.value = value

    def save(self, folder: Path) -> None:
        write_json(folder / "counter.json", self.value)

    def load(self, folder: Path) -> None:
        self.value = json.loads((folder / "counter.json").read_text())


class Run:
    """A save folder as seen by a process that has just started."""

    def __init__(self, save: Path, world=ALONE):
        linear = nn.Linear(3, 2)
        nn.init.ones_(linear.weight)
        nn.init.zeros_(linear.bias)
        self.engine = TorchEngine(linear, 0.1, 1.0, "fp32", world)
        self.state, self.counter = TrainerState(), Counter()
        self.checkpoints = Checkpoints(save / "checkpoints", self.engine, [self.state, self.counter], world)
        self.checkpoints.clean()

    def advance(self, step: int) -> None:
        while self.state.step < step:
            self.state.step += 1
            self.counter.value += 10
            inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(self.state.step))
            self.engine.backward(self.engine.module(inputs).square().mean())
            self.engine.step(0.01)

    def values(self):
        return self.state, self.counter.value, {k: v.tolist() for k, v in self.engine.module.state_dict().items()}

    def resumed(self) -> "Run":
        latest = self.checkpoints.latest()
        assert latest is not None
        self.checkpoints.load(latest)
        return self


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in (folder / "checkpoints").iterdir())


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_fresh_folder_has_no_checkpoint_and_stays_empty(tmp_path):
    assert Run(tmp_path).checkpoints.latest() is None
    assert not list(tmp_path.iterdir())


def test_latest_points_at_a_complete_folder_from_which_a_run_goes_on(tmp_path):
    run = Run(tmp_path)
    run.state.best_score, run.state.best_step = -1.5, 2
    run.advance(3)
    run.checkpoints.save(3)
    latest = run.checkpoints.latest()
    assert latest == tmp_path / "checkpoints" / (tmp_path / "checkpoints" / "latest").read_text().strip()
    assert latest.name == "step-00000003"
    assert {"engine", "trainer.json", "counter.json", "sha256.json"} == {entry.name for entry in latest.iterdir()}
    resumed = Run(tmp_path).resumed()
    assert resumed.values() == run.values()
    for one in (run, resumed):
        one.advance(8)
    assert resumed.values() == run.values()


def test_only_the_newest_checkpoint_is_kept(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 5):
        run.advance(step)
        run.checkpoints.save(step)
        assert entries(tmp_path) == ["latest", f"step-{step:08d}"]


def test_what_a_killed_run_left_half_written_is_removed_and_never_loaded(tmp_path):
    run = Run(tmp_path)
    run.advance(2)
    run.checkpoints.save(2)
    expected = run.values()
    folder = tmp_path / "checkpoints"
    (folder / ".step-00000004.tmp" / "engine").mkdir(parents=True)
    (folder / "step-00000004").mkdir()  # renamed, but killed before `latest` named it
    (folder / "step-00000004" / "trainer.json").write_text('{"step": 4}')
    resumed = Run(tmp_path)
    assert entries(tmp_path) == ["latest", "step-00000002"]
    assert resumed.resumed().values() == expected


def test_a_first_checkpoint_that_was_never_finished_is_none(tmp_path):
    (tmp_path / "checkpoints" / ".step-00000004.tmp").mkdir(parents=True)
    assert Run(tmp_path).checkpoints.latest() is None
    assert entries(tmp_path) == []


STAGES = ["engine", "part", "fsync", "rename", "pointer"]


def break_stage(stage: str, run: Run, monkeypatch) -> None:
    target = {
        "engine": (run.engine, "save_state"),
        "part": (run.counter, "save"),
        "fsync": (checkpoint, "fsync_path"),
        "rename": (Path, "rename"),
        "pointer": (checkpoint, "atomic_file"),
    }[stage]
    monkeypatch.setattr(*target, no_space)


@pytest.mark.parametrize("stage", STAGES)
def test_a_save_that_fails_leaves_the_previous_checkpoint_loadable(stage, tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.advance(2)
    run.checkpoints.save(2)
    expected = copy.deepcopy(run.values())
    run.advance(4)
    with monkeypatch.context() as patch:
        break_stage(stage, run, patch)
        with pytest.raises(OSError, match="No space left"):
            run.checkpoints.save(4)
    resumed = Run(tmp_path).resumed()
    assert resumed.values() == expected
    assert entries(tmp_path) == ["latest", "step-00000002"]
    resumed.advance(4)
    resumed.checkpoints.save(4)
    assert entries(tmp_path) == ["latest", "step-00000004"]
    assert Run(tmp_path).resumed().values() == run.values()


def test_a_run_killed_while_it_drops_the_old_checkpoint_has_the_new_one(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.advance(2)
    run.checkpoints.save(2)
    run.advance(4)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_clean", no_space)
        with pytest.raises(OSError, match="No space left"):
            run.checkpoints.save(4)
    assert Run(tmp_path).resumed().values() == run.values()
    assert entries(tmp_path) == ["latest", "step-00000004"]


def test_one_rank_writes_and_every_rank_reads(tmp_path, on_ranks):
    def as_rank(world):
        run = Run(tmp_path, world)
        run.advance(2)
        run.checkpoints.save(2)
        return run

    first, second = on_ranks(2, as_rank)
    assert entries(tmp_path) == ["latest", "step-00000002"]
    for values in on_ranks(2, lambda world: Run(tmp_path, world).resumed().values()):
        assert values == first.values() == second.values()


def test_a_finished_run_leaves_no_checkpoint(tmp_path):
    run = Run(tmp_path)
    run.checkpoints.delete()
    run.advance(1)
    run.checkpoints.save(1)
    run.checkpoints.delete()
    assert not (tmp_path / "checkpoints").exists()
