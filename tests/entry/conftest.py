"""The tiny world, runs of the entry scripts in this process, and how a refusal looks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import evaluate
import finetune
import train_velocity_field
from tests.entry import outputs, processes
from tests.entry.every_method import make_pairs
from tests.entry.processes import in_child, wait_for  # noqa: F401 (for tests/data_utils)
from tests.entry.tiny_world import TinyWorld, make_world


@dataclass
class Outcome:
    """How a script ended, and what it said."""

    status: int
    out: str = ""
    err: str = ""


@pytest.fixture(scope="session")
def world(tmp_path_factory, tokenizer) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"), tokenizer)


@pytest.fixture(scope="session")
def pairs(world, tmp_path_factory) -> Path:
    """DistiLLM-2's response pairs."""
    return make_pairs(world, tmp_path_factory.mktemp("pairs"), processes.call)


@pytest.fixture(scope="session")
def call_script() -> Callable[[Callable[[], None], list[Any]], int]:
    return processes.call


@pytest.fixture
def read_log() -> Callable[[Path], list[dict]]:
    return outputs.read_log


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    return outputs.contents


@pytest.fixture
def run(capfd):
    """Run a script in this process: its status and what it said."""

    def run_script(main: Callable[[], None], options: list[Any]) -> Outcome:
        capfd.readouterr()
        status = processes.call(main, options)
        return Outcome(status, *capfd.readouterr())

    return run_script


@pytest.fixture
def train(run, world):
    """Run `finetune.py`: its status and what it said."""

    def run_training(save: Path, *options: Any, **kinds: Any) -> Outcome:
        return run(finetune.main, world.training(save, *options, **kinds))

    return run_training


@pytest.fixture
def train_field(run, world):
    """Run `train_velocity_field.py`: its status and what it said."""
    return lambda save, *options: run(train_velocity_field.main, world.stage_1(save, *options))


@pytest.fixture
def score(run, world):
    """Run `evaluate.py`: its status and what it said."""
    return lambda save, *options: run(evaluate.main, world.evaluation(save, *options))


@pytest.fixture
def validation_losses(monkeypatch):
    """Replace the losses of the next run's validations, the one before training first; return the embeddings then."""

    def script_losses(*losses: float) -> list[torch.Tensor]:
        remaining, seen = iter(losses), []

        def next_loss(validator: Any, student: Any) -> float:
            seen.append(student.model.get_input_embeddings().weight.detach().clone())
            return next(remaining)

        monkeypatch.setattr("distillm.training.validation.Validator._loss", next_loss)
        return seen

    return script_losses


@pytest.fixture
def refused(run):
    """Assert that a script refuses its options in one line that holds these words, and writes nothing."""

    def assert_refused(main, options, save, *words):
        before = save.exists(), outputs.contents(save), hidden(save.parent)
        outcome = run(main, options)
        assert_one_line(outcome.status, outcome.err, *words)
        assert (save.exists(), outputs.contents(save), hidden(save.parent)) == before, "something was written"

    return assert_refused


def hidden(folder: Path) -> set[str]:
    """Return the names of hidden files in a folder: half-written ones, and pytest's own lock."""
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def error_line(outcome: Outcome) -> str:
    """Return the last line of a run that had printed other things before."""
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    (line,) = [line for line in outcome.err.splitlines() if ".py: error: " in line]
    return line


def assert_one_line(status, said, *words):
    assert status == 1
    assert "Traceback" not in said
    lines = said.splitlines()
    assert len(lines) == 1, f"not one line but {len(lines)}: {said}"
    assert ".py: error: " in lines[0]
    for word in words:
        assert str(word) in lines[0]
