"""DistiLLM-2: raise the student on the teacher's responses (chosen), lower it on its own (rejected)."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from data_utils.batching import IGNORED, TokenBatch
from distillm.divergences import Divergence, kullback_leibler, log_mixture, log_probabilities, skewed_forward_kl
from distillm.models.split_model import HiddenStates, SplitModel
from distillm.objective import Progress
from distillm.reduction import gather
from distillm.token_losses import sum_over_chunks


@dataclass(frozen=True)
class ContrastiveSettings:
    """`version` v1 or v2; the α are the mixing weights of K1 and K2; β rises when it is gradual."""

    version: str
    gradual_beta: bool
    alpha_1: float
    alpha_2: float


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


def row_weights(selected: Tensor) -> Tensor:
    """Return 1 / (selected tokens of its row) for each selected token: `[P, T]` bool -> `[M]`, fp32."""
    return (1 / selected.sum(1, keepdim=True).clamp(min=1)).expand(selected.shape)[selected]


def sequence_means(values: Tensor, selected: Tensor) -> Tensor:
    """Return each row's mean of the values of its selected tokens, 0 for a row without any.

    values `[M]`, in row-major order of the M selected positions; selected `[P, T]` bool -> `[P]`
    """
    rows = selected.nonzero()[:, 0]
    return values.new_zeros(len(selected)).index_add(0, rows, values * row_weights(selected))


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
        raise ValueError(f"pairs come as chosen rows, then as many rejected ones; {len(labels)} is odd")
    losses = []
    sides = zip(
        pair_divergences(version, beta, alpha_1, alpha_2),
        student_logits.chunk(2),
        teacher_logits.chunk(2),
        labels.chunk(2),
        strict=True,
    )
    for divergence, student, teacher, side_labels in sides:
        selected = side_labels != IGNORED
        losses.append(sequence_means(divergence(student[selected], teacher[selected]), selected))
    return losses[0] + losses[1]


def gradual_beta(step: int, total_steps: int) -> float:
    """Return the β of `--gradual-beta`, step from 1: it rises from 1 to 1.5 in the first half of the run."""
    return 1 + 0.5 * min(1.0, 2 * step / total_steps)


class ContrastiveTerm:
    """DistiLLM-2's part of the objective; a batch holds P chosen rows, then P rejected ones (docs/methods.md)."""

    name, source, needs_teacher = "distillm2", "instruction", True

    def __init__(self, weight: float, settings: ContrastiveSettings, student: SplitModel, teacher: SplitModel):
        self.weight, self.settings, self.student, self.teacher = weight, settings, student, teacher

    def count(self, batch: TokenBatch) -> Tensor:
        """Pairs, whatever their lengths: each side of a pair is a mean over its tokens."""
        return batch.labels.new_tensor(len(batch.row_ids) // 2)

    def total(
        self, batch: TokenBatch, student: HiddenStates, teacher: HiddenStates | None, progress: Progress
    ) -> Tensor:
        assert teacher is not None
        settings = self.settings
        beta = gradual_beta(progress.step, progress.total_steps) if settings.gradual_beta else 1.0
        divergences = pair_divergences(settings.version, beta, settings.alpha_1, settings.alpha_2)
        chosen = int(batch.response_counts.chunk(2)[0].sum())  # the first positions: they are sorted
        parts = [chosen, len(batch.response_positions) - chosen]
        weights = (1 / batch.response_counts).repeat_interleave(batch.response_counts).to(student.last.device)
        sides = zip(
            divergences,
            gather(student.last, batch.response_positions).split(parts),
            gather(teacher.last, batch.response_positions).split(parts),
            weights.split(parts),
            strict=True,
        )
        return torch.stack([self._side(*side) for side in sides]).sum()

    def _side(self, divergence: Divergence, student_states: Tensor, teacher_states: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum over one side's response tokens `[M, D]`, `[M]`, in chunks of tokens."""

        def per_token(student_states: Tensor, teacher_states: Tensor, weights: Tensor) -> Tensor:
            with torch.no_grad():
                teacher_logits = self.teacher.head(teacher_states)
            return weights.squeeze(-1) * divergence(self.student.head(student_states), teacher_logits)

        tensors = student_states, teacher_states, weights.unsqueeze(-1)
        return sum_over_chunks(per_token, tensors, self.student.vocab_size, self.student.head)
