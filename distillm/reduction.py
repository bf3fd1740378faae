"""Which tokens a loss counts, and how their values become a scalar when it is called on its own."""

from collections.abc import Sequence

import torch
from torch import Tensor


def selects(mask: Tensor) -> Tensor:
    """Return a bool, integer or float mask as bool; non-zero means that the position counts."""
    return mask != 0


def mean_or_zero(values: Tensor) -> Tensor:
    """Return the mean of the selected tokens' values; 0, with a valid gradient, if there are none."""
    return values.sum() / max(values.numel(), 1)


def stack_selected(states: Sequence[Tensor], selected: Tensor) -> Tensor:
    """Gather the selected tokens of each layer: L x `[B, T, D]`, selected `[B, T]` bool -> `[L, M, D]`."""
    return torch.stack([layer[selected] for layer in states])
