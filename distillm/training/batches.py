"""All micro-batches of one optimiser step, prepared before its first backward pass (docs/methods.md)."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from data_utils.batching import ShuffledOrder, TokenBatch, split_step
from distillm.distributed import World


class Sized(Protocol):
    def __len__(self) -> int: ...


Item = TypeVar("Item", bound=Sized)  # a row, or a pair of rows; its length is a number of ids


@dataclass(frozen=True)
class StepShape:
    """How many items a step has and how it is split; `batch_size` counts those of a micro-batch on one rank."""

    batch_size: int
    accumulation: int
    seed: int

    def items_per_step(self, world: World) -> int:
        return self.batch_size * self.accumulation * world.size


class StepBatches(Generic[Item]):
    """The items of each step and this rank's micro-batches of them."""

    def __init__(
        self,
        dataset: Sequence[Item],
        shape: StepShape,
        collate_items: Callable[[Sequence[Item]], TokenBatch],
        world: World,
    ):
        self.dataset, self.shape, self.collate_items, self.world = dataset, shape, collate_items, world
        asked, there = shape.items_per_step(world), len(dataset)
        self.order = ShuffledOrder(there, asked, shape.seed)
        if asked > there and world.is_main:
            advice = "they repeat within it; lower --batch-size or --gradient-accumulation-steps"
            print(f"warning: a step takes {asked} rows, the data has {there}: {advice}", file=sys.stderr)

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    def rows(self, step: int) -> list[Item]:
        """Return the data set's items of a step counted from 0, the same on every rank."""
        return [self.dataset[index] for index in self.order.rows(step)]

    def split(self, rows: Sequence[Item]) -> list[TokenBatch]:
        """Return this rank's micro-batches of a step's items, on the device."""
        shares = split_step(rows, self.shape.accumulation, self.world.size, [len(row) for row in rows])
        return [self.collate_items(ranks[self.world.rank]).to(self.world.device) for ranks in shares]
