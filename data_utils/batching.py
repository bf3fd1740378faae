"""Batches: rows, padding, and the order in which a run visits its rows.

Which rows form an optimiser step, and how they are split, are pure functions: a run resumes at step n by
asking for step n, and trains on the same rows on any number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from data_utils.randomness import keyed_generator

IGNORED = -100  # the label of a position that no loss counts; PyTorch's own default

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """Token ids of one prompt and its response (EOS included, if there is one)."""

    prompt: list[int]
    response: list[int]
    row_id: int

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded rows; `labels[:, t]` is the target of `input_ids[:, t]`, -100 where nothing counts.

    The positions of the tokens that count are found on the CPU: gathering by a mask on a GPU would make the CPU wait.
    """

    input_ids: Tensor  # [B, T] long
    attention_mask: Tensor  # [B, T] long, 1 on tokens and 0 on padding
    labels: Tensor  # [B, T] long
    token_positions: Tensor  # [N] long: where tokens are in the flattened batch
    response_positions: Tensor  # [M] long: where labels count in the flattened batch
    response_counts: Tensor  # [B] long, always on the CPU: labels of each row that count
    row_ids: Tensor  # [B] long, always on the CPU

    @property
    def response_mask(self) -> Tensor:
        """`[B, T]` bool: positions whose label counts."""
        return self.labels != IGNORED

    def to(self, device: torch.device) -> "TokenBatch":
        stay = ("response_counts", "row_ids")
        moved = {name: x.to(device, non_blocking=True) for name, x in vars(self).items() if name not in stay}
        return replace(self, **moved)


def collate(rows: Sequence[Row], pad_id: int, multiple: int = 8) -> TokenBatch:
    """Pad rows on the right to the longest, rounded up to `multiple`: `[B, T]`.

    The input is one id shorter than the row: the last id is only a label.
    """
    assert rows, "a batch needs a row"
    sequences = [row.prompt + row.response for row in rows]
    longest = max(len(ids) - 1 for ids in sequences)
    shape = len(rows), max(1, -(-longest // multiple)) * multiple
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    for i, (row, ids) in enumerate(zip(rows, sequences, strict=True)):
        size = len(ids) - 1
        first = max(0, len(row.prompt) - 1)  # the prompt's last id predicts the response's first
        input_ids[i, :size] = ids[:-1]
        attention_mask[i, :size] = 1
        labels[i, first:size] = ids[first + 1 :]
    return TokenBatch(
        torch.from_numpy(input_ids),
        torch.from_numpy(attention_mask),
        torch.from_numpy(labels),
        torch.from_numpy(np.flatnonzero(attention_mask)),
        torch.from_numpy(np.flatnonzero(labels != IGNORED)),
        torch.from_numpy((labels != IGNORED).sum(1)),
        torch.tensor([row.row_id for row in rows]),
    )


@dataclass(frozen=True)
class ShuffledOrder:
    """The rows of every optimiser step: each epoch is a new permutation, its incomplete last step is dropped.

    A step larger than the data set goes round the permutation until it is full.
    """

    num_rows: int
    rows_per_step: int
    seed: int

    def __post_init__(self) -> None:
        assert self.num_rows > 0 and self.rows_per_step > 0

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.num_rows // self.rows_per_step)

    def rows(self, step: int) -> list[int]:
        """Return the row indices of a step, counted from 1 over all epochs: `[rows_per_step]`."""
        epoch, step_in_epoch = divmod(step - 1, self.steps_per_epoch)
        permutation = _permutation(self.num_rows, self.seed, epoch)
        first = step_in_epoch * self.rows_per_step
        return permutation.take(range(first, first + self.rows_per_step), mode="wrap").tolist()


@lru_cache(maxsize=4)
def _permutation(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    return keyed_generator(seed, "shuffled order", epoch).permutation(num_rows)


def split_step(
    rows: Sequence[T], num_micro_batches: int, world_size: int, lengths: Sequence[int]
) -> list[list[list[T]]]:
    """Deal the rows of one step out to `[micro-batch][rank]`, in equal shares of rows of similar length.

    The longest rows come first, so that a run that does not fit into memory fails at once.
    """
    share, rest = divmod(len(rows), num_micro_batches * world_size)
    assert rest == 0, f"{len(rows)} rows, {num_micro_batches} micro-batches, {world_size} ranks"
    by_length = sorted(range(len(rows)), key=lambda index: -lengths[index])
    shares = [[rows[index] for index in by_length[at : at + share]] for at in range(0, len(rows), share)]
    return [shares[at : at + world_size] for at in range(0, len(shares), world_size)]
