"""Sums of per-token losses over many tokens, with the memory and the time of one chunk.

Hidden states are gathered at the positions that count before any LM head sees them. Head and loss then run over chunks
of tokens, so no `[B, T, V]` tensor ever exists. A chunk's gradient is computed right after its loss, in the forward
pass: what a chunk needs is freed with it, and nothing is computed twice.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from distillm.distributed import largest_of_all
from distillm.models.split_model import SplitModel

CHUNK_ELEMENTS = 2**23  # values of each tensor that a chunk makes, e.g. logits: 32 MiB in fp32
FP16_SCALE = 4096.0  # of gradients inside a chunk, most of which would be 0 in fp16

PerToken = Callable[..., Tensor]  # chunks `[..., m, D]` of tensors -> `[m]`


def sum_over_chunks(
    per_token: PerToken, tensors: Sequence[Tensor], width: int, parameters: Sequence[Tensor] = ()
) -> Tensor:
    """Return the sum of `per_token(*tensors)` (`[..., M, D]` each → `[M]`), evaluated in chunks of tokens.

    `width` is the number of values that `per_token` holds for each token. The gradient reaches the first tensor and
    `parameters`, which `per_token` reads.
    """
    num_chunks = chunks_of(tensors[0].shape[-2], width)
    options = per_token, num_chunks, torch.is_grad_enabled(), len(parameters)
    return _ChunkLoss.apply(*options, *parameters, *tensors)  # type: ignore[no-untyped-call]


def sum_over_logits(per_token: PerToken, student: SplitModel, states: Tensor, *tensors: Tensor) -> Tensor:
    """Return the sum of `per_token(head(states), *tensors)` over all tokens, evaluated in chunks of tokens.

    states `[..., M, D]`, each of the tensors `[..., M, …]`; `per_token` maps their chunks of m tokens to `[m]`.
    """
    head, width = student.head, student.vocab_size * math.prod(states.shape[:-2])
    num_chunks = chunks_of(states.shape[-2], width)
    if student.sharded:
        return _recomputed_sum(per_token, head, largest_of_all(num_chunks, states.device), states, *tensors)
    if type(head) is nn.Linear:
        options = per_token, num_chunks, torch.is_grad_enabled()
        return _LogitsLoss.apply(*options, states, head.weight, head.bias, *tensors)  # type: ignore[no-untyped-call]
    learning = [parameter for parameter in head.parameters() if parameter.requires_grad]  # LoRA on the head

    def with_head(states: Tensor, *tensors: Tensor) -> Tensor:
        return per_token(head(states), *tensors)

    return sum_over_chunks(with_head, (states, *tensors), width, learning)


def chunks_of(num_tokens: int, width: int) -> int:
    return max(1, -(-num_tokens * width // CHUNK_ELEMENTS))


def _recomputed_sum(per_token: PerToken, head: nn.Module, num_chunks: int, *tensors: Tensor) -> Tensor:
    """Compute each chunk once more in the backward pass: ZeRO 3 gathers a weight only for a call of its module."""

    def chunk_sum(states: Tensor, *others: Tensor) -> Tensor:
        return per_token(head(states), *others).sum()

    total = tensors[0].new_zeros((), dtype=torch.float32)
    for parts in split(tensors, num_chunks):
        # ZeRO 3 empties a frozen weight after each call and refills it before the next; a shape check runs in between.
        total = total + checkpoint(chunk_sum, *parts, use_reentrant=False, determinism_check="none")
    return total


def split(tensors: Sequence[Tensor], num_chunks: int) -> list[tuple[Tensor, ...]]:
    """Split tensors `[..., M, D]` into chunks of tokens."""
    return list(zip(*(tensor.tensor_split(num_chunks, dim=-2) for tensor in tensors), strict=True))


class _ChunkLoss(torch.autograd.Function):
    """A loss of some states that reads parameters; its gradient is computed chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, per_token: PerToken, num_chunks: int, grad_mode: bool, num_parameters: int, *tensors: Tensor
    ) -> Tensor:
        parameters, tensors = tensors[:num_parameters], tensors[num_parameters:]
        states_learn = grad_mode and ctx.needs_input_grad[4 + num_parameters]
        learns = states_learn or (grad_mode and num_parameters > 0)
        totals = [torch.zeros_like(parameter) for parameter in parameters]
        of_states = []
        scale = FP16_SCALE if _autocast_dtype(tensors[0]) == torch.float16 else 1.0
        loss = tensors[0].new_zeros((), dtype=torch.float32)
        for states, *others in split(tensors, num_chunks):
            states = states.detach().requires_grad_(states_learn)
            with torch.set_grad_enabled(learns):
                part = per_token(states, *others).sum()
            loss += part.detach()
            if learns:
                wanted = [*parameters, *([states] if states_learn else [])]
                found = _gradients(part, wanted, scale)
                for total, gradient in zip(totals, found, strict=False):
                    total.add_(gradient, alpha=1 / scale)
                of_states += [gradient / scale for gradient in found[num_parameters:]]
        ctx.gradients = [*totals, torch.cat(of_states, dim=-2) if of_states else None]
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        gradients = [None if gradient is None else gradient * grad for gradient in ctx.gradients]
        return None, None, None, None, *gradients, *[None] * (len(ctx.needs_input_grad) - 4 - len(gradients))


