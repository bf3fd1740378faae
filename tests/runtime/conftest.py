"""Tiny random models, rows and ranks, made here: no network, no processes."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from data_utils.batching import Row, TokenBatch, collate
from distillm import distributed
from distillm.distributed import World

VOCABULARY, PAD, EOS = 53, 1, 1  # as GPT-2 does it: padding is EOS
MAX_LENGTH = 40
ALONE = World(0, 1, torch.device("cpu"))


def make_gpt2(width: int, layers: int, seed: int = 0, vocabulary: int = VOCABULARY, dropout: float = 0.0):
    """Return a GPT-2 whose random weights are large enough to give distributions with a shape."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=64,
        n_embd=width,
        n_layer=layers,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        initializer_range=0.3,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return GPT2LMHeadModel(config)


def make_llama(width: int, layers: int, seed: int = 0, vocabulary: int = VOCABULARY):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


MAKERS = {"gpt2": make_gpt2, "llama": make_llama}


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


def make_rows(count: int, seed: int = 0, longest: int = 14) -> list[Row]:
    """Rows of many lengths whose responses end with EOS."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        prompt, response = (random.integers(2, VOCABULARY, random.integers(1, longest)).tolist() for _ in range(2))
        rows.append(Row(prompt, [*response, EOS], index))
    return rows


def make_batch(rows: list[Row], multiple: int = 8) -> TokenBatch:
    return collate(rows, PAD, MAX_LENGTH, multiple)


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    return make_rows(12)


@pytest.fixture(scope="session")
def ids_tokenizer() -> Any:
    """All that the runtime asks of a tokenizer: what pads, what ends, and text for ids ("7 12 3")."""

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
