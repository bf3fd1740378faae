"""Sums of per-token losses over many tokens, with the memory and the time of one chunk.

Hidden states are gathered at the positions that count before any LM head sees them. Head and loss then run over chunks
of tokens, so no `[B, T, V]` tensor ever exists. A chunk's gradient is computed right after its loss, in the forward
pass: what a chunk needs is freed with it, and nothing is computed twice.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from distillm.distributed import largest_of_all
from distillm.models.split_model import SplitModel

CHUNK_ELEMENTS = 2**23  # values of each tensor that a chunk makes, e.g. logits: 32 MiB in fp32
SLICE_ELEMENTS = 2**20  # logits that a loss works on at once on a CPU: what it makes of them stays in the cache
FP16_SCALE = 4096.0  # of gradients inside a chunk, most of which would be 0 in fp16

PerToken = Callable[..., Tensor]  # chunks `[..., m, D]` of tensors -> `[m]`


def sum_over_chunks(
    per_token: PerToken, tensors: Sequence[Tensor], width: int, parameters: Sequence[Tensor] = ()
) -> Tensor:
    """Return the sum of `per_token(*tensors)` (`[..., M, D]` each → `[M]`), evaluated in chunks of tokens.

    `width` is the number of values that `per_token` holds for each token. The gradient reaches the first tensor and
    `parameters`, which `per_token` reads.
    """
    options = per_token, num_chunks(tensors[0].shape[-2], width), torch.is_grad_enabled(), len(parameters)
    return _ChunkLoss.apply(*options, *parameters, *tensors)  # type: ignore[no-untyped-call]


def sum_over_logits(
    per_token: PerToken,
    student: SplitModel,
    states: Tensor,
    *tensors: Tensor,
    teacher: tuple[SplitModel, Tensor] | None = None,
) -> Tensor:
    """Return the sum of `per_token(logits, *tensors)` over all tokens, in chunks; the gradient reaches the student.

    With a teacher and its states, it is that of `per_token(logits, teacher's logits, *tensors)`. states `[..., M, D]`,
    each of the tensors `[..., M, …]`; `per_token` maps their chunks of m tokens to `[m]`.
    """
    width, grad_mode = student.vocab_size * math.prod(states.shape[:-2]), torch.is_grad_enabled()
    count, head = num_chunks(states.shape[-2], width), student.head
    teacher_head, inputs = None, (states, *tensors)
    if teacher is not None:
        teacher_head, inputs = teacher[0].head, (states, teacher[1], *tensors)
    if type(head) is nn.Linear and not student.sharded:
        options = per_token, teacher_head, count, grad_mode
        return _LogitsLoss.apply(*options, head.weight, head.bias, *inputs)  # type: ignore[no-untyped-call]

    def of_states(*inputs: Tensor) -> Tensor:
        return per_token(head(inputs[0]), *with_logits(teacher_head, inputs[1:]))

    if student.sharded:
        return _recomputed_sum(of_states, largest_of_all(count, states.device), inputs)
    learning = [parameter for parameter in head.parameters() if parameter.requires_grad]  # LoRA on the head
    return sum_over_chunks(of_states, inputs, width, learning)


def with_logits(teacher_head: nn.Module | None, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Replace the first of some tensors, the states of a teacher if there is one, by its logits."""
    if teacher_head is None:
        return tensors
    with torch.no_grad():
        return teacher_head(tensors[0]), *tensors[1:]


