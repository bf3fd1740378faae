"""What these tests share: tiny models, a tokenizer, ranks that are threads, and numeric gradients."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from data_utils.batching import Row
from distillm import distributed
from distillm.distributed import World
from tests.distillm.tiny import EOS, MAKERS, PAD, make_rows


@pytest.fixture(params=sorted(MAKERS))
def family(request) -> str:
    return request.param


@pytest.fixture
def student_model(family) -> PreTrainedModel:
    """4 blocks, 16 wide; a fresh one for each test."""
    return MAKERS[family](16, 4)


@pytest.fixture
def teacher_model(family) -> PreTrainedModel:
    """6 blocks, 24 wide, frozen."""
    return MAKERS[family](24, 6, seed=1).requires_grad_(False).eval()


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    return make_rows(12)


@pytest.fixture(scope="session")
def ids_tokenizer() -> Any:
    """All that the runtime needs of a tokenizer: padding id, EOS id, and text for ids ("7 12 3")."""

    def batch_decode(responses: list[list[int]], skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [" ".join(str(token) for token in response if token != EOS) for response in responses]

    return SimpleNamespace(pad_token_id=PAD, eos_token_id=EOS, batch_decode=batch_decode)


class ThreadedCollectives:
    """`torch.distributed` for ranks that are threads."""

    def __init__(self, size: int):
        self.meeting = threading.Barrier(size, timeout=60)
        self.slots: list[Any] = [None] * size
        self.local = threading.local()

    def exchange(self, value: Any) -> list[Any]:
        self.slots[self.local.rank] = value
        self.meeting.wait()
        values = list(self.slots)
        self.meeting.wait()
        return values

    def all_gather_object(self, gathered: list[Any], value: Any) -> None:
        gathered[:] = self.exchange(value)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor.copy_(torch.stack(self.exchange(tensor.clone())).sum(0))

    def barrier(self) -> None:
        self.meeting.wait()


@pytest.fixture
def on_ranks(monkeypatch) -> Callable[[int, Callable[[World], Any]], list[Any]]:
    """Run a function as every rank of a world at once and return what each returned."""

    def run(size: int, function: Callable[[World], Any]) -> list[Any]:
        collectives = ThreadedCollectives(size)
        monkeypatch.setattr(distributed, "dist", collectives)
        results: list[Any] = [None] * size
        errors: list[BaseException] = []

        def rank_main(rank: int) -> None:
            collectives.local.rank = rank
            try:
                results[rank] = function(World(rank, size, torch.device("cpu")))
            except BaseException as error:  # noqa: BLE001 (raised again by the test's own thread)
                errors.append(error)
                collectives.meeting.abort()

        threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    return run


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
