"""A loss or gradient that is not finite ends a run before the step, names itself, and spoils nothing."""

import json
import math
import re

import pytest
import torch
from contra.term import AlignmentTerm
from safetensors.torch import load_file

import finetune
import train_velocity_field
from contra.training import FieldTrainer
from distillm.distillm2 import ContrastiveTerm
from distillm.fdd import FeatureDynamicsTerm
from distillm.models.split_model import SplitModel
from distillm.objective import CrossEntropyTerm, DivergenceTerm
from distillm.training.engine import TorchEngine
from tests.entry.every_method import make_pairs, options_of

BAD_STEP = 7
ROWS = r"\[(\d+(?:, \d+)*)\]"


class InfiniteGradient(torch.autograd.Function):
    """The identity, with a gradient that overflows."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


# The value of the loss, and what its gradient is then.
POISONS = {
    "nan with a finite gradient": lambda value: value + math.nan,
    "inf with a finite gradient": lambda value: value + math.inf,
    "nan with its gradient": lambda value: value * math.nan,
    "finite with an infinite gradient": InfiniteGradient.apply,
}


@pytest.fixture(scope="module")
def pairs(world, tmp_path_factory, call_script):
    return make_pairs(world, tmp_path_factory.mktemp("pairs"), call_script)


@pytest.fixture
def poison(monkeypatch):
    """Spoil one kind of term at one step; return the row ids of that step, as they come by."""

    def spoil(kind, name, poison):
        original, rows = kind.total, []

        def total(term, batch, student, teacher, progress):
            value = original(term, batch, student, teacher, progress)
            if term.name != name or progress.step != BAD_STEP:
                return value
            rows.extend(batch.row_ids.tolist())
            return poison(value)

        monkeypatch.setattr(kind, "total", total)
        return rows

    return spoil


@pytest.fixture
def engines(monkeypatch):
    """Return pairs (engine, its weights after its last step)."""
    original, seen = TorchEngine.step, []

    def step(engine, learning_rate):
        norm = original(engine, learning_rate)
        seen[:] = [engine, [parameter.detach().clone() for parameter in engine.parameters]]
        return norm

    monkeypatch.setattr(TorchEngine, "step", step)
    return seen


def error_line(outcome):
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    (line,) = [line for line in outcome.err.splitlines() if ".py: error:" in line]
    return line


def ids(line, words):
    match = re.search(f"{words} {ROWS}", line)
    assert match, line
    return [int(word) for word in match[1].split(", ")]


TERMS = {
    "cross_entropy": (CrossEntropyTerm, "lm"),
    "fkl": (DivergenceTerm, "kd"),
    "corpus": (CrossEntropyTerm, "kd"),
    "fdd": (FeatureDynamicsTerm, "srkl-fdd"),
    "contra": (AlignmentTerm, "rkl-contra-fdd"),
    "distillm2": (ContrastiveTerm, "distillm2-v1"),
}


@pytest.mark.parametrize(
    ("name", "poison_name"),
    sorted({*((name, "nan with its gradient") for name in TERMS), *(("fkl", p) for p in POISONS)}),
)
def test_a_step_that_is_not_finite_is_not_taken_and_names_step_term_and_rows(
    name, poison_name, world, pairs, run, poison, engines, tmp_path
):
    kind, method = TERMS[name]
    rows = poison(kind, name, POISONS[poison_name])
    save = tmp_path / "save"
    more = ["--save-interval", 4, "--batch-size", 2, "--gradient-accumulation-steps", 2, "--epochs", 2]
    line = error_line(run(finetune.main, options_of(world, pairs, method, save, *more)))
    assert f"step {BAD_STEP} was not taken" in line
    value, gradient = {"nan": "nan", "inf": "inf", "finite": r"[\d.]+"}[poison_name.split()[0]], "with gradient"
    bad_gradient = r"[\d.]+" if "a finite gradient" in poison_name else "(nan|inf)"
    assert re.search(rf"\b{name} {value} {gradient} {bad_gradient}[,;]", line)
    assert len(re.findall(r"(nan|inf) with|with gradient (nan|inf)", line)) == 1, "the other terms are finite"
    assert ("the gradient is not finite" if value == r"[\d.]+" else "the loss is not finite") in line
    source = "corpus" if name == "corpus" else "instruction"
    assert ids(line, f"{source} rows") == rows[: len(rows) // 2] and len(set(rows)) >= 4
    engine, weights = engines
    assert all(torch.equal(now, then) for now, then in zip(engine.parameters, weights, strict=True))
    assert (save / "checkpoints" / "latest").read_text() == "step-00000004\n"


def test_a_run_goes_on_from_its_last_checkpoint_as_if_nothing_had_happened(
    world, run, call_script, contents, monkeypatch, tmp_path
):
    def result(save):
        return {name: data for name, data in contents(save).items() if name not in ("args.json", "training.log")}

    def options(save):
        return world.training(save, "--save-interval", 4, "--epochs", 2, type="kd")

    original = SplitModel.forward

    def broken_row(model, batch):
        """One row of the teacher's is not finite, as of a weight that is damaged in memory."""
        states = original(model, batch)
        if not any(parameter.requires_grad for parameter in model.model.parameters()):
            states.last[batch.row_ids == 5] = math.nan
        return states

    with monkeypatch.context() as patch:
        patch.setattr(SplitModel, "forward", broken_row)
        line = error_line(run(finetune.main, options(tmp_path / "run")))
    assert 5 in ids(line, "instruction rows") and "fkl nan" in line
    assert call_script(finetune.main, options(tmp_path / "run")) == 0
    assert call_script(finetune.main, options(tmp_path / "whole")) == 0
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_bug_a_loss_that_is_not_finite_ends_all_ranks_though_it_is_of_one_and_its_gradient_is_finite(
    world, run_on_two, monkeypatch, tmp_path
):
    """Only the gradient was looked at: such a run went on."""
    original = CrossEntropyTerm.total

    def total(term, batch, student, teacher, progress):
        value = original(term, batch, student, teacher, progress)
        return value + math.nan if progress.step == 2 and term.student.model.rank == 1 else value

    setup = finetune.setup_models

    def setup_models(arguments, method, precision, ranks):
        models = setup(arguments, method, precision, ranks)
        models.student.model.rank = ranks.rank
        return models

    monkeypatch.setattr(CrossEntropyTerm, "total", total)
    monkeypatch.setattr(finetune, "setup_models", setup_models)
    with pytest.raises(AssertionError, match=re.escape("[1, 1] == [0, 0]")):
        run_on_two(finetune.main, world.training(tmp_path / "run", "--total-iters", 4))


