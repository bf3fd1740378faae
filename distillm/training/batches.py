"""All micro-batches of one optimiser step, prepared before its first backward pass (docs/methods.md)."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from data_utils.batching import ShuffledOrder, TokenBatch, collate, split_step
from data_utils.randomness import keyed_seed
from data_utils.response_pairs import Pair, collate_pairs
from distillm.arguments import TrainingArguments
from distillm.distributed import World


class StepBatches:
    """The rows (or response pairs) of each step, and this rank's micro-batches of them."""

    def __init__(
        self,
        dataset: Sequence[Any],
        training: TrainingArguments,
        pad_id: int,
        world: World,
        purpose: str = "instruction order",
        packed: bool = True,
    ):
        """`purpose` gives each data set its own order; `packed`: several rows may lie in one line."""
        self.dataset, self.training, self.world = dataset, training, world
        collate_rows = collate_pairs if isinstance(dataset[0], Pair) else collate
        self.collate = partial(collate_rows, pad_id=pad_id, packed=packed)
        rows_per_step = training.rows_per_step(world.size)
        self.order = ShuffledOrder(len(dataset), rows_per_step, keyed_seed(training.seed, purpose))
        self.steps_per_epoch = self.order.steps_per_epoch
        if rows_per_step > len(dataset) and world.is_main:
            sizes = f"a step takes {rows_per_step} rows, but the data has {len(dataset)}"
            advice = "they repeat within it; lower --batch-size or --gradient-accumulation-steps"
            print(f"warning: {sizes}: {advice}", file=sys.stderr)

    def rows(self, step: int) -> list[Any]:
        """Return the data set's rows of a step counted from 1, the same on every rank."""
        return [self.dataset[index] for index in self.order.rows(step)]

    def split(self, rows: Sequence[Any]) -> list[TokenBatch]:
        """Return this rank's micro-batches of a step's rows, on the device."""
        accumulation, lengths = self.training.gradient_accumulation_steps, [len(row) for row in rows]
        shares = split_step(rows, accumulation, self.world.size, lengths)
        return [self.collate(ranks[self.world.rank]).to(self.world.device) for ranks in shares]
