import copy

import pytest
import torch

from contra.alignment import alignment_loss, alignment_per_token, frozen, step_size
from contra.projector import Projector
from contra.velocity_field import VelocityField
from data_utils.errors import UserError

PAIRS, BATCH, TOKENS, STUDENT, TEACHER = 3, 2, 4, 5, 6
MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]])


@pytest.fixture
def modules():
    """As they are built: learning and in training mode."""
    torch.manual_seed(0)
    field, projector = VelocityField(TEACHER, 8, PAIRS, 2), Projector(STUDENT, TEACHER)
    torch.nn.init.normal_(field.output.weight)  # velocities as long as the states, so that directions differ
    return field, projector


@pytest.fixture
def student():
    torch.manual_seed(1)
    return [torch.randn(BATCH, TOKENS, STUDENT, requires_grad=True) for _ in range(PAIRS)]


def reference(velocity_field, projector, student, mask, k):
    """(1/L) Σ_j (1 - mean over tokens of cos(a, g)), one token of one pair after the other, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    tokens = [(b, i) for b in range(BATCH) for i in range(TOKENS) if mask[b, i] != 0]
    for j in range(PAIRS):
        cosines = torch.zeros((), dtype=torch.float64)
        for b, i in tokens:
            a = projector(student[j][b, i])
            g = (a + k * velocity_field(a[None], 0.0, j)[0]).detach()
            cosines = cosines + (a * g).sum() / ((a * a).sum().sqrt() * (g * g).sum().sqrt())
        total = total + 1 - cosines / len(tokens)
    return total / PAIRS


@pytest.mark.parametrize("k", [0.1, 0.5, 1.0])
def test_value_and_student_gradient_equal_a_float64_reference(modules, student, k):
    field, projector = (copy.deepcopy(module).double().eval() for module in modules)
    exact = [layer.detach().double().requires_grad_() for layer in student]
    expected = reference(field, projector, exact, MASK, k)
    loss = alignment_loss(*modules, student, MASK, k)
    assert expected.item() > 1e-4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    expected.backward()
    for layer, exact_layer in zip(student, exact, strict=True):
        torch.testing.assert_close(layer.grad.double(), exact_layer.grad, rtol=1e-4, atol=1e-6)


def test_the_gradient_reaches_the_student_only_even_when_the_field_and_projector_learn(modules, student):
    alignment_loss(*modules, student, MASK, 0.5).backward()
    assert all(layer.grad.abs().sum() > 0 for layer in student)
    for module in modules:
        assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())


def test_dropout_never_reaches_the_target_and_the_modes_of_the_modules_are_left_alone(modules, student):
    field, _ = modules
    field.blocks[1].eval()
    losses = {alignment_loss(*modules, student, MASK, 0.5).item() for _ in range(3)}
    assert len(losses) == 1
    assert field.training
    assert field.blocks[0].training
    assert not field.blocks[1].training


def test_freezing_ends_when_the_block_fails(modules):
    field, projector = modules
    projector.norm.requires_grad_(False)
    with pytest.raises(RuntimeError), frozen(field, projector):
        assert not any(parameter.requires_grad for parameter in [*field.parameters(), *projector.parameters()])
        raise RuntimeError
    assert field.training
    assert all(parameter.requires_grad for parameter in [*field.parameters(), *projector.linear.parameters()])
    assert not any(parameter.requires_grad for parameter in projector.norm.parameters())


def test_the_projector_runs_once(modules, student):
    calls = []
    modules[1].register_forward_hook(lambda *_: calls.append(1))
    alignment_loss(*modules, student, MASK, 0.5)
    assert len(calls) == 1


def test_zero_and_no_gradient_where_the_state_already_points_at_its_target(modules, student):
    loss = alignment_loss(*modules, student, MASK, 0.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert all(layer.grad.abs().max() < 1e-5 for layer in student)


def test_never_negative_and_never_above_2(modules):
    values = alignment_per_token(*modules, torch.randn(PAIRS, 200, STUDENT), 1.0)
    assert values.shape == (200,)
    assert (values >= -1e-6).all()
    assert (values <= 2).all()


def test_per_token_values_are_those_of_single_tokens(modules):
    states = torch.randn(PAIRS, 5, STUDENT)
    values = alignment_per_token(*modules, states, 0.5)
    for i in range(5):
        torch.testing.assert_close(alignment_per_token(*modules, states[:, i : i + 1], 0.5)[0], values[i])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masks_of_every_type_select_the_same_tokens(modules, student, dtype):
    expected = alignment_loss(*modules, student, MASK, 0.5)
    assert alignment_loss(*modules, student, MASK.to(dtype), 0.5).item() == expected.item()


def test_masked_tokens_have_no_influence_whatever_they_hold(modules, student):
    expected = alignment_loss(*modules, student, MASK, 0.5)
    hidden = (MASK == 0).unsqueeze(-1)
    student = [layer.detach().masked_fill(hidden, float("nan")).requires_grad_() for layer in student]
    loss = alignment_loss(*modules, student, MASK, 0.5)
    assert loss.item() == expected.item()
    loss.backward()
    assert all((layer.grad.masked_select(hidden) == 0).all() for layer in student)


def test_an_empty_mask_gives_zero_and_a_zero_gradient(modules, student):
    loss = alignment_loss(*modules, student, torch.zeros_like(MASK), 0.5)
    loss.backward()
    assert loss.item() == 0
    assert all((layer.grad == 0).all() for layer in student)


def test_the_curriculum_sets_the_step_size():
    assert [step_size("epoch", epoch, 4, 1, 100) for epoch in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert [step_size("step", 1, 4, step, 100) for step in (1, 50, 100)] == [0.01, 0.5, 1.0]
    assert step_size("none", 1, 4, 1, 100) == 1.0
    with pytest.raises(UserError, match=r"linear.*epoch, step, none"):
        step_size("linear", 1, 4, 1, 100)
