"""Feature dynamics distillation: a model's predictions at its scheduled layers, and how they change with depth."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from data_utils.batching import TokenBatch
from distillm.divergences import forward_kl, log_probabilities
from distillm.models.split_model import HiddenStates, SplitModel
from distillm.objective import Progress
from distillm.reduction import gather_layers, mean_or_zero, selects
from distillm.token_losses import sum_over_logits

COSINE_EPS = 1e-5


def fdd_per_token(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Return trajectory + derivative loss of each token: `[N, T, V] x 2 -> [T]`, fp32.

    The logits come from each model's own head, applied to the states of its N scheduled layers, without final norm.
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


class FeatureDynamicsTerm:
    """FDD's part of the objective: on attention-mask tokens, prompt included (docs/methods.md)."""

    name, source, needs_teacher = "fdd", "instruction", True

    def __init__(self, weight: float, student: SplitModel, teacher: SplitModel):
        self.weight, self.student, self.teacher = weight, student, teacher

    def count(self, batch: TokenBatch) -> int:
        return len(batch.token_positions)

    def total(
        self, batch: TokenBatch, student: HiddenStates, teacher: HiddenStates | None, progress: Progress
    ) -> Tensor:
        assert teacher is not None
        states, teacher_states = (gather_layers(x.scheduled, batch.token_positions) for x in (student, teacher))
        return sum_over_logits(fdd_per_token, self.student, states, teacher=(self.teacher, teacher_states))
