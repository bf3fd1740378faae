"""All micro-batches of one optimiser step, prepared before its first backward pass (SPEC 1.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from data_utils.batching import Row, ShuffledOrder, TokenBatch, collate, split_step
from distillm.distributed import World


@dataclass(frozen=True)
class StepShape:
    """How many rows a step has and how they are split; `batch_size` counts rows of one micro-batch on one rank."""

    batch_size: int
    accumulation: int
    max_length: int
    pad_id: int
    seed: int

    def rows_per_step(self, world: World) -> int:
        return self.batch_size * self.accumulation * world.size


class RowPolicy(Protocol):
    """Decides what a step trains on, given its rows of the data set (`distillm.on_policy`)."""

    def rows(self, step: int, total_steps: int, rows: Sequence[Row]) -> Sequence[Row]: ...


class StepBatches:
    """The rows of each step as this rank's micro-batches, a pure function of the step and the policy's state."""

    def __init__(self, dataset: Sequence[Row], shape: StepShape, world: World):
        self.dataset, self.shape, self.world = dataset, shape, world
        self.order = ShuffledOrder(len(dataset), shape.rows_per_step(world), shape.seed)

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    def rows(self, step: int) -> list[Row]:
        """Return the data set's rows of a step counted from 0."""
        return [self.dataset[index] for index in self.order.rows(step)]

    def split(self, rows: Sequence[Row]) -> list[TokenBatch]:
        """Return this rank's micro-batches of a step's rows, on the device."""
        shares = split_step(rows, self.shape.accumulation, self.world.size, [len(row) for row in rows])
        return [
            collate(ranks[self.world.rank], self.shape.pad_id, self.shape.max_length).to(self.world.device)
            for ranks in shares
        ]
