"""Guarantees of tools/benchmark_step.py: both steps compute the same loss, and the floor is what the step needs."""

import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from distillm.method import Method
from tests.distillm.tiny import ALONE
from tools import benchmark_step as tool
from tools.plain_step import PlainStep

SMALL = ["--layers", "4", "6", "--widths", "64", "128", "--vocabulary", "300", "--max-length", "64"]
SMALL += ["--num-distill-layers", "2", "--velocity-d-model", "64", "--velocity-n-layers", "4", "--batch-size", "2"]
METHODS = ["kd", "rkl", "sfkl", "srkl", "srkl-contra", "rkl-fdd", "distillm2-v2"]


def steps_of(name):
    return tool.build(name, tool.parser().parse_args(SMALL), "fp32", ALONE)


@pytest.mark.parametrize("name", METHODS)
def test_the_plain_step_has_the_loss_of_ours(name):
    steps = steps_of(name)
    for term in steps.objective.terms:
        term.curriculum = "none"
    micro_batches = steps.prepare(1)
    assert len(micro_batches) == 1
    normalisers, progress = steps.objective.normalisers(micro_batches), steps.schedule.progress(1)
    ours = steps.objective.loss(steps.objective.term_values(micro_batches[0], normalisers, progress))
    plain = PlainStep(steps, Method.parse(name), 64)
    plain.step_size = 1.0
    torch.testing.assert_close(plain.take(1), ours.detach(), rtol=1e-5, atol=1e-6)


class ProductCounter(TorchDispatchMode):
    """Counts the floating-point operations of matrix products; PyTorch knows no formula for attention on a CPU."""

    def __init__(self):
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        packet = function.overloadpacket
        if packet is torch.ops.aten.addmm_:
            packet = torch.ops.aten.addmm
        if packet in flop_registry:
            self.flops += flop_registry[packet](*arguments, **(options or {}), out_val=result)
        return result


@pytest.mark.parametrize("name", [*METHODS, tool.FIELD])
def test_the_floor_counts_the_products_of_a_step_and_not_more(name):
    """Up to attention, which only the floor has, and what only stage 1 computes: each token's time, the last blocks."""
    steps = steps_of(name)
    with ProductCounter() as counter:
        steps.take(1)
    least = 0.7 if name == tool.FIELD else 0.95
    assert least < tool.flops(steps, tool.parser().parse_args(SMALL)) / counter.flops < 1.05


def test_the_benchmark_prints_both_steps_with_their_floor_and_memory(run):
    out = run(tool, *SMALL, "--types", "srkl", tool.FIELD, "--steps", "1")
    number = r"[\d.]+"
    measured = rf"{number} s \({number} x floor of {number}\), \d+ tokens/s, -?\d+ MiB"
    assert re.search(rf"^srkl: ours {measured}; student forward {number}, teacher forward", out, re.MULTILINE)
    assert re.search(rf"^srkl: plain {measured}; plain / ours: time {number}, memory", out, re.MULTILINE)
    assert re.search(rf"^{tool.FIELD}: ours {measured}", out, re.MULTILINE)
