"""Runs without dropout, however split over processes and micro-batches, and how far apart two of them are."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from distillm.models.generation import KeyedSampling
from tests.entry.every_method import FIELDS, METHODS, command_of

ROWS_PER_STEP, STEPS_PER_EPOCH = 8, 3  # 26 rows
SAME_GRADIENT, SAME_CURVE = 1e-6, 1e-4  # relative; fp32 sums in another order
SMALLEST = 1e-2  # numbers below it are compared absolutely


def steady_command(
    world: Any, pairs: Path, name: str, save: Path, processes: int = 1, accumulation: int = 1, more: Sequence[Any] = ()
) -> tuple[Callable[[], None], list[str]]:
    """Return script and options of a run in which no mask is drawn, and every term, case and refresh occurs.

    A new velocity field has dropout, which only `without_dropout` turns off.
    """
    words = ["--batch-size", ROWS_PER_STEP // processes // accumulation, "--gradient-accumulation-steps", accumulation]
    words += ["--precision", "fp32", "--log-interval", 1, "--lr", 1e-3, "--epochs", 2]
    if name not in FIELDS:
        method, needs = METHODS[name]
        words += ["--dev-num", 5, "--eval-batch-size", 2]
        words += ["--peft-lora-dropout", 0] if "--peft" in needs else []
        words += ["--capacity", 16] if method.startswith(("adaptive", "mixed")) else []  # two steps' rows
        words += ["--velocity-field-path", world.steady_field] if "contra" in method else []
    return command_of(world, pairs, name, save, *words, *more, student=world.steady_student)


def steady_run(*arguments: Any) -> list[str]:
    """Return the options of a `steady_command` of `finetune.py`."""
    return steady_command(*arguments)[1]


def without_dropout(monkeypatch: Any) -> None:
    monkeypatch.setattr("torch.nn.Dropout.forward", lambda self, states: states)


def end_responses_at_random(monkeypatch: Any) -> None:
    """Let a tenth of the drawn tokens be EOS (id 1), as an untrained model hardly would: responses differ in length."""
    choose = KeyedSampling.__call__

    def choose_or_end(self: KeyedSampling, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = choose(self, input_ids, scores)
        ends = self.uniforms[:, input_ids.shape[1] - self.prompt_width] < 0.1
        chosen[ends] = -torch.inf
        chosen[ends, 1] = 0.0
        return chosen

    monkeypatch.setattr(KeyedSampling, "__call__", choose_or_end)


def gradients_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return a copy of the gradients with which an optimiser is about to step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {str(index): p.grad.clone() for index, p in enumerate(parameters) if p.grad is not None}


def curve_deviation(one: list[dict], two: list[dict]) -> float:
    """Return the largest relative deviation among all numbers of two logs, which must record the same events."""
    assert [record.keys() for record in one] == [record.keys() for record in two]
    pairs = [(ours[name], theirs[name]) for ours, theirs in zip(one, two, strict=True) for name in ours]
    assert all(ours == theirs for ours, theirs in pairs if not isinstance(ours, float))
    numbers = [pair for pair in pairs if isinstance(pair[0], float)]
    return max(abs(ours - theirs) / max(abs(ours), SMALLEST) for ours, theirs in numbers)


def tensor_deviation(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference of two sets of tensors, relative to the norm of the first."""
    assert one.keys() == two.keys()
    ours, theirs = (torch.cat([tensors[name].double().flatten() for name in sorted(one)]) for tensors in (one, two))
    return float((ours - theirs).norm() / ours.norm())
