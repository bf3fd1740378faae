"""Feature dynamics distillation: what a model would say at its scheduled layers, and how depth changes it."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from distillm.divergences import forward_kl, log_probabilities
from distillm.reduction import mean_or_zero, selects

COSINE_EPS = 1e-5


def fdd_per_token(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Return trajectory + derivative loss of each token: `[N, T, V] x 2 -> [T]`, fp32.

    The logits are each model's own head on the hidden states of its N scheduled layers, without final norm.
    Trajectory: mean over layers of KL(teacher ‖ student) at the temperature, without a τ² factor.
    Derivative: mean over neighbouring layers of 1 - cos between the changes of log-probabilities (τ = 1).
    """
    trajectory = forward_kl(student_logits / temperature, teacher_logits / temperature).mean(0)
    if len(student_logits) == 1:
        return trajectory
    log_q, log_p = log_probabilities(student_logits, teacher_logits)
    cosine = cosine_similarity(log_q.diff(dim=0), log_p.diff(dim=0), dim=-1, eps=COSINE_EPS)
    return trajectory + (1 - cosine).mean(0)


def fdd_loss(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor, temperature: float = 2.0) -> Tensor:
    """Return the mean over the tokens that the mask selects: `[N, T, V] x 2, [T] -> scalar`."""
    selected = selects(mask)
    return mean_or_zero(fdd_per_token(student_logits[:, selected], teacher_logits[:, selected], temperature))
