"""Guarantees of distillm/training/batches.py."""

import pytest
import torch

from distillm.arguments import TrainingArguments
from distillm.distributed import World
from distillm.training.batches import StepBatches
from tests.distillm.tiny import ALONE, PAD, make_rows


def make_batches(num_rows, batch_size, accumulation=1, world=ALONE) -> StepBatches:
    training = TrainingArguments(save="x", batch_size=batch_size, gradient_accumulation_steps=accumulation)
    return StepBatches(make_rows(num_rows), training, PAD, world)


@pytest.mark.parametrize(("batch_size", "accumulation", "warned"), [(8, 1, False), (9, 1, True), (3, 3, True)])
def test_a_step_larger_than_the_data_is_said_once_with_both_numbers(batch_size, accumulation, warned, capsys):
    batches = make_batches(8, batch_size, accumulation)
    for step in range(1, 4):
        batches.split(batches.rows(step))
    said = capsys.readouterr().err
    assert said.count("warning: a step takes 9 rows, but the data has 8: they repeat") == said.count("\n") == warned


def test_only_one_process_says_it(capsys):
    make_batches(3, 2, world=World(1, 2, torch.device("cpu")))
    assert not capsys.readouterr().err
