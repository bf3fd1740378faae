"""How the per-token values of a loss become a scalar when it is called on its own."""

from torch import Tensor


def selects(mask: Tensor) -> Tensor:
    """Return a bool, integer or float mask as bool; non-zero means that the position counts."""
    return mask != 0


def mean_or_zero(values: Tensor) -> Tensor:
    """Return the mean of the selected tokens' values; 0, with a valid gradient, if there are none."""
    return values.sum() / max(values.numel(), 1)
