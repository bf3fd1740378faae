"""What the numeric tests share: a gradient that owes nothing to autograd."""

from collections.abc import Callable

import numpy as np
import pytest

Gradient = Callable[[Callable[[np.ndarray], float], np.ndarray], np.ndarray]


@pytest.fixture
def numeric_gradient() -> Gradient:
    """Central differences in float64 at every finite entry; 0 at the others."""

    def gradient(function: Callable[[np.ndarray], float], point: np.ndarray, width: float = 1e-5) -> np.ndarray:
        slopes = np.zeros_like(point)
        for index in np.argwhere(np.isfinite(point)):
            above, below = point.copy(), point.copy()
            above[tuple(index)] += width
            below[tuple(index)] -= width
            slopes[tuple(index)] = (function(above) - function(below)) / (2 * width)
        return slopes

    return gradient