def num_chunks(num_tokens: int, width: int) -> int:
    return max(1, -(-num_tokens * width // CHUNK_ELEMENTS))


def split(tensors: Sequence[Tensor], count: int) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors `[..., M, D]` into chunks of tokens."""
    return zip(*(tensor.tensor_split(count, dim=-2) for tensor in tensors), strict=True)


def _recomputed_sum(per_token: PerToken, count: int, tensors: Sequence[Tensor]) -> Tensor:
    """Compute each chunk once more in the backward pass: ZeRO 3 gathers a weight only for a call of its module."""
    total = tensors[0].new_zeros((), dtype=torch.float32)
    for parts in split(tensors, count):
        # ZeRO 3 empties a frozen weight after each call and refills it before the next; a shape check runs in between.
        values = checkpoint(per_token, *parts, use_reentrant=False, determinism_check="none")
        total = total + values.sum()
    return total


class _ChunkLoss(torch.autograd.Function):
    """A loss of some states that reads parameters; its gradient is computed chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, per_token: PerToken, count: int, grad_mode: bool, num_parameters: int, *tensors: Tensor
    ) -> Tensor:
        parameters, tensors = tensors[:num_parameters], tensors[num_parameters:]
        states_learn = grad_mode and ctx.needs_input_grad[4 + num_parameters]
        learns = states_learn or (grad_mode and num_parameters > 0)
        totals = [torch.zeros_like(parameter) for parameter in parameters]
        of_states = []
        scale = FP16_SCALE if _autocast_dtype(tensors[0]) == torch.float16 else 1.0
        loss = tensors[0].new_zeros((), dtype=torch.float32)
        for states, *others in split(tensors, count):
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
        teacher_head: nn.Module | None,
        count: int,
        grad_mode: bool,
        weight: Tensor,
        bias: Tensor | None,
        states: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        needs = [grad_mode and need for need in ctx.needs_input_grad[4:7]]
        dtype = _autocast_dtype(states) or weight.dtype
        scale = FP16_SCALE if dtype == torch.float16 else 1.0
        cast_weight, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        d_weight, d_bias, d_states = (
            torch.zeros_like(tensor) if need and tensor is not None else None
            for tensor, need in zip((weight, bias, states), needs, strict=True)
        )
        loss, first = states.new_zeros((), dtype=torch.float32), 0
        for part, *others in split((states, *tensors), count):
            part = part.to(dtype)
            with torch.autocast(states.device.type, enabled=False):
                logits = F.linear(part, cast_weight, cast_bias)
            loss += _loss_and_gradient(per_token, logits, with_logits(teacher_head, others), scale, learns=any(needs))
            last, d_logits = first + part.shape[-2], logits
            with torch.autocast(states.device.type, enabled=False):
                rows = d_logits.flatten(0, -2)
                if d_states is not None:
                    d_states[..., first:last, :] = (d_logits @ cast_weight) / scale
                if d_weight is not None and d_weight.dtype == dtype:
                    d_weight.addmm_(rows.T, part.flatten(0, -2))
                elif d_weight is not None:
                    d_weight.add_(rows.T @ part.flatten(0, -2), alpha=1 / scale)
                if d_bias is not None:
                    d_bias += rows.sum(0, dtype=d_bias.dtype) / scale
            first = last
        ctx.gradients = d_weight, d_bias, d_states
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        gradients = [None if gradient is None else gradient * grad for gradient in ctx.gradients]
        return None, None, None, None, *gradients, *[None] * (len(ctx.needs_input_grad) - 7)


def _loss_and_gradient(
    per_token: PerToken, logits: Tensor, tensors: Sequence[Tensor], scale: float, learns: bool
) -> Tensor:
    """Return the loss of a chunk and overwrite its logits by their gradient times `scale`; on a CPU, slice by slice."""
    count = -(-logits.numel() // SLICE_ELEMENTS) if logits.device.type == "cpu" else 1
    count = max(1, min(count, logits.shape[-2]))
    loss = logits.new_zeros((), dtype=torch.float32)
    for part, *others in split((logits, *tensors), count):
        values = part.detach().contiguous().requires_grad_(learns)
        with torch.set_grad_enabled(learns):
            of_slice = per_token(values, *(tensor.contiguous() for tensor in others)).sum()
        loss += of_slice.detach()
        if learns:
            part.copy_(_gradients(of_slice, [values], scale)[0])
    return loss


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
