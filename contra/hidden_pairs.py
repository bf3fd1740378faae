"""Layer pairs of selected tokens, stacked so that all go through a module as one matrix product."""

from collections.abc import Sequence

import torch
from torch import Tensor


def stack_selected(states: Sequence[Tensor], selected: Tensor) -> Tensor:
    """Gather the selected tokens of each layer: L x `[B, T, D]`, selected `[B, T]` bool -> `[L, M, D]`."""
    return torch.stack([layer[selected] for layer in states])


def pair_indices(num_pairs: int, num_tokens: int, device: torch.device) -> Tensor:
    """Return the pair index of every row of `[L, M, D]` flattened to `[L·M, D]`: `[L·M]`."""
    return torch.arange(num_pairs, device=device).repeat_interleave(num_tokens)