class _LogitsLoss(torch.autograd.Function):
    """The same for a linear head and a loss of its logits; products are added to the weight's gradient in place."""

    @staticmethod
    def forward(
        ctx: Any,
        per_token: PerToken,
        num_chunks: int,
        grad_mode: bool,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *tensors: Tensor,
    ) -> Tensor:
        needs = [grad_mode and need for need in ctx.needs_input_grad[3:6]]
        dtype = _autocast_dtype(states) or weight.dtype
        scale = FP16_SCALE if dtype == torch.float16 else 1.0
        cast_weight, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        d_states, d_weight, d_bias = (
            torch.zeros_like(tensor) if need and tensor is not None else None
            for tensor, need in zip((states, weight, bias), needs, strict=True)
        )
        loss, first = states.new_zeros((), dtype=torch.float32), 0
        for part, *others in split((states, *tensors), num_chunks):
            part = part.to(dtype)
            with torch.autocast(states.device.type, enabled=False):
                logits = F.linear(part, cast_weight, cast_bias)
            with torch.set_grad_enabled(any(needs)):
                of_chunk = per_token(logits.requires_grad_(any(needs)), *others).sum()
            loss += of_chunk.detach()
            if not any(needs):
                continue
            (d_logits,) = _gradients(of_chunk, [logits], scale)
            last, rows = first + part.shape[-2], d_logits.flatten(0, -2)
            with torch.autocast(states.device.type, enabled=False):
                if d_states is not None:
                    d_states[..., first:last, :] = (d_logits @ cast_weight) / scale
                if d_weight is not None and d_weight.dtype == dtype:
                    d_weight.addmm_(rows.T, part.flatten(0, -2))
                elif d_weight is not None:
                    d_weight.add_(rows.T @ part.flatten(0, -2), alpha=1 / scale)
                if d_bias is not None:
                    d_bias += rows.sum(0, dtype=d_bias.dtype) / scale
            first = last
        ctx.gradients = d_states, d_weight, d_bias
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        gradients = [None if gradient is None else gradient * grad for gradient in ctx.gradients]
        return None, None, None, *gradients, *[None] * (len(ctx.needs_input_grad) - 6)


def _gradients(loss: Tensor, tensors: Sequence[Tensor], scale: float) -> tuple[Tensor, ...]:
    """Return the scaled gradients, each product in the precision of its forward pass, which autocast would change."""
    with torch.autocast(loss.device.type, enabled=False):
        return torch.autograd.grad(loss, tensors, torch.full_like(loss, scale))


def _autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def cross_entropy_per_token(logits: Tensor, labels: Tensor) -> Tensor:
    """Return −log softmax(logits)[label] in fp32: `[M, V]`, `[M, 1]` → `[M]`."""
    return F.cross_entropy(logits.float(), labels.squeeze(-1), reduction="none")
