"""The loop of stage 1 and refresh: what it changes, in which precision, and what it leaves as it was."""

import copy

import pytest
import torch

from contra.projector import Projector
from contra.training import FieldRefresh, FieldSettings, FieldTrainer
from contra.velocity_field import VelocityField
from distillm.distributed import World
from distillm.models.split_model import SplitModel, freeze
from distillm.objective import Progress
from distillm.training.batches import StepBatches, StepShape
from tests.distillm.tiny import ALONE, make_batch, make_gpt2, make_rows


@pytest.fixture
def trainer():
    """A student in training mode except for one block, its teacher, and a field that is at rest."""
    student, teacher = SplitModel(make_gpt2(16, 4, dropout=0.1).train()), SplitModel(make_gpt2(24, 6, seed=1).eval())
    student.layers, teacher.layers = [1, 2], [2, 4]
    student.model.transformer.h[1].eval()
    torch.manual_seed(2)
    learner = VelocityField(24, 8, 2, 1), Projector(16, 24)
    settings = FieldSettings(9, 0.1, 0.01, "cosine", 0, 0.1, "fp32", 1)
    for module in learner:
        freeze(module)
    return FieldTrainer(*learner, student, teacher, settings, ALONE)


@pytest.fixture
def batches():
    return StepBatches(make_rows(8), StepShape(2, 2, seed=1), make_batch, ALONE)


def state_of(trainer):
    """Return all that a step may change, and every mode and flag."""
    modules = [trainer.student.model, trainer.teacher.model, trainer.learner]
    return copy.deepcopy(
        [
            trainer.step,
            trainer.optimizer.state_dict(),
            [list(module.state_dict().values()) for module in modules],
            [parameter.grad for parameter in trainer.parameters],
            [part.training for module in modules for part in module.modules()],
            [parameter.requires_grad for module in modules for parameter in module.parameters()],
        ]
    )


def assert_same(one, two):
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_a_dry_run_changes_nothing_and_shows_the_loss_of_the_first_step(trainer, batches):
    with trainer.learning():  # as stage 1 starts
        before = state_of(trainer)
        loss = trainer.dry_run(batches)
        assert_same(state_of(trainer), before)
        assert trainer.train_step(batches) == loss
        assert trainer.step == 1


def test_bug_a_refresh_that_fails_leaves_the_field_frozen_and_each_block_of_the_student_in_its_mode(
    trainer, batches, monkeypatch
):
    """They came back only if a generator was exhausted, and then all in one mode."""
    before = state_of(trainer)
    refresh = FieldRefresh(trainer, batches, epochs=1, interval=1)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(FieldTrainer, "_sum", lambda *_: 1 / 0)
        refresh(Progress(1, 2, 1, 2))
    assert_same(state_of(trainer), before)
    refresh(Progress(1, 2, 1, 2))
    after = state_of(trainer)
    assert trainer.step == 2
    assert_same(after[2][:2], before[2][:2])  # both models' weights
    assert all(not torch.equal(now, old) for now, old in zip(after[2][2], before[2][2], strict=True))
    assert after[4:] == before[4:]


def test_in_an_fp16_run_only_the_frozen_models_compute_in_fp16(trainer, batches, monkeypatch):
    """The field sees their states, and learns from them as in fp32."""
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
        trainer.step, trainer.settings = 0, FieldSettings(9, 0.0, 0.0, "constant", 0, 0.0, precision, 1)
        with trainer.learning():
            trainer.train_step(batches)
    assert_same(*gradients)
