"""Stage 1 and refresh: train velocity field and projector on frozen models, with the student's loop and engine."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from contra.field_files import save_field
from contra.projector import Projector
from contra.terms import FlowMatchingTerm
from contra.velocity_field import VelocityField
from data_utils.files import write_json
from distillm.arguments import ContraArguments
from distillm.distributed import World
from distillm.interruption import Interrupted
from distillm.models.split_model import SplitModel, eval_mode
from distillm.objective import Objective, Progress
from distillm.progress_bar import progress_bar
from distillm.training.batches import StepBatches
from distillm.training.engine import TorchEngine
from distillm.training.schedule import Schedule
from distillm.training.steps import OptimiserSteps


class FieldEngine(TorchEngine):
    """Field and projector with one AdamW that lives as long as the run. No clipping, as published."""

    def __init__(self, velocity_field: VelocityField, projector: Projector, weight_decay: float, world: World):
        # Both compute in fp32 even in an fp16 run (`contra.precision`): their loss needs no scaling.
        super().__init__(nn.ModuleList([velocity_field, projector]), weight_decay, 0.0, "fp32", world)
        self.velocity_field, self.projector = velocity_field, projector

    def export(self, folder: Path) -> None:
        if self.world.is_main:
            save_field(folder, self.velocity_field, self.projector)


def field_steps(
    velocity_field: VelocityField,
    projector: Projector,
    student: SplitModel,
    teacher: SplitModel,
    batches: StepBatches,
    schedule: Schedule,
    precision: str,
    world: World,
) -> OptimiserSteps:
    """Return the optimiser steps of flow matching; `schedule` spans stage 1, or all refreshes of a run."""
    engine = FieldEngine(velocity_field, projector, schedule.training.weight_decay, world)
    term = FlowMatchingTerm(velocity_field, projector, schedule.training.seed)
    return OptimiserSteps(
        "velocity field",
        engine=engine,
        objective=Objective([term], student, teacher, world, student_learns=False),
        watched=engine.module,
        batches=batches,
        schedule=schedule,
        precision=precision,
        world=world,
    )


class FieldRefresh:
    """After every `velocity_update_interval` epochs except the last, adapt the field to the current student."""

    def __init__(self, steps: OptimiserSteps, contra: ContraArguments):
        self.steps, self.contra = steps, contra
        self.step = 0  # finished, over all refreshes
        self.losses: list[Tensor] = []  # of a refresh that has begun

    @staticmethod
    def total_steps(epochs: int, steps_per_epoch: int, contra: ContraArguments) -> int:
        """Return the steps of all refreshes of a run of `epochs` epochs."""
        return max(0, epochs - 1) // contra.velocity_update_interval * contra.velocity_epochs * steps_per_epoch

    def __call__(self, done: Progress) -> dict[str, float]:
        if done.epoch == done.epochs or done.epoch % self.contra.velocity_update_interval:
            return {}
        total = self.contra.velocity_epochs * self.steps.schedule.steps_per_epoch
        first, rank = len(self.losses), self.steps.world.rank
        with (
            eval_mode(self.steps.objective.student.model),
            progress_bar(range(first, total), total=total, initial=first, desc=self.steps.name, rank=rank) as bar,
        ):
            for _ in bar:
                self.losses.append(self.steps.take(self.step + 1)[0].cpu())
                self.step += 1
                if self.steps.interrupted:
                    raise Interrupted
        losses, self.losses = self.losses, []
        return {"velocity_field_loss": float(torch.stack(losses).mean())}

    def export(self, folder: Path) -> None:
        """Write the refreshed field and projector beside the model."""
        self.steps.engine.export(folder)

    def save(self, folder: Path) -> None:
        folder = folder / "velocity_field"
        folder.mkdir()
        self.steps.engine.save_state(folder)
        write_json(folder / "refresh.json", {"step": self.step, "losses": [float(loss) for loss in self.losses]})

    def load(self, folder: Path) -> None:
        folder = folder / "velocity_field"
        self.steps.engine.load_state(folder)
        state = json.loads((folder / "refresh.json").read_text(encoding="utf-8"))
        self.step, self.losses = state["step"], [torch.tensor(loss) for loss in state["losses"]]
