"""A loss or gradient that is not finite is named, and ends a run before the step, without damage."""

import math
import os
import re
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

import finetune
import train_velocity_field
from contra.terms import AlignmentTerm, FlowMatchingTerm
from distillm.distillm2 import ContrastiveTerm
from distillm.fdd import FeatureDynamicsTerm
from distillm.models.split_model import SplitModel
from distillm.objective import CrossEntropyTerm, DivergenceTerm
from tests.entry.conftest import error_line
from tests.entry.every_method import FIELDS, command_of
from tests.entry.outputs import checkpoint_of, result, saved_step
from tests.entry.processes import call, run_on

BAD_STEP = 7
FIELD = "velocity_field"


class InfiniteGradient(torch.autograd.Function):
    """The identity, with a gradient that overflows."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


# The value of the loss, and what its gradient is then.
POISONS: dict[str, Callable] = {
    "nan with a finite gradient": lambda value: value + math.nan,
    "inf with a finite gradient": lambda value: value + math.inf,
    "nan with its gradient": lambda value: value * math.nan,
    "finite with an infinite gradient": InfiniteGradient.apply,
}
# What computes the sum of a term over a batch, and a training run that has the term.
TERMS = {
    "cross_entropy": (CrossEntropyTerm, "total", "lm"),
    "fkl": (DivergenceTerm, "total", "kd"),
    "corpus": (CrossEntropyTerm, "total", "kd"),
    "fdd": (FeatureDynamicsTerm, "total", "srkl-fdd"),
    "contra": (AlignmentTerm, "total", "rkl-contra-fdd"),
    "distillm2": (ContrastiveTerm, "total", "distillm2-v1"),
    FIELD: (FlowMatchingTerm, "total", FIELDS[0]),
}


class Spoilt:
    """The rows of the step that was spoilt, and the weights that its optimiser had, as they were and as they are."""

    def __init__(self):
        self.steps, self.rows = 0, []
        self.now, self.before = [], []


@pytest.fixture
def spoil(monkeypatch):
    """Spoil a term after a number of optimiser steps."""

    def prepare(name, poison, after):
        owner, method, _ = TERMS[name]
        original, optimiser_step, seen = getattr(owner, method), torch.optim.AdamW.step, Spoilt()

        def total(term, batch, *others):
            value = original(term, batch, *others)
            if getattr(term, "name", name) != name or seen.steps != after:
                return value
            seen.rows.extend(batch.row_ids.tolist())
            return POISONS[poison](value)

        def step(optimizer, *arguments, **keywords):
            value = optimiser_step(optimizer, *arguments, **keywords)
            seen.steps += 1
            seen.now = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            seen.before = [parameter.detach().clone() for parameter in seen.now]
            return value

        monkeypatch.setattr(owner, method, total)
        monkeypatch.setattr(torch.optim.AdamW, "step", step)
        return seen

    return prepare


def rows_in(line, words=""):
    match = re.search(rf"{words}rows \[(\d+(?:, \d+)*)\]", line)
    assert match, line
    return [int(word) for word in match[1].split(", ")]


def assert_names_the_term(line, name, poison):
    value = {"nan": "nan", "inf": "inf", "finite": r"[\d.]+"}[poison.split()[0]]
    gradient = r"[\d.]+" if "a finite gradient" in poison else "(nan|inf)"
    assert re.search(rf"\b{name} {value} with gradient {gradient}[,;]", line)
    assert len(re.findall(r"(nan|inf) with|with gradient (nan|inf)", line)) == 1, "the other terms are finite"
    assert ("the gradient is not finite" if value == r"[\d.]+" else "the loss is not finite") in line


CASES = sorted({*((name, "nan with its gradient") for name in TERMS if name != FIELD), *(("fkl", p) for p in POISONS)})


def assert_is_not_taken(name, poison, world, pairs, run, spoil, save):
    more = ["--save-interval", 4, "--batch-size", 2, "--gradient-accumulation-steps", 2, "--epochs", 2]
    seen = spoil(name, poison, BAD_STEP - 1 + (6 if name == "contra" else 0))  # of a refresh
    line = error_line(run(*command_of(world, pairs, TERMS[name][2], save, *more)))
    assert re.search(rf"step {BAD_STEP} was not taken: .*(nan|inf)", line)
    source = "corpus " if name == "corpus" else "instruction "
    assert rows_in(line, source) == list(dict.fromkeys(seen.rows)) and len(set(seen.rows)) >= 4
    assert seen.now and all(map(torch.equal, seen.now, seen.before))
    assert saved_step(save) == 4
    for path in checkpoint_of(save).rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    return line


@pytest.mark.parametrize(("name", "poison"), CASES)
def test_a_step_that_is_not_finite_is_not_taken_and_names_step_term_and_rows(
    name, poison, world, pairs, run, spoil, tmp_path
):
    assert_names_the_term(assert_is_not_taken(name, poison, world, pairs, run, spoil, tmp_path / "run"), name, poison)


@pytest.mark.parametrize("poison", POISONS)
def test_bug_a_step_of_the_velocity_field_that_is_not_finite_is_not_taken(poison, world, pairs, run, spoil, tmp_path):
    """It was taken, and from then on the field was NaN, in its next checkpoint, too."""
    assert_is_not_taken(FIELD, poison, world, pairs, run, spoil, tmp_path / "run")


def test_a_refresh_that_is_not_finite_ends_the_run_and_its_last_checkpoint_stays(train, spoil, tmp_path):
    seen = spoil(FIELD, "finite with an infinite gradient", after=8)  # in the third step of the refresh
    outcome = train(tmp_path / "run", "--save-interval", 4, "--epochs", 2, type="rkl-contra")
    line = error_line(outcome)
    assert "was not taken" in line and rows_in(line) == list(dict.fromkeys(seen.rows))
    assert all(map(torch.equal, seen.now, seen.before))
    assert saved_step(tmp_path / "run") == 4


def test_a_dry_run_of_stage_1_with_a_model_that_is_not_finite_is_one_line(world, run, spoil, tmp_path):
    spoil(FIELD, "nan with its gradient", after=0)
    outcome = run(train_velocity_field.main, world.stage_1(tmp_path / "run", "--dry-run"))
    assert "velocity field: the loss of step 1 is not finite (velocity_field nan)" in error_line(outcome)


@pytest.mark.parametrize("name", ["lm", FIELDS[0]])
def test_a_step_that_diverges_is_one_line_with_step_and_rows(name, world, pairs, run, tmp_path):
    options = "--lr", 1e30, "--clip-grad", 0, "--total-iters", 4
    line = error_line(run(*command_of(world, pairs, name, tmp_path / "run", *options)))
    assert re.search(r"step \d .*was not taken", line) and len(rows_in(line)) == 4


def test_a_run_goes_on_from_its_last_checkpoint_as_if_nothing_had_happened(world, run, monkeypatch, tmp_path):
    original, more = SplitModel.forward, ["--save-interval", 4, "--epochs", 2]
    run_options, whole_options = (world.training(tmp_path / save, *more, type="kd") for save in ("run", "whole"))

    def broken_row(model, batch):
        """One row of the teacher's output is not finite, as if a weight were damaged in memory."""
        states = original(model, batch)
        if not any(parameter.requires_grad for parameter in model.model.parameters()):
            broken = (batch.row_ids == 5).repeat_interleave(batch.token_counts)
            states.last.flatten(0, 1)[batch.token_positions[broken]] = math.nan
        return states

    with monkeypatch.context() as patch:
        patch.setattr(SplitModel, "forward", broken_row)
        line = error_line(run(finetune.main, run_options))
    assert 5 in rows_in(line, "instruction ") and "fkl nan" in line
    assert call(finetune.main, run_options) == call(finetune.main, whole_options) == 0
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_bug_a_loss_that_is_not_finite_ends_all_ranks_though_it_is_of_one_and_its_gradient_is_finite(
    world, monkeypatch, tmp_path
):
    """Only the gradient was checked, so such a run went on."""
    original = CrossEntropyTerm.total

    def total(term, batch, *others):
        value = original(term, batch, *others)
        return value + math.nan if os.environ["RANK"] == "1" and torch.is_grad_enabled() else value

    monkeypatch.setattr(CrossEntropyTerm, "total", total)
    run_on(2, finetune.main, world.training(tmp_path / "run", "--total-iters", 4), status=1)
