"""Tiny random models and rows."""

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from data_utils.batching import Row, TokenBatch, collate
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


def make_rows(count: int, seed: int = 0, longest: int = 14) -> list[Row]:
    """Rows of many lengths whose responses end with EOS."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        prompt, response = (random.integers(2, VOCABULARY, random.integers(1, longest)).tolist() for _ in range(2))
        rows.append(Row(prompt, [*response, EOS], index))
    return rows


def make_batch(rows: list[Row], multiple: int = 8, packed: bool = True) -> TokenBatch:
    return collate(rows, PAD, packed=packed, multiple=multiple)