# ---- the velocity field ------------------------------------------------------------------------------------------


@pytest.fixture
def poison_field(monkeypatch):
    """Spoil the loss of the field at one of its steps (from 1); return the rows of that step and the trainer."""

    def spoil(bad_step, poison):
        original, seen = FieldTrainer._sum, {}

        def total(trainer, batch):
            value = original(trainer, batch)
            if trainer.step + 1 != bad_step:
                return value
            weights = [parameter.detach().clone() for parameter in trainer.parameters]
            seen.update(rows=seen.get("rows", []) + batch.row_ids.tolist(), trainer=trainer, weights=weights)
            return poison(value)

        monkeypatch.setattr(FieldTrainer, "_sum", total)
        return seen

    return spoil


def assert_not_taken(outcome, step, seen):
    line = error_line(outcome)
    assert f"step {step} of the velocity field was not taken" in line
    assert re.search("(nan|inf)", line)
    assert ids(line, r"\(rows") == seen["rows"] and len(seen["rows"]) == 4
    assert all(torch.equal(now, old) for now, old in zip(seen["trainer"].parameters, seen["weights"], strict=True))


@pytest.mark.parametrize("poison_name", POISONS)
def test_bug_a_step_of_the_velocity_field_that_is_not_finite_is_not_taken(
    poison_name, world, train_field, poison_field, tmp_path
):
    """It was, and the field was not a number from there on, in its next checkpoint too."""
    seen = poison_field(BAD_STEP, POISONS[poison_name])
    save = tmp_path / "field"
    accumulation = ["--batch-size", 2, "--gradient-accumulation-steps", 2]
    assert_not_taken(train_field(save, "--save-interval", 4, *accumulation), BAD_STEP, seen)
    assert json.loads((save / "checkpoint" / "loop.json").read_text())["step"] == 4
    tensors = load_file(save / "checkpoint" / "velocity_field.safetensors").values()
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_a_refresh_that_is_not_finite_ends_the_run_and_its_last_checkpoint_stands(world, train, poison_field, tmp_path):
    seen = poison_field(3, POISONS["finite with an infinite gradient"])
    save = tmp_path / "save"
    outcome = train(save, "--save-interval", 4, "--epochs", 2, type="rkl-contra")
    assert_not_taken(outcome, 3, seen)
    assert (save / "checkpoints" / "latest").read_text() == "step-00000004\n"


def test_a_dry_run_or_stage_1_with_a_model_that_is_not_finite_is_one_line(world, run, poison_field, tmp_path):
    poison_field(1, POISONS["nan with its gradient"])
    options = world.stage_1(tmp_path / "field", "--dry-run")
    assert "step 1 of the velocity field was not taken" in error_line(run(train_velocity_field.main, options))
