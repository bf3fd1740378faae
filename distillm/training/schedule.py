"""When things happen in a run, and the learning rate of each step; steps are counted from 1."""

import math
from dataclasses import dataclass

from distillm.arguments import TrainingArguments
from distillm.objective import Progress


@dataclass(frozen=True)
class Schedule:
    """The steps of a training run, and what is due after each; an interval of -1 means once per epoch."""

    training: TrainingArguments
    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of_run(cls, training: TrainingArguments, steps_per_epoch: int) -> "Schedule":
        """Return the schedule of `--epochs`, or of `--total-iters`."""
        return cls(training, steps_per_epoch, training.total_iters or training.epochs * steps_per_epoch)

    def is_due(self, interval: int, step: int) -> bool:
        """Say whether something with this interval is due after a step; always after the last."""
        every = self.steps_per_epoch if interval == -1 else interval
        return step == self.total_steps or step % every == 0

    def is_epoch_end(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0

    def progress(self, step: int) -> Progress:
        epoch, epochs = (-(-count // self.steps_per_epoch) for count in (step, self.total_steps))
        return Progress(step, self.total_steps, epoch, epochs)

    def learning_rate(self, step: int) -> float:
        training = self.training
        shape = training.lr, training.lr_min, training.warmup_iters, training.lr_decay_style
        return learning_rate(step, self.total_steps, *shape)


def learning_rate(step: int, total_steps: int, peak: float, minimum: float, warmup_steps: int, style: str) -> float:
    """Return the learning rate of a step (the published scripts: cosine, no warm-up).

    Every style rises linearly to `peak` over `warmup_steps`, then decays over the remaining steps:
    `noam` is polynomial with power 0.5, `constant` stays.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    done = (step - 1 - warmup_steps) / max(1, total_steps - warmup_steps)
    remaining = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        "noam": math.sqrt(max(0.0, 1.0 - done)),
    }[style]
    return minimum + (peak - minimum) * remaining
