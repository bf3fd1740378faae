"""DistiLLM-2: raise the student on the teacher's responses (chosen), lower it on its own (rejected)."""

from functools import partial
from typing import NamedTuple

from torch import Tensor

from distillm.divergences import (
    Divergence,
    kullback_leibler,
    log_mixture,
    log_probabilities,
    skewed_forward_kl,
)

IGNORED_LABEL = -100


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


def sequence_means(values: Tensor, selected: Tensor) -> Tensor:
    """Return each row's mean of the values of its selected tokens, 0 for a row without any.

    values `[M]`, in row-major order of the M selected positions; selected `[P, T]` bool -> `[P]`
    """
    rows = selected.nonzero()[:, 0]
    sums = values.new_zeros(len(selected)).index_add(0, rows, values)
    return sums / selected.sum(1).clamp(min=1)


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
        selected = side_labels != IGNORED_LABEL
        losses.append(sequence_means(divergence(student[selected], teacher[selected]), selected))
    return losses[0] + losses[1]


def gradual_beta(step: int, total_steps: int) -> float:
    """Return the β of `--gradual-beta`, step from 1: it rises from 1 to 1.5 in the first half of the run."""
    return 1 + 0.5 * min(1.0, 2 * step / total_steps)
