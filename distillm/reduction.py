"""Which tokens a loss counts, and how their values become a scalar when the loss is called on its own."""

from collections.abc import Sequence

import torch
from torch import Tensor


def selects(mask: Tensor) -> Tensor:
    """Return a bool, integer or float mask as bool; non-zero means that the position counts."""
    return mask != 0


def mean_or_zero(values: Tensor) -> Tensor:
    """Return the mean of the selected tokens' values; 0, with a valid gradient, if there are none."""
    return values.sum() / max(values.numel(), 1)


def positions_of(mask: Tensor) -> Tensor:
    """Return the positions that a mask selects in the flattened batch: `[B, T]` -> `[M]` long."""
    return selects(mask).flatten().nonzero().squeeze(1)


def gather(states: Tensor, positions: Tensor) -> Tensor:
    """Gather the tokens at these positions of the flattened batch: `[B, T, D]`, `[M]` -> `[M, D]`."""
    return states.flatten(0, 1).index_select(0, positions)


def gather_layers(states: Sequence[Tensor], positions: Tensor) -> Tensor:
    """Gather the same tokens of each layer: L x `[B, T, D]`, `[M]` -> `[L, M, D]`."""
    return torch.stack([gather(layer, positions) for layer in states])
