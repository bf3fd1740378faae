"""Stage 1: the velocity field learns the straight path from a student's projected state to the teacher's.

for batch in batches:
    states = student's and teacher's hidden states of the scheduled layers, both models frozen
    t = torch.rand(batch_size)
    loss = flow_matching_loss(velocity_field, projector, *states, attention_mask, t)
    loss.backward(); optimizer.step(); optimizer.zero_grad()
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from contra.velocity_field import pair_indices
from distillm.reduction import gather_layers, mean_or_zero, positions_of


class PathSample(NamedTuple):
    """A point on a path and the velocity there."""

    x_t: Tensor
    dx_t: Tensor
    t: Tensor


class LinearPath:
    """x_t = (1-t) x_0 + t x_1, at the constant velocity x_1 - x_0."""

    def sample(self, x_0: Tensor, x_1: Tensor, t: Tensor) -> PathSample:
        """x_0, x_1 `[B, ..., D]`, t `[B]` or scalar."""
        time = t.reshape(t.shape + (1,) * (x_0.ndim - t.ndim))
        return PathSample(x_t=(1 - time) * x_0 + time * x_1, dx_t=x_1 - x_0, t=t)


def flow_matching_per_token(
    velocity_field: nn.Module, projector: nn.Module, student_states: Tensor, teacher_states: Tensor, t: Tensor
) -> Tensor:
    """Return each token's squared velocity error, averaged over pairs and dimensions.

    student_states `[L, M, D_s]`, teacher_states `[L, M, D_t]`, t `[M]` -> `[M]`, fp32. The velocity is not
    detached: the projector learns through both the point and the velocity.
    """
    if student_states.shape[:2] != teacher_states.shape[:2]:
        raise ValueError(
            f"student and teacher must have the same layer pairs and tokens, "
            f"not {list(student_states.shape[:2])} and {list(teacher_states.shape[:2])}"
        )
    num_pairs, num_tokens, _ = student_states.shape
    x_0 = projector(student_states).flatten(0, 1)
    x_1 = teacher_states.flatten(0, 1).to(x_0.dtype)
    x_t, dx_t, times = LinearPath().sample(x_0, x_1, t.to(x_0.dtype).repeat(num_pairs))
    velocity = velocity_field(x_t, times, pair_indices(num_pairs, num_tokens, x_t.device))
    errors = (velocity.float() - dx_t.float()).square().mean(-1)
    return errors.view(num_pairs, num_tokens).mean(0)


def flow_matching_loss(
    velocity_field: nn.Module,
    projector: nn.Module,
    student_states: Sequence[Tensor],
    teacher_states: Sequence[Tensor],
    mask: Tensor,
    t: Tensor,
) -> Tensor:
    """Return the mean over layer pairs and selected tokens.

    student_states L x `[B, T, D_s]`, teacher_states L x `[B, T, D_t]`, mask `[B, T]`, t `[B]` in [0, 1]
    """
    if len(student_states) != len(teacher_states):
        raise ValueError(
            f"{len(student_states)} student layers cannot be paired with {len(teacher_states)} teacher layers"
        )
    positions = positions_of(mask)
    per_token = flow_matching_per_token(
        velocity_field,
        projector,
        gather_layers(student_states, positions),
        gather_layers(teacher_states, positions),
        t[positions // mask.shape[1]],
    )
    return mean_or_zero(per_token)
