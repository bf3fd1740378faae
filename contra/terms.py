"""CONTRA's parts of an objective: stage 1's for the velocity field, stage 2's for the student (docs/methods.md)."""

import torch
from torch import Tensor

from contra.alignment import alignment_per_token, step_size
from contra.flow_matching import flow_matching_per_token
from contra.projector import Projector
from contra.velocity_field import VelocityField
from data_utils.batching import TokenBatch
from data_utils.randomness import keyed_uniforms
from distillm.models.split_model import HiddenStates
from distillm.objective import Progress
from distillm.reduction import gather_layers
from distillm.token_losses import sum_over_chunks


class AlignmentTerm:
    """Pulls the student's states of response tokens along the flow, further as the curriculum proceeds."""

    name, source, needs_teacher = "contra", "instruction", False

    def __init__(self, weight: float, curriculum: str, velocity_field: VelocityField, projector: Projector):
        self.weight, self.curriculum = weight, curriculum
        self.velocity_field, self.projector = velocity_field, projector

    def count(self, batch: TokenBatch) -> int:
        return len(batch.response_positions)

    def total(
        self, batch: TokenBatch, student: HiddenStates, teacher: HiddenStates | None, progress: Progress
    ) -> Tensor:
        k = step_size(self.curriculum, progress.epoch, progress.epochs, progress.step, progress.total_steps)
        states = gather_layers(student.scheduled, batch.response_positions)

        def per_token(states: Tensor) -> Tensor:
            return alignment_per_token(self.velocity_field, self.projector, states, k)

        return sum_over_chunks(per_token, (states,), states.shape[0] * 4 * self.velocity_field.width)


class FlowMatchingTerm:
    """Trains the field to lead from the student's states to the teacher's, on all tokens except padding."""

    name, source, needs_teacher, weight = "velocity_field", "instruction", True, 1.0

    def __init__(self, velocity_field: VelocityField, projector: Projector, seed: int):
        self.velocity_field, self.projector, self.seed = velocity_field, projector, seed

    def count(self, batch: TokenBatch) -> int:
        return len(batch.token_positions)

    def total(
        self, batch: TokenBatch, student: HiddenStates, teacher: HiddenStates | None, progress: Progress
    ) -> Tensor:
        assert teacher is not None
        states = [gather_layers(model.scheduled, batch.token_positions) for model in (student, teacher)]
        uniforms = keyed_uniforms(self.seed, "flow time", progress.step - 1, batch.row_ids.tolist(), 1)
        row_times = torch.from_numpy(uniforms).float()
        times = row_times.repeat_interleave(batch.token_counts, dim=0).to(batch.input_ids.device)  # [N, 1]

        def per_token(student_states: Tensor, teacher_states: Tensor, times: Tensor) -> Tensor:
            states = student_states, teacher_states
            return flow_matching_per_token(self.velocity_field, self.projector, *states, times.squeeze(-1))

        width = states[0].shape[0] * 4 * self.velocity_field.width
        parameters = [*self.velocity_field.parameters(), *self.projector.parameters()]
        return sum_over_chunks(per_token, (*states, times), width, parameters)
