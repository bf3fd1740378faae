"""The rows that the refreshes of a velocity field visit."""

from types import SimpleNamespace

import torch
from torch import nn

from contra.projector import Projector
from contra.training import FieldRefresh, FieldSettings, FieldTrainer
from contra.velocity_field import VelocityField
from distillm.objective import Progress
from distillm.training.batches import StepBatches, StepShape
from tests.distillm.tiny import ALONE, make_batch, make_rows

ROWS, STEPS, EPOCHS = 8, 4, 3


class Visits(FieldTrainer):
    """Remembers the rows of each step instead of learning from them."""

    def train_step(self, batches):
        self.visited = [*getattr(self, "visited", []), *(row.row_id for row in batches.rows(self.step))]
        self.step += 1
        return torch.zeros(())


def test_every_refresh_visits_all_rows_in_a_new_order():
    model = SimpleNamespace(model=nn.Identity())
    settings = FieldSettings(2 * STEPS, 0.1, 0.0, "cosine", 0, 0.0, "fp32", seed=1)
    trainer = Visits(VelocityField(4, 4, 1, 1), Projector(4, 4), model, model, settings, ALONE)
    batches = StepBatches(make_rows(ROWS), StepShape(ROWS // STEPS, 1, seed=1), make_batch, ALONE)
    refresh = FieldRefresh(trainer, batches, epochs=1, interval=1)
    for epoch in range(1, EPOCHS + 1):
        refresh(Progress(epoch * STEPS, EPOCHS * STEPS, epoch, EPOCHS))
    first, second = trainer.visited[:ROWS], trainer.visited[ROWS:]
    assert sorted(first) == sorted(second) == list(range(ROWS)), "and none after the last epoch"
    assert first != second
