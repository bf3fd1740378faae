"""Stage 1 and refresh: what a step changes, in which precision, which rows it visits, and what it leaves as it was."""

import copy

import pytest
import torch

from contra.projector import Projector
from contra.training import FieldRefresh, field_steps
from contra.velocity_field import VelocityField
from distillm.arguments import ContraArguments, TrainingArguments
from distillm.distributed import World
from distillm.models.split_model import SplitModel
from distillm.objective import Objective, Progress
from distillm.training.batches import StepBatches
from distillm.training.schedule import Schedule
from distillm.training.steps import OptimiserSteps
from tests.distillm.tiny import ALONE, PAD, make_gpt2, make_rows

ROWS = 8


def make_steps(precision="fp32") -> OptimiserSteps:
    """A student in training mode except for one block, its teacher, and the steps of a field."""
    student, teacher = SplitModel(make_gpt2(16, 4, dropout=0.1).train()), SplitModel(make_gpt2(24, 6, seed=1).eval())
    student.layers, teacher.layers = [1, 2], [2, 4]
    student.model.transformer.h[1].eval()
    teacher.model.requires_grad_(False)
    torch.manual_seed(2)
    learner = VelocityField(24, 8, 2, 1), Projector(16, 24)
    training = TrainingArguments(save="x", lr=0.1, batch_size=2, gradient_accumulation_steps=2, seed=1)
    batches = StepBatches(make_rows(ROWS), training, PAD, ALONE)
    schedule = Schedule(training, batches.steps_per_epoch, 9)
    return field_steps(*learner, student, teacher, batches, schedule, precision, ALONE)


@pytest.fixture
def steps() -> OptimiserSteps:
    return make_steps()


def state_of(steps):
    """Return everything that a step may change, and the modes and flags of both models."""
    models = [steps.objective.student.model, steps.objective.teacher.model]
    return copy.deepcopy(
        {
            "models": [list(model.state_dict().values()) for model in models],
            "field": list(steps.engine.module.state_dict().values()),
            "optimiser": steps.engine.optimizer.state_dict(),
            "gradients": [p.grad for model in (*models, steps.engine.module) for p in model.parameters()],
            "modes": [part.training for model in models for part in model.modules()],
            "learning": [p.requires_grad for model in (*models, steps.engine.module) for p in model.parameters()],
        }
    )


def assert_same(one, two):
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_a_dry_run_changes_nothing_and_shows_the_loss_of_the_first_step(steps):
    before = state_of(steps)
    shown = steps.dry_run()
    assert_same(state_of(steps), before)
    loss, _ = steps.take(1).tolist()
    assert shown == f"velocity_field {loss:.4g}"


def test_bug_a_refresh_left_the_field_and_the_projector_as_they_were(steps):
    """The optimiser was created while both were frozen, so it had no parameters."""
    before = state_of(steps)
    FieldRefresh(steps, ContraArguments())(Progress(2, 4, 1, 2))
    after = state_of(steps)
    assert all(not torch.equal(now, old) for now, old in zip(after["field"], before["field"], strict=True))
    for untouched in ("models", "gradients", "modes", "learning"):
        assert_same(after[untouched], before[untouched])


def test_bug_a_refresh_that_fails_leaves_each_block_of_the_student_in_its_mode(steps, monkeypatch):
    """The modes were restored only if a generator was exhausted, and then all blocks got the same one."""
    before = state_of(steps)
    monkeypatch.setattr(Objective, "term_values", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        FieldRefresh(steps, ContraArguments())(Progress(2, 4, 1, 2))
    assert_same(state_of(steps), before)


def test_in_an_fp16_run_only_the_frozen_models_compute_in_fp16(monkeypatch):
    """The field gets their fp16 states, and learns from them as in fp32."""
    forward, states, gradients = SplitModel.forward, {}, []

    def forward_once(model, batch):
        """Keep the states of the fp16 run for the fp32 run."""
        key = model.model.config.n_embd, batch.row_ids[0].item()
        if key not in states:
            assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16
            states[key] = forward(model, batch)
        return states[key]

    def keep(self, parameters):
        gradients.append([parameter.grad.clone() for parameter in parameters])

    monkeypatch.setattr(SplitModel, "forward", forward_once)
    monkeypatch.setattr(World, "sum_gradients", keep)
    for precision in ("fp16", "fp32"):
        steps = make_steps(precision)
        steps.objective.student.model.eval()  # as in stage 1 and refresh
        steps.take(1)
    assert_same(*gradients)


def test_every_refresh_visits_all_rows_in_a_new_order_and_none_comes_after_the_last_epoch(steps, monkeypatch):
    visited = []
    split = StepBatches.split
    monkeypatch.setattr(
        StepBatches, "split", lambda self, rows: visited.extend(row.row_id for row in rows) or split(self, rows)
    )
    refresh = FieldRefresh(steps, ContraArguments())
    for epoch in range(1, 4):
        refresh(Progress(2 * epoch, 6, epoch, 3))
    first, second = visited[:ROWS], visited[ROWS:]
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second


@pytest.mark.parametrize(("interval", "passes", "steps"), [(1, 1, 8), (1, 2, 16), (2, 1, 4), (5, 1, 0)])
def test_the_schedule_of_the_refreshes_spans_all_of_them(interval, passes, steps):
    """5 epochs of 2 steps each; none after the last."""
    contra = ContraArguments(velocity_update_interval=interval, velocity_epochs=passes)
    assert FieldRefresh.total_steps(5, 2, contra) == steps
