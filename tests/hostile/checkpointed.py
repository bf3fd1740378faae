"""A run with all that a checkpoint may hold, and how it comes back to one."""

from pathlib import Path
from typing import Any

import torch
from distillm.training.trainer_state import TrainerState
from torch import nn

from contra.projector import Projector
from contra.training import FieldRefresh, FieldSettings, FieldTrainer
from contra.velocity_field import VelocityField
from data_utils.errors import UserError
from distillm.models.split_model import SplitModel
from distillm.on_policy import AdaptiveThreshold, OnPolicyRows, OnPolicySettings, ReplayBuffer
from distillm.training.checkpoint import Checkpoints
from distillm.training.engine import TorchEngine
from tests.distillm.tiny import ALONE, make_gpt2, make_rows


class Run:
    """All that a run with CONTRA and on-policy rows puts into a checkpoint, a few steps along."""

    def __init__(self, save: Path, width: int = 8, steps: int = 0):
        student = make_gpt2(width, 2)
        self.engine = TorchEngine(student, 0.1, 1.0, "fp32", ALONE)
        self.state = TrainerState(step=steps, best_score=0.5 * steps)
        self.buffer = ReplayBuffer(8)
        settings = OnPolicySettings("adaptive", 0.5, "constant", 40, 1)
        nobody: Any = None  # generates, or gives batches: no step is taken here
        self.policy = OnPolicyRows(settings, AdaptiveThreshold(0.5, 0.1), self.buffer, student, nobody)
        torch.manual_seed(steps)
        models = SplitModel(student), SplitModel(make_gpt2(8, 2))
        field = VelocityField(8, 4, 1, 1), Projector(width, 8)
        self.trainer = FieldTrainer(*field, *models, FieldSettings(9, 0.1, 0.01, "cosine", 0, 0.1, "fp32", 1), ALONE)
        refresh = FieldRefresh(self.trainer, nobody, 1, 1)
        self.checkpoints = Checkpoints(save, self.engine, [self.state, self.policy, refresh], ALONE)
        for step in range(steps):
            self.advance(step)

    def advance(self, step: int) -> None:
        torch.manual_seed(step)
        self.engine.backward(self.engine.module(input_ids=torch.randint(2, 50, (2, 5))).logits.square().mean())
        self.engine.step(0.01)
        self.buffer.add(make_rows(2, seed=step))
        self.policy.update(float(step))
        for parameter in self.trainer.parameters:
            parameter.grad = torch.randn_like(parameter)
        self.trainer.optimizer.step()
        self.trainer.step += 1

    def values(self) -> list:
        optimizers = [optimizer.state_dict()["state"] for optimizer in (self.engine.optimizer, self.trainer.optimizer)]
        modules: list[nn.Module] = [self.engine.module, self.trainer.velocity_field, self.trainer.projector]
        tensors = [{name: t.tolist() for name, t in module.state_dict().items()} for module in modules]
        moments = [
            {(index, name): tensor.tolist() for index, entry in state.items() for name, tensor in entry.items()}
            for state in optimizers
        ]
        rows = self.buffer.state_dict()["rows"]
        return [self.state, tensors, moments, rows, self.policy.threshold.state_dict(), self.policy.cases]


def resume(run: Run) -> str | None:
    """Resume as the trainer does; return the one line of a refusal."""
    try:
        run.checkpoints.clean()
        latest = run.checkpoints.latest()
        if latest is not None:
            run.checkpoints.load(latest)
    except UserError as error:
        assert str(error).strip() and "\n" not in str(error)
        return str(error)
    return None


def newest(folder: Path) -> Path:
    return folder / (folder / "latest").read_text().strip()
