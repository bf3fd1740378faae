"""Sums of per-token losses over many tokens, with the memory and the time of one chunk of logits.

Hidden states are gathered at the positions that count before any LM head sees them. Head and loss then run over chunks
of tokens, so no `[B, T, V]` tensor ever exists.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from distillm.distributed import largest_of_all
from distillm.models.split_model import SplitModel

# Values that a chunk holds for each of its tensors, e.g. logits: 32 MiB in fp32.
CHUNK_ELEMENTS = 2**23
FP16_SCALE = 4096.0  # of the gradient of logits, most of which would be 0 in fp16

PerToken = Callable[..., Tensor]  # tensors `[..., m, D]` -> `[m]`


def sum_over_chunks(
    per_token: PerToken, tensors: tuple[Tensor, ...], width: int, num_chunks: int | None = None
) -> Tensor:
    """Return the sum of `per_token(*tensors)` (`[..., M, D]` each → `[M]`), evaluated in chunks of tokens.

    `width` is the number of values that `per_token` holds for each token. Chunks are recomputed in the backward pass,
    except for a single one: it already fits.
    """
    num_chunks = num_chunks or chunks_of(tensors[0].shape[-2], width)
    if num_chunks == 1:
        return per_token(*tensors).sum()
    total = tensors[0].new_zeros((), dtype=torch.float32)
    for parts in zip(*(tensor.tensor_split(num_chunks, dim=-2) for tensor in tensors), strict=True):
        # ZeRO 3 empties a frozen weight after each call and refills it before the next; a shape check runs in between.
        total = total + checkpoint(
            lambda *parts: per_token(*parts).sum(), *parts, use_reentrant=False, determinism_check="none"
        )
    return total


def sum_over_logits(per_token: PerToken, student: SplitModel, states: Tensor, *tensors: Tensor) -> Tensor:
    """Return the sum of `per_token(head(states), *tensors)` over all tokens, evaluated in chunks of tokens.

    states `[..., M, D]`, each of the tensors `[..., M, …]`; `per_token` maps their chunks of m tokens to `[m]`.
    """
    width = student.vocab_size * math.prod(states.shape[:-2])
    num_chunks = chunks_of(states.shape[-2], width)
    head = student.head
    if type(head) is nn.Linear and not student.sharded:  # a wrapped one (LoRA on the head) is differentiated as usual
        return _LogitsLoss.apply(
            per_token, num_chunks, torch.is_grad_enabled(), states, head.weight, head.bias, *tensors
        )  # type: ignore[no-untyped-call]
    if student.sharded:
        num_chunks = largest_of_all(num_chunks, states.device)
    return sum_over_chunks(
        lambda states, *tensors: per_token(head(states), *tensors), (states, *tensors), width, num_chunks
    )


def chunks_of(num_tokens: int, width: int) -> int:
    return max(1, -(-num_tokens * width // CHUNK_ELEMENTS))


class _LogitsLoss(torch.autograd.Function):
    """A linear head and a loss of its logits, with the gradient computed chunk by chunk in the forward pass.

    Logits, and all that the loss derives from them, live as long as a chunk; the head's product is never repeated.
    """

    @staticmethod
    def forward(
        ctx: Any,
        per_token: PerToken,
        num_chunks: int,
        learns: bool,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *tensors: Tensor,
    ) -> Tensor:
        needs_states, needs_weight, needs_bias = (learns and needed for needed in ctx.needs_input_grad[3:6])
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        scale = FP16_SCALE if dtype == torch.float16 else 1.0
        cast_weight = weight.to(dtype)
        d_states = torch.empty_like(states) if needs_states else None
        d_weight = torch.zeros_like(weight) if needs_weight else None
        d_bias = torch.zeros_like(bias) if needs_bias and bias is not None else None
        total = states.new_zeros((), dtype=torch.float32)
        first = 0
        for chunk in zip(*(tensor.tensor_split(num_chunks, dim=-2) for tensor in (states, *tensors)), strict=True):
            part, *others = (chunk[0].to(dtype), *chunk[1:])
            with torch.autocast(device, enabled=False):
                logits = F.linear(part, cast_weight, None if bias is None else bias.to(dtype))
            with torch.set_grad_enabled(learns):
                loss = per_token(logits.requires_grad_(learns), *others).sum()
            total += loss.detach()
            if not learns:
                continue
            (d_logits,) = torch.autograd.grad(loss, logits, logits.new_tensor(scale, dtype=loss.dtype))
            last = first + part.shape[-2]
            with torch.autocast(device, enabled=False):
                if d_states is not None:
                    d_states[..., first:last, :] = (d_logits @ cast_weight).div_(scale)
                flat = d_logits.flatten(0, -2)
                if d_weight is not None:
                    _add_product(d_weight, flat, part.flatten(0, -2), scale)
                if d_bias is not None:
                    d_bias += flat.sum(0, dtype=d_bias.dtype) / scale
            first = last
        ctx.gradients = d_states, d_weight, d_bias
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        gradients = [None if gradient is None else gradient * grad for gradient in ctx.gradients]
        return None, None, None, *gradients, *[None] * (len(ctx.needs_input_grad) - 6)


def _add_product(total: Tensor, d_logits: Tensor, states: Tensor, scale: float) -> None:
    """Add `d_logitsᵀ states / scale` in place."""
    if total.dtype == states.dtype:
        total.addmm_(d_logits.T, states)
    else:
        total.add_(d_logits.T @ states, alpha=1 / scale)


def cross_entropy_per_token(logits: Tensor, labels: Tensor) -> Tensor:
    """Return −log softmax(logits)[label] in fp32: `[M, V]`, `[M, 1]` → `[M]`."""
    return F.cross_entropy(logits.float(), labels.squeeze(-1), reduction="none")
