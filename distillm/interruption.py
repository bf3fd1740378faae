"""A training run that gets SIGTERM or SIGUSR1 finishes its step, writes a checkpoint and ends with exit status 143.

The signal reaches the processes of a run at different moments. So they tell each other whether one received it, and
all raise `Interrupted` at the same place: after a step, or between two batches of the work that follows one
(validation, new responses, the field's refresh).
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from data_utils.errors import STOP_SIGNALS
from distillm.distributed import World

FAREWELL = "stopped by a signal after step {}: the same command continues from there"


class Interrupted(Exception):
    """Every process of this run stops here, because one of them was asked to."""


class _Request:
    listening = False
    made = False


def ask_to_stop(*_: object) -> None:
    """Handle a signal within `listening`."""
    _Request.made = True


@contextmanager
def listening() -> Iterator[None]:
    """Within the block a signal no longer ends this process: it asks the training to stop."""
    handlers = {number: signal.signal(number, ask_to_stop) for number in STOP_SIGNALS}
    _Request.listening, _Request.made = True, False
    try:
        yield
    finally:
        _Request.listening = False
        for number, handler in handlers.items():
            signal.signal(number, handler)


def request(like: Tensor) -> Tensor:
    """Return `[1]`: 1 if this process was asked to stop, else 0; to be summed with other numbers in one exchange."""
    return like.new_tensor([float(_Request.made)])


def stop_if_asked(world: World) -> None:
    """Within `listening`, stop between two batches if any process was asked to; all processes call it."""
    if _Request.listening and world.sum(request(torch.zeros(1, device=world.device))) > 0:
        raise Interrupted
