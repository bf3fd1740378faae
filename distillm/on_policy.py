"""On-policy sampling: when the student generates, the replay buffer, and the adaptive threshold.

Sources: DistiLLM (arXiv 2402.03898), and for mixed types GKD (2306.13649); docs/methods.md.
"""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from data_utils.batching import Row
from data_utils.errors import UserError
from data_utils.files import write_json
from data_utils.randomness import keyed_generator, keyed_seed
from distillm.arguments import OnPolicyArguments
from distillm.models.generation import ResponseGenerator

THRESHOLD_INCREMENT = 0.1

RowType = TypeVar("RowType")


class AdaptiveThreshold:
    """DistiLLM's φ: the more often validation gets worse, the more often the student's own text is used."""

    def __init__(self, threshold: float = 0.0, tolerance: float = 0.1):
        self.threshold, self.tolerance = threshold, tolerance
        self.reference: float | None = None

    def update(self, dev_loss: float) -> None:
        """Compare a validation loss with the reference; the first loss becomes the reference."""
        if self.reference is None:
            self.reference = dev_loss
        elif dev_loss >= self.reference + self.tolerance:
            self.threshold = min(1.0, self.threshold + THRESHOLD_INCREMENT)
            self.reference = dev_loss

    def state_dict(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "tolerance": self.tolerance, "reference": self.reference}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.threshold, self.tolerance = state["threshold"], state["tolerance"]
        self.reference = state["reference"]


class ReplayBuffer(Generic[RowType]):
    """The latest `capacity` rows that the student generated, first in, first out."""

    def __init__(self, capacity: int):
        if capacity < 1:
            raise UserError(f"a replay buffer needs room for at least one row, but --capacity is {capacity}")
        self.capacity = capacity
        self.rows: deque[RowType] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: Iterable[RowType]) -> None:
        self.rows.extend(rows)

    def sample(self, count: int, generator: torch.Generator) -> list[RowType]:
        """Draw `count` rows uniformly without replacement."""
        if count > len(self):
            raise ValueError(f"cannot draw {count} rows without replacement from a buffer of {len(self)}")
        drawn = torch.randperm(len(self), generator=generator)[:count].tolist()
        return [self.rows[index] for index in drawn]

    def state_dict(self) -> dict[str, Any]:
        return {"capacity": self.capacity, "rows": list(self.rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.capacity = state["capacity"]
        self.rows = deque(state["rows"], maxlen=self.capacity)


def draw_case(
    sampling: str,
    arguments: OnPolicyArguments,
    draw: float,
    threshold: float,
    step: int,
    total_steps: int,
    buffered: int,
) -> str:
    """Return which rows a step trains on: "dataset", "generated", "mixed" (generate, then draw) or "replayed".

    Args:
        sampling: the method's, adaptive or mixed.
        draw: r, uniform in [0, 1).
        threshold: φ.
        step: counted from 1.
        buffered: rows in the buffer.
    """
    if sampling == "mixed":
        return "mixed" if draw < arguments.mixed_alpha else "dataset"
    factor = {"decreasing": 1 - step / total_steps, "constant": 0.5, "increasing": step / total_steps}
    fresh = threshold * factor[arguments.replay_ratio]
    if draw < fresh or (draw < threshold and buffered < arguments.capacity):
        return "generated"
    return "replayed" if draw < threshold else "dataset"


class DatasetRows:
    """Off-policy: every step trains on its rows of the data set."""

    def rows(self, step: int, total_steps: int, rows: Sequence[Row]) -> Sequence[Row]:
        return rows

    def description(self) -> dict[str, float]:
        return {}

    def update(self, dev_loss: float) -> None:
        """Validation changes nothing."""

    def save(self, folder: Path) -> None:
        """There is no state."""

    def load(self, folder: Path) -> None:
        """There is no state."""


class OnPolicyRows:
    """Replaces the rows of a step with generated or replayed ones.

    All ranks hold the same buffer and make the same decision: one draw per step, for all its micro-batches.
    """

    def __init__(
        self, sampling: str, arguments: OnPolicyArguments, seed: int, student: nn.Module, generator: ResponseGenerator
    ):
        self.sampling, self.arguments, self.seed = sampling, arguments, seed
        self.student, self.generator = student, generator
        self.threshold = AdaptiveThreshold(arguments.init_threshold, arguments.loss_eps)
        self.buffer: ReplayBuffer[Row] = ReplayBuffer(arguments.capacity)
        self.cases = {"dataset": 0, "generated": 0, "mixed": 0, "replayed": 0}

    def rows(self, step: int, total_steps: int, rows: Sequence[Row]) -> Sequence[Row]:
        """Return what the step (from 1) trains on instead of the data set's `rows`."""
        draw = float(keyed_generator(self.seed, "on-policy draw", step).random())
        threshold, buffered = self.threshold.threshold, len(self.buffer)
        case = draw_case(self.sampling, self.arguments, draw, threshold, step, total_steps, buffered)
        if case == "replayed" and buffered < len(rows):
            case = "generated"  # a draw needs a whole step's rows in the buffer
        self.cases[case] += 1
        if case == "dataset":
            return rows
        if case == "replayed":
            return self._draw(step, len(rows))
        generated = self._generate(step, rows)
        self.buffer.add(generated)
        if case == "mixed" and len(self.buffer) >= len(rows):
            return self._draw(step, len(rows))
        return generated

    def update(self, dev_loss: float) -> None:
        """Pass a validation loss to the adaptive threshold."""
        if self.sampling == "adaptive":
            self.threshold.update(dev_loss)

    def description(self) -> dict[str, float]:
        """Return the threshold and each case's share of the steps so far, for the log."""
        steps = max(1, sum(self.cases.values()))
        shares = {f"{case}_share": count / steps for case, count in self.cases.items() if count}
        return {"threshold": self.threshold.threshold, **shares}

    def save(self, folder: Path) -> None:
        state = {
            "threshold": self.threshold.state_dict(),
            "buffer": [asdict(row) for row in self.buffer.state_dict()["rows"]],
            "cases": self.cases,
        }
        write_json(folder / "on_policy.json", state)

    def load(self, folder: Path) -> None:
        state = json.loads((folder / "on_policy.json").read_text(encoding="utf-8"))
        self.threshold.load_state_dict(state["threshold"])
        rows = [Row(**row) for row in state["buffer"]]
        self.buffer.load_state_dict({"capacity": self.buffer.capacity, "rows": rows})
        self.cases = state["cases"]

    def _generate(self, step: int, rows: Sequence[Row]) -> list[Row]:
        responses = self.generator.respond(
            self.student,
            [row.prompt for row in rows],
            [row.row_id for row in rows],
            seed=self.seed,
            purpose="on-policy response",
            step=step,
        )
        return [replace(row, response=response) for row, response in zip(rows, responses, strict=True)]

    def _draw(self, step: int, count: int) -> list[Row]:
        generator = torch.Generator().manual_seed(keyed_seed(self.seed, "replay", step))
        return self.buffer.sample(count, generator)
