"""Ways to run a script: in this process, in a fork that may be killed, or in several that work together."""

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from data_utils.errors import run_as_script

ROOT = Path(__file__).resolve().parents[2]
LONGEST_RUN = 300  # seconds of one process
STOPPED = 143  # exit status of a training run that a signal stopped
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # of a process that starts on its own
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
Place = tuple[Any, str, int]  # the owner of a method, its name, and at which call of it something happens


def in_step(number: int) -> Place:
    """Return the place inside a step of a student or of its field, counted together, in runs of one micro-batch."""
    return torch.Tensor, "backward", number


def call(main: Callable[[], None], options: list[Any]) -> int:
    """Run a script in this process, as its last line does; return its exit status."""
    script = Path(sys.modules[main.__module__].__file__ or "").name
    with mock.patch.object(sys, "argv", [script, *map(str, options)]):
        try:
            run_as_script(main)
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def in_child(function: Callable[[], int], environment: dict[str, str] | None = None) -> int:
    """Start `function` in a fork of this process (no import costs time); return its process id."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.environ.update(environment or {})
            status = function()
        finally:
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(status)
    return child


def wait_for(child: int) -> int:
    """Return the exit status of a child, minus the signal if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def at_call(owner: Any, method: str, due: int, act: Callable[[], Any], late: bool = False) -> Iterator[None]:
    """Within the block, call `act` when a method is called for the n-th time: before its work or (`late`) after it."""
    original, calls = getattr(owner, method), 0

    def call_and_act(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        number = calls
        if number == due and not late:
            act()
        value = original(*arguments, **keywords)
        if number == due and late:
            act()
        return value

    with mock.patch.object(owner, method, call_and_act):
        yield


def send(number: int) -> Callable[[], None]:
    """Return what sends a signal to the process that calls it."""
    return lambda: os.kill(os.getpid(), number)


def run_killed(main: Callable[[], None], options: list[Any], place: Place) -> None:
    """Run a script in a child that is killed at a place; nothing gets a chance to clean up."""

    def child() -> int:
        with at_call(*place, send(signal.SIGKILL)):
            return call(main, options)

    assert wait_for(in_child(child)) == -signal.SIGKILL, "the run ended before it was killed"


def run_on(count: int, main: Callable[[], None], options: list[Any], status: int = 0) -> None:
    """Run a script in several processes that exchange values with gloo, as torchrun would start them."""

    def child() -> int:
        signal.alarm(LONGEST_RUN)  # processes that wait for each other forever are killed
        return call(main, options)

    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    children = [in_child(child, environment) for environment in ranks]
    assert [wait_for(child) for child in children] == [status] * count


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
