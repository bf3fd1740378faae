"""CONTRA's part of the objective (docs/methods.md, stage 2)."""

from torch import Tensor

from contra.alignment import alignment_per_token, step_size
from contra.projector import Projector
from contra.velocity_field import VelocityField
from data_utils.batching import TokenBatch
from distillm.models.split_model import HiddenStates
from distillm.objective import Progress
from distillm.reduction import gather_layers
from distillm.token_losses import sum_over_chunks


class AlignmentTerm:
    """Pulls the student's states along the flow, further as the curriculum proceeds; on response tokens."""

    name, source, needs_teacher = "contra", "instruction", False

    def __init__(self, weight: float, curriculum: str, velocity_field: VelocityField, projector: Projector):
        self.weight, self.curriculum = weight, curriculum
        self.velocity_field, self.projector = velocity_field, projector

    def count(self, batch: TokenBatch) -> Tensor:
        return batch.response_mask.sum()

    def total(
        self, batch: TokenBatch, student: HiddenStates, teacher: HiddenStates | None, progress: Progress
    ) -> Tensor:
        k = step_size(self.curriculum, progress.epoch, progress.epochs, progress.step, progress.total_steps)
        states = gather_layers(student.scheduled, batch.response_positions)

        def per_token(states: Tensor) -> Tensor:
            return alignment_per_token(self.velocity_field, self.projector, states, k)

        return sum_over_chunks(per_token, (states,), states.shape[0] * 4 * self.velocity_field.width)
