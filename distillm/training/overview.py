"""What a training run reports: a few lines at its start, one at its end."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from data_utils.response_pairs import Pair
from distillm.training.schedule import Schedule
from distillm.training.setup import Run


def overview(
    what: str,
    run: Run,
    models: Mapping[str, tuple[str | None, nn.Module | None]],
    rows: Mapping[str, tuple[str | None, Sequence[Any] | None]],
    schedule: Schedule,
) -> list[str]:
    """Return at most nine lines; `models` and `rows` map a name to its source and content (None: there is none)."""
    training, world = run.arguments.training, run.world
    engine = "DeepSpeed" if training.deepspeed else "PyTorch"
    warmup = f", warm-up of {training.warmup_iters} steps" if training.warmup_iters else ""
    return [
        f"{what}: {counted(world.size, 'process', 'processes')} on {world.device.type}, {run.precision}, {engine}",
        *(f"{name}: {place}, {describe_size(model)}" for name, (place, model) in models.items() if model is not None),
        *(f"{name}: {place}, {describe_rows(items)}" for name, (place, items) in rows.items() if items is not None),
        f"steps: {schedule.total_steps}, {schedule.steps_per_epoch} per epoch; "
        f"micro-batch {training.batch_size} x accumulation {training.gradient_accumulation_steps} "
        f"x processes {world.size} = {training.rows_per_step(world.size)} rows per step",
        f"learning rate: {training.lr:g} to {training.lr_min:g}, {training.lr_decay_style}{warmup}",
        f"save folder: {training.save}",
    ]


def describe_size(model: nn.Module) -> str:
    """Return a model's number of parameters, and of those that are trained if that differs."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]  # ds_: under ZeRO 3
    every, trained = sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
    return f"{short(every)} parameters" + (f", {short(trained)} of them trained" if 0 < trained < every else "")


def describe_rows(items: Sequence[Any]) -> str:
    """Return the number of rows, or pairs of rows, and of their tokens."""
    pairs = isinstance(items[0], Pair)
    tokens = sum(len(item.chosen) + len(item.rejected) if pairs else len(item) for item in items)
    return f"{len(items):,} {'pairs' if pairs else 'rows'}, {tokens:,} tokens"


def describe_end(started: float, step: int, kept: str, save: str) -> str:
    """Return the last line of a run that began at `started` (of `time.monotonic`)."""
    return f"finished after step {step} in {duration(time.monotonic() - started)}: {kept}, in {save}"


def duration(seconds: float) -> str:
    """Return a time as a person reads it: 41 s, 2 min 05 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def short(number: int) -> str:
    """Return a count with three digits: 124 M, 3.44 k."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
