"""From a command line to the parts of an entry script."""

import sys
from typing import get_type_hints

import pytest

import finetune
import train_velocity_field


@pytest.mark.parametrize("script", [finetune, train_velocity_field])
def test_options_reach_their_parts_by_type_whatever_the_order_of_the_parts(script, world, monkeypatch, tmp_path):
    make = world.training if script is finetune else world.stage_1
    monkeypatch.setattr(sys, "argv", ["script", *make(tmp_path / "save", "--seed", 7)])
    monkeypatch.setattr(script, "TRAINING_OPTIONS", tuple(reversed(script.TRAINING_OPTIONS)))
    parsed = script.Arguments.parse()
    arguments = parsed[0] if isinstance(parsed, tuple) else parsed
    assert {name: type(part) for name, part in vars(arguments).items()} == get_type_hints(script.Arguments)
    assert arguments.training.seed == 7
