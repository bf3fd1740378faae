"""Guarantees of distillm/training/batches.py."""

from functools import partial

import pytest
import torch

from data_utils.batching import collate
from distillm.distributed import World
from distillm.training.batches import StepBatches, StepShape
from tests.distillm.tiny import ALONE, MAX_LENGTH, PAD, make_rows

COLLATE = partial(collate, pad_id=PAD, max_length=MAX_LENGTH)


@pytest.mark.parametrize(("batch_size", "accumulation", "warned"), [(8, 1, False), (9, 1, True), (3, 3, True)])
def test_a_step_larger_than_the_data_is_said_once_with_both_numbers(batch_size, accumulation, warned, capsys):
    batches = StepBatches(make_rows(8), StepShape(batch_size, accumulation, 0), COLLATE, ALONE)
    for step in range(3):
        batches.split(batches.rows(step))
    said = capsys.readouterr().err
    assert said.count("warning: a step takes 9 rows, the data has 8: they repeat") == said.count("\n") == warned


def test_only_one_process_says_it(capsys):
    StepBatches(make_rows(3), StepShape(2, 1, 0), COLLATE, World(1, 2, torch.device("cpu")))
    assert not capsys.readouterr().err
