"""What the training loop reads, and what it must remember to resume."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from data_utils.files import write_json
from distillm.arguments import TrainingArguments
from distillm.objective import Progress
from distillm.training.schedule import learning_rate


@dataclass(frozen=True)
class TrainerSettings:
    """What the loop itself reads; intervals count optimiser steps, -1 means once an epoch."""

    save: Path
    total_steps: int
    steps_per_epoch: int
    seed: int
    precision: str
    lr: float
    lr_min: float
    warmup_iters: int
    lr_decay_style: str
    log_interval: int
    eval_interval: int
    save_interval: int
    only_save_last: bool
    log_term_gradients: bool

    @classmethod
    def of_run(
        cls, training: TrainingArguments, steps_per_epoch: int, precision: str, log_term_gradients: bool
    ) -> "TrainerSettings":
        """Return what a run's options ask for."""
        return cls(
            save=Path(training.save),
            total_steps=training.total_iters or training.epochs * steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            seed=training.seed,
            precision=precision,
            lr=training.lr,
            lr_min=training.lr_min,
            warmup_iters=training.warmup_iters,
            lr_decay_style=training.lr_decay_style,
            log_interval=training.log_interval,
            eval_interval=training.eval_interval,
            save_interval=training.save_interval,
            only_save_last=training.only_save_last,
            log_term_gradients=log_term_gradients,
        )

    @property
    def epochs(self) -> int:
        return -(-self.total_steps // self.steps_per_epoch)

    def is_due(self, interval: int, step: int) -> bool:
        """Say whether something with this interval is due after `step` (from 1); always after the last."""
        every = self.steps_per_epoch if interval == -1 else interval
        return step == self.total_steps or step % every == 0

    def is_epoch_end(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0

    def progress(self, step: int) -> Progress:
        """Describe `step`, counted from 1."""
        return Progress(step, self.total_steps, (step - 1) // self.steps_per_epoch + 1, self.epochs)

    def learning_rate(self, step: int) -> float:
        return learning_rate(step - 1, self.total_steps, self.lr, self.lr_min, self.warmup_iters, self.lr_decay_style)


@dataclass
class TrainerState:
    """What the loop must remember to go on; `step` counts the finished ones."""

    step: int = 0
    work_done: int = 0  # finished pieces of the work after this step
    records: int = 0  # in the log
    best_score: float | None = None  # of the validations so far, the one before training included
    best_step: int = 0  # 0: nothing has beaten the start yet
    # What each step since the last log line adds to the next one: its terms, then its gradient norm: `[terms + 1]`.
    pending: list[Tensor] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        pending = [result.tolist() for result in self.pending]
        write_json(folder / "trainer.json", {**vars(self), "pending": pending})

    def load(self, folder: Path) -> None:
        state = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
        vars(self).update(state, pending=[torch.tensor(result) for result in state["pending"]])
