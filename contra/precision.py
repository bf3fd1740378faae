"""The precision of field and projector: fp32, with matrix products in bf16 if the run's are, but never in fp16."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def never_fp16(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Take a module's forward pass out of an fp16 autocast, in which most of its small gradients would underflow."""

    @wraps(forward)
    def run(module: Any, states: Tensor, *more: Any) -> Tensor:
        device = states.device.type
        allowed = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) != torch.float16
        with torch.autocast(device, enabled=allowed):
            return forward(module, states, *more)

    return run
