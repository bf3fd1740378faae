"""Stage 2: the student's states are turned towards where the learned flow would carry them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from contra.velocity_field import pair_indices
from data_utils.errors import UserError
from distillm.arguments import CURRICULA
from distillm.models.split_model import eval_mode
from distillm.reduction import gather_layers, mean_or_zero, positions_of


def step_size(curriculum: str, epoch: int, epochs: int, step: int, total: int) -> float:
    """Return how far along the flow the target lies, in (0, 1]; epoch and step are counted from 1."""
    sizes = {"epoch": epoch / epochs, "step": step / total, "none": 1.0}
    if curriculum not in sizes:
        raise UserError(f"unknown --curriculum {curriculum!r}; choose one of {', '.join(CURRICULA)}")
    return sizes[curriculum]


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within the block, keep modules in eval mode and without gradients; restore their settings afterwards."""
    learning = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        with eval_mode(*modules):
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def alignment_per_token(
    velocity_field: nn.Module, projector: nn.Module, student_states: Tensor, step_size: float
) -> Tensor:
    """Return each token's 1 - cos(a, sg[a + k v(a, 0, j)]) with a = P(h), averaged over pairs.

    student_states `[L, M, D_s]`, k = step_size -> `[M]`, fp32. The gradient reaches the student only.
    """
    num_pairs, num_tokens, _ = student_states.shape
    with frozen(velocity_field, projector):
        state = projector(student_states).float().flatten(0, 1)
        with torch.no_grad():
            velocity = velocity_field(state, 0.0, pair_indices(num_pairs, num_tokens, state.device))
            target = state + step_size * velocity.float()
    return (1 - cosine_similarity(state, target, dim=-1)).view(num_pairs, num_tokens).mean(0)


def alignment_loss(
    velocity_field: nn.Module,
    projector: nn.Module,
    student_states: Sequence[Tensor],
    mask: Tensor,
    step_size: float,
) -> Tensor:
    """Return the mean over layer pairs and selected tokens: L states `[B, T, D_s]`, mask `[B, T]`."""
    stacked = gather_layers(student_states, positions_of(mask))
    return mean_or_zero(alignment_per_token(velocity_field, projector, stacked, step_size))
