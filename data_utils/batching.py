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

LINE = 512  # tokens of a packed line at most, if no row is longer
ATTENTION = 1024  # tokens of a line at which attention costs as much as the rest, roughly, for a width of 256
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
    """Rows laid out in the lines of `[B, T]`; what counts is gathered by its positions in the flattened batch.

    A packed batch has several rows in a line, one after the other: `position_ids` restart at 0 for each of them, which
    tells a model's attention to keep them apart. All positions are known on the CPU: gathering by a mask on a GPU would
    make the CPU wait.
    """

    input_ids: Tensor  # [B, T] long
    position_ids: Tensor  # [B, T] long
    token_positions: Tensor  # [N] long: where tokens are, row by row
    response_positions: Tensor  # [M] long: where a token predicts a response token, row by row
    labels: Tensor  # [M] long: the response tokens that are predicted there
    token_counts: Tensor  # [rows] long, always on the CPU: tokens of each row
    response_counts: Tensor  # [rows] long, always on the CPU: response tokens of each row
    row_ids: Tensor  # [rows] long, always on the CPU
    packed: bool

    def to(self, device: torch.device) -> "TokenBatch":
        stay = ("token_counts", "response_counts", "row_ids", "packed")
        moved = {name: x.to(device, non_blocking=True) for name, x in vars(self).items() if name not in stay}
        return replace(self, **moved)

    @property
    def attention_mask(self) -> Tensor:
        """1 on tokens, 0 on padding, for a batch with one row in each line: `[B, T]` long."""
        assert not self.packed, "attention would mix the rows of a line"
        return torch.zeros_like(self.input_ids).flatten().index_fill(0, self.token_positions, 1).view_as(self.input_ids)


def collate(rows: Sequence[Row], pad_id: int, *, packed: bool = True, multiple: int = 8) -> TokenBatch:
    """Lay out rows, packed or each in a line of its own; lines are as long as the fullest, rounded up to `multiple`.

    The input is one id shorter than the row: the last id is only a label.
    """
    assert rows, "a batch needs a row"
    sizes = [len(row) - 1 for row in rows]
    lines = pack(sizes) if packed else [[index] for index in range(len(rows))]
    fullest = max(sum(sizes[index] for index in line) for line in lines)
    shape = len(lines), max(1, -(-fullest // multiple)) * multiple
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    starts = [0] * len(rows)  # in the flattened batch
    for number, line in enumerate(lines):
        end = 0
        for index in line:
            start, end = end, end + sizes[index]
            starts[index] = number * shape[1] + start
            input_ids[number, start:end] = (rows[index].prompt + rows[index].response)[:-1]
            position_ids[number, start:end] = np.arange(sizes[index])
        # Padding is a row of its own. It is not made of pad ids: Transformers warns of those where it gets no mask.
        position_ids[number, end:] = np.arange(shape[1] - end)
        if packed:
            input_ids[number, end:] = input_ids[number, 0]
    # A row's first token has nothing to be predicted from; the prompt's last one predicts the response's first.
    firsts = [max(0, len(row.prompt) - 1) for row in rows]
    labels = [(row.prompt + row.response)[first + 1 :] for row, first in zip(rows, firsts, strict=True)]
    tokens = [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    responses = [positions[first:] for positions, first in zip(tokens, firsts, strict=True)]
    return TokenBatch(
        torch.from_numpy(input_ids),
        torch.from_numpy(position_ids),
        torch.from_numpy(np.concatenate(tokens)),
        torch.from_numpy(np.concatenate(responses)),
        torch.tensor([label for row in labels for label in row], dtype=torch.long),
        torch.tensor(sizes),
        torch.tensor(list(map(len, responses))),
        torch.tensor([row.row_id for row in rows]),
        packed,
    )


def pack(sizes: Sequence[int]) -> list[list[int]]:
    """Share rows out to lines so that they cost a model least: row indices of each line.

    A line's cost is its length, plus that of attention, which compares all of its tokens.
    """
    fewest = -(-sum(sizes) // max(LINE, *sizes, 1)) or 1
    counts = {len(sizes), *(count for k in range(40) if (count := int(fewest * 1.15**k)) < len(sizes))}
    options = [_share_out(sizes, count) for count in sorted(counts)]

    def cost(lines: list[list[int]]) -> float:
        fullest = max(sum(sizes[index] for index in line) for line in lines)
        return len(lines) * fullest * (1 + fullest / ATTENTION)

    return min(options, key=cost)


def _share_out(sizes: Sequence[int], num_lines: int) -> list[list[int]]:
    """Share rows out to equally full lines, the longest first."""
    lines: list[list[int]] = [[] for _ in range(num_lines)]
    filled = [0] * num_lines
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        emptiest = filled.index(min(filled))
        lines[emptiest].append(index)
        filled[emptiest] += sizes[index]
    return [sorted(line) for line in lines if line]


@dataclass(frozen=True)
class ShuffledOrder:
    """The rows of every optimiser step: each epoch is a new permutation, its incomplete last step is dropped.

    A step larger than the data set wraps around the permutation until it is full.
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
    """Distribute the rows of one step over `[micro-batch][rank]`, in equal shares of rows of similar length.

    The longest rows come first, so that a run that does not fit into memory fails at once.
    """
    share, rest = divmod(len(rows), num_micro_batches * world_size)
    assert rest == 0, f"{len(rows)} rows, {num_micro_batches} micro-batches, {world_size} ranks"
    by_length = sorted(range(len(rows)), key=lambda index: -lengths[index])
    shares = [[rows[index] for index in by_length[at : at + share]] for at in range(0, len(rows), share)]
    return [shares[at : at + world_size] for at in range(0, len(shares), world_size)]
