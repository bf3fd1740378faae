"""Sums of per-token losses over many tokens, with the memory of one chunk.

Hidden states are gathered at the positions that count before any LM head sees them; head and loss then run
over chunks of tokens, recomputed in the backward pass, so no `[B, T, V]` tensor ever exists.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from distillm.distributed import largest_of_all

# Logits (or other values as wide) of one chunk: 128 MiB in fp32.
CHUNK_ELEMENTS = 2**25


def sum_over_chunks(
    per_token: Callable[..., Tensor], tensors: tuple[Tensor, ...], width: int, sharded: bool = False
) -> Tensor:
    """Return the sum of `per_token(*tensors)` (`[..., M, D]` each → `[M]`), evaluated in chunks of tokens.

    `width` is the number of values that `per_token` holds for each token (vocabulary × layers, say).
    A single chunk is not recomputed: it already fits. `sharded` is that of the head which `per_token` calls, if any.
    """
    num_tokens = tensors[0].shape[-2]
    chunk = max(1, CHUNK_ELEMENTS // width)
    num_chunks = max(1, -(-num_tokens // chunk))
    if sharded:
        num_chunks = largest_of_all(num_chunks, tensors[0].device)
    if num_chunks == 1:
        return per_token(*tensors).sum()

    def chunk_sum(*parts: Tensor) -> Tensor:
        return per_token(*parts).sum()

    # ZeRO 3 empties a frozen weight after each call and refills it before the next; the shape check runs in between.
    check = "none" if sharded else "default"
    total = tensors[0].new_zeros((), dtype=torch.float32)
    for parts in zip(*(tensor.tensor_split(num_chunks, dim=-2) for tensor in tensors), strict=True):
        total = total + checkpoint(chunk_sum, *parts, use_reentrant=False, determinism_check=check)
    return total


def cross_entropy_per_token(logits: Tensor, labels: Tensor) -> Tensor:
    """Return −log softmax(logits)[label] in fp32: `[M, V]`, `[M, 1]` → `[M]`."""
    return F.cross_entropy(logits.float(), labels.squeeze(-1), reduction="none")
