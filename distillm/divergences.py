"""The divergences between teacher p and student q, per token: `[..., V] x 2 -> [...]`.

fp32, natural logarithm, no mask, no reduction. All are >= 0 and 0 at equality, up to rounding. Mixtures are
formed in log space, so tiny probabilities do not underflow. A vocabulary entry whose logit is -inf in either
model contributes 0 to the sum; each model's probabilities still sum to 1 over its own finite entries, so a value can
be negative where the models exclude different ones.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Divergence = Callable[..., Tensor]  # (student_logits, teacher_logits, *, parameter)

# Stands for log 0 in both models: its exp is exactly 0, and 0 times a finite difference is 0; -inf gives NaN.
EXCLUDED = -1e4


def log_probabilities(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log q, log p), `[..., V]` fp32, with `EXCLUDED` in both where either model's logit is -inf."""
    log_q, log_p = (logits.float().log_softmax(-1) for logits in (student_logits, teacher_logits))
    if _all_finite_on_cpu(student_logits) and _all_finite_on_cpu(teacher_logits):
        return log_q, log_p
    excluded = torch.isneginf(student_logits) | torch.isneginf(teacher_logits)
    return torch.where(excluded, EXCLUDED, log_q), torch.where(excluded, EXCLUDED, log_p)


def _all_finite_on_cpu(logits: Tensor) -> bool:
    """Say whether nothing has to be excluded, which saves a fifth of the time; a GPU would wait for the answer."""
    return logits.device.type == "cpu" and logits.numel() > 0 and bool(logits.amin() > -math.inf)


def kullback_leibler(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a ‖ b) from log-probabilities."""
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def log_mixture(log_a: Tensor, log_b: Tensor, weight_a: float) -> Tensor:
    """log(w a + (1 - w) b) from log-probabilities."""
    if not 0.0 <= weight_a <= 1.0:
        raise ValueError(f"the weight of a mixture must be in [0, 1], not {weight_a}")
    if weight_a in (0.0, 1.0):
        return log_a if weight_a else log_b
    return torch.logaddexp(log_a + math.log(weight_a), log_b + math.log1p(-weight_a))


def forward_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(p ‖ q)."""
    log_q, log_p = log_probabilities(student_logits, teacher_logits)
    return kullback_leibler(log_p, log_q)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(q ‖ p)."""
    log_q, log_p = log_probabilities(student_logits, teacher_logits)
    return kullback_leibler(log_q, log_p)


def jensen_shannon(student_logits: Tensor, teacher_logits: Tensor, *, mix: float = 0.1) -> Tensor:
    """λ KL(q ‖ m) + (1-λ) KL(p ‖ m) with m = (1-λ) p + λ q; λ is `mix`."""
    log_q, log_p = log_probabilities(student_logits, teacher_logits)
    log_m = log_mixture(log_q, log_p, mix)
    return mix * kullback_leibler(log_q, log_m) + (1 - mix) * kullback_leibler(log_p, log_m)


def total_variation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """½ Σ |p - q|."""
    log_q, log_p = log_probabilities(student_logits, teacher_logits)
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def skewed_forward_kl(student_logits: Tensor, teacher_logits: Tensor, *, skew: float = 0.1) -> Tensor:
    """KL(p ‖ α p + (1-α) q); α is `skew`."""
    log_q, log_p = log_probabilities(student_logits, teacher_logits)
    return kullback_leibler(log_p, log_mixture(log_p, log_q, skew))


def skewed_reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, skew: float = 0.1) -> Tensor:
    """KL(q ‖ (1-α) p + α q), the gradient flowing through the mixture too; α is `skew`."""
    log_q, log_p = log_probabilities(student_logits, teacher_logits)
    return kullback_leibler(log_q, log_mixture(log_q, log_p, skew))


DIVERGENCES: dict[str, Divergence] = {
    "fkl": forward_kl,
    "rkl": reverse_kl,
    "jsd": jensen_shannon,
    "tvd": total_variation,
    "sfkl": skewed_forward_kl,
    "srkl": skewed_reverse_kl,
}
SKEWED = ("sfkl", "srkl")


def select_divergence(name: str, skew: float) -> Divergence:
    """Return the divergence of a canonical name; the skewed ones use `skew`."""
    divergence = DIVERGENCES[name]
    return partial(divergence, skew=skew) if name in SKEWED else divergence
