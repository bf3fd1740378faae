"""DistiLLM-2: make the teacher's responses (chosen) more likely, the student's own (rejected) less.

Source: DistiLLM-2 (arXiv 2503.07067); docs/methods.md.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from data_utils.batching import IGNORED, TokenBatch
from distillm.arguments import PairArguments
from distillm.divergences import Divergence, kullback_leibler, log_mixture, log_probabilities, skewed_forward_kl
from distillm.models.split_model import HiddenStates, SplitModel
from distillm.objective import Progress
from distillm.reduction import gather
from distillm.token_losses import sum_over_logits


class PairDivergences(NamedTuple):
    """The weighted divergence of each side of a pair, per token: `[M, V] x 2 -> [M]`."""

    chosen: Divergence
    rejected: Divergence


def rejecting_kl(student_logits: Tensor, teacher_logits: Tensor, *, skew: float = 0.1) -> Tensor:
    """K2 = KL(q ‖ (1-α) p + α sg[q]): a skewed reverse KL whose mixture passes no gradient to the student."""
    log_q, log_p = log_probabilities(student_logits, teacher_logits)
    return kullback_leibler(log_q, log_mixture(log_q.detach(), log_p, skew))


def pair_divergences(
    version: str = "v2", beta: float = 1.0, alpha_1: float = 0.1, alpha_2: float = 0.1
) -> PairDivergences:
    """Return the two sides: v1 is K2 on both, v2 is (2-β) K1 on chosen and β K2 on rejected."""
    if version == "v1":
        both = partial(rejecting_kl, skew=alpha_2)
        return PairDivergences(both, both)
    if version == "v2":
        return PairDivergences(
            chosen=lambda student, teacher: (2 - beta) * skewed_forward_kl(student, teacher, skew=alpha_1),
            rejected=lambda student, teacher: beta * rejecting_kl(student, teacher, skew=alpha_2),
        )
    raise ValueError(f"DistiLLM-2 has the versions v1 and v2, not {version!r}")


def token_weights(counts: Tensor) -> Tensor:
    """Return 1 / (response tokens of its row) for each response token: counts `[P]` -> `[M]`."""
    return (1 / counts).repeat_interleave(counts)


def contrastive_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    version: str = "v2",
    beta: float = 1.0,
    alpha_1: float = 0.1,
    alpha_2: float = 0.1,
) -> Tensor:
    """Return the loss of each pair, each side a mean over its response tokens.

    logits `[2P, T, V]`, labels `[2P, T]` aligned with them (-100 = not counted); the first P rows are the
    chosen responses, the last P the rejected ones of the same prompts -> `[P]`
    """
    if len(labels) % 2:
        raise ValueError(f"pairs are P chosen rows, then P rejected ones; {len(labels)} rows are odd")
    divergences = pair_divergences(version, beta, alpha_1, alpha_2)
    loss = student_logits.new_zeros(len(labels) // 2, dtype=torch.float32)
    sides = (divergences, student_logits.chunk(2), teacher_logits.chunk(2), labels.chunk(2))
    for divergence, student, teacher, side_labels in zip(*sides, strict=True):
        selected = side_labels != IGNORED
        values = divergence(student[selected], teacher[selected]) * token_weights(selected.sum(1))
        loss = loss.index_add(0, selected.nonzero()[:, 0], values)
    return loss


def gradual_beta(step: int, total_steps: int) -> float:
    """Return the β of `--gradual-beta`, step from 1: it rises from 1 to 1.5 in the first half of the run."""
    return 1 + 0.5 * min(1.0, 2 * step / total_steps)


class ContrastiveTerm:
    """The same loss as a part of the objective: summed over pairs, in chunks of tokens.

    A batch holds P chosen rows, then P rejected ones.
    """

    name, source, needs_teacher = "distillm2", "instruction", True

    def __init__(self, weight: float, version: str, arguments: PairArguments, student: SplitModel, teacher: SplitModel):
        self.weight, self.version, self.arguments = weight, version, arguments
        self.student, self.teacher = student, teacher

    def count(self, batch: TokenBatch) -> int:
        """Pairs, whatever their lengths: each side of a pair is a mean over its tokens."""
        return len(batch.row_ids) // 2

    def total(
        self, batch: TokenBatch, student: HiddenStates, teacher: HiddenStates | None, progress: Progress
    ) -> Tensor:
        assert teacher is not None
        arguments = self.arguments
        beta = gradual_beta(progress.step, progress.total_steps) if arguments.gradual_beta else 1.0
        divergences = pair_divergences(self.version, beta, arguments.base_alpha_1, arguments.base_alpha_2)
        chosen = int(batch.response_counts.chunk(2)[0].sum())  # the first positions
        weights = token_weights(batch.response_counts).to(student.last.device)
        tensors = (*(gather(states.last, batch.response_positions) for states in (student, teacher)), weights)
        parts = [tensor.split([chosen, len(tensor) - chosen]) for tensor in tensors]
        return torch.stack([self._side(*side) for side in zip(divergences, *parts, strict=True)]).sum()

    def _side(self, divergence: Divergence, student_states: Tensor, teacher_states: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum over one side's response tokens `[M, D]`, `[M]`."""

        def per_token(student_logits: Tensor, teacher_logits: Tensor, weights: Tensor) -> Tensor:
            return weights.squeeze(-1) * divergence(student_logits, teacher_logits)

        teacher = self.teacher, teacher_states
        return sum_over_logits(per_token, self.student, student_states, weights.unsqueeze(-1), teacher=teacher)
