"""Field and projector compute in fp32 in an fp16 run, whose autocast a CPU can emulate."""

import copy

import pytest
import torch
from torch import nn

from contra.alignment import alignment_per_token
from contra.flow_matching import flow_matching_per_token
from contra.projector import Projector
from contra.velocity_field import VelocityField

PAIRS, TOKENS, STUDENT, TEACHER = 3, 4, 5, 6


@pytest.fixture
def modules():
    torch.manual_seed(0)
    return VelocityField(TEACHER, 8, PAIRS, 2).eval(), Projector(STUDENT, TEACHER)


def stage_1(modules, student, teacher):
    loss = flow_matching_per_token(*modules, student, teacher, torch.linspace(0, 1, TOKENS)).mean()
    return loss, [parameter for module in modules for parameter in module.parameters()]


def stage_2(modules, student, teacher):
    return alignment_per_token(*modules, student, 0.5).mean(), [student]


@pytest.mark.parametrize("stage", [stage_1, stage_2])
def test_bug_the_gradient_of_an_fp16_run_is_that_of_fp32(stage, modules):
    """Most small entries of the fp16 gradient underflowed."""
    student, teacher = torch.randn(PAIRS, TOKENS, STUDENT), torch.randn(PAIRS, TOKENS, TEACHER)
    gradients = []
    for half in (False, True):
        with torch.autocast("cpu", torch.float16, enabled=half):
            loss, learned = stage(copy.deepcopy(modules), student.clone().requires_grad_(), teacher)
        gradients.append(torch.autograd.grad(loss, learned))
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("run", "products"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)]
)
def test_matrix_products_are_in_bf16_where_the_runs_are_and_else_in_fp32(run, products, modules):
    seen = set()
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))
    with torch.autocast("cpu", run, enabled=run is not None):
        velocity = modules[0](modules[1](torch.randn(TOKENS, STUDENT)), 0.0, 0)
    assert seen == {products} and velocity.dtype == torch.float32
