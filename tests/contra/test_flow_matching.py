import copy

import pytest
import torch
from torch import nn

from contra.flow_matching import LinearPath, flow_matching_loss, flow_matching_per_token
from contra.projector import Projector
from contra.velocity_field import VelocityField

PAIRS, BATCH, TOKENS, STUDENT, TEACHER = 3, 2, 4, 5, 6
MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]])


@pytest.fixture
def modules():
    torch.manual_seed(0)
    return VelocityField(TEACHER, 8, PAIRS, 2).eval(), Projector(STUDENT, TEACHER)


@pytest.fixture
def states():
    torch.manual_seed(1)
    student = [torch.randn(BATCH, TOKENS, STUDENT, requires_grad=True) for _ in range(PAIRS)]
    teacher = [torch.randn(BATCH, TOKENS, TEACHER) for _ in range(PAIRS)]
    return student, teacher


T = torch.tensor([0.2, 0.9])


def reference(velocity_field, projector, student, teacher, mask, t):
    """(1/L) Σ_j mean over tokens of mean over dimensions, token by token, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    tokens = [(b, i) for b in range(BATCH) for i in range(TOKENS) if mask[b, i] != 0]
    for j in range(PAIRS):
        for b, i in tokens:
            x_0, x_1 = projector(student[j][b, i]), teacher[j][b, i]
            x_t = (1 - t[b]) * x_0 + t[b] * x_1
            velocity = velocity_field(x_t[None], t[b], j)[0]
            total = total + ((velocity - (x_1 - x_0)) ** 2).mean()
    return total / (PAIRS * max(len(tokens), 1))


def in_float64(modules, states):
    student, teacher = states
    return (
        *(copy.deepcopy(module).double() for module in modules),
        [layer.detach().double().requires_grad_() for layer in student],
        [layer.double() for layer in teacher],
    )


def test_value_and_every_gradient_equal_a_float64_reference(modules, states):
    field, projector, student, teacher = in_float64(modules, states)
    expected = reference(field, projector, student, teacher, MASK, T.double())
    loss = flow_matching_loss(*modules, *states, MASK, T)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    learned = [*modules[0].parameters(), *modules[1].parameters(), *states[0]]
    references = [*field.parameters(), *projector.parameters(), *student]
    for tensor, exact in zip(learned, references, strict=True):
        torch.testing.assert_close(tensor.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


def test_the_projector_learns_through_the_point_and_through_the_velocity(modules, states):
    class Still(nn.Module):
        def forward(self, x, t, pair):
            return torch.zeros_like(x)

    student, teacher = states
    flow_matching_loss(Still(), modules[1], student, teacher, MASK, T).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in modules[1].parameters())


def test_zero_where_the_field_is_right(states):
    class Right(nn.Module):
        def forward(self, x, t, pair):
            return torch.full_like(x, 2.0)

    student = [layer.detach() for layer in states[0]]
    teacher = [layer + 2.0 for layer in student]
    assert flow_matching_loss(Right(), nn.Identity(), student, teacher, MASK, T).item() == pytest.approx(0, abs=1e-12)


def test_the_linear_path_goes_straight_from_start_to_end():
    x_0, x_1, t = torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.tensor([0.0, 0.25, 1.0])
    sample = LinearPath().sample(x_0, x_1, t)
    torch.testing.assert_close(sample.x_t[0], x_0[0])
    torch.testing.assert_close(sample.x_t[1], 0.75 * x_0[1] + 0.25 * x_1[1])
    torch.testing.assert_close(sample.x_t[2], x_1[2])
    torch.testing.assert_close(sample.dx_t, x_1 - x_0)
    assert sample.t is t
    torch.testing.assert_close(LinearPath().sample(x_0, x_1, torch.tensor(0.5)).x_t, (x_0 + x_1) / 2)


def test_per_token_values_are_those_of_single_tokens(modules):
    student, teacher, t = torch.randn(PAIRS, 5, STUDENT), torch.randn(PAIRS, 5, TEACHER), torch.rand(5)
    values = flow_matching_per_token(*modules, student, teacher, t)
    assert values.shape == (5,)
    for i in range(5):
        one = flow_matching_per_token(*modules, student[:, i : i + 1], teacher[:, i : i + 1], t[i : i + 1])
        torch.testing.assert_close(one[0], values[i])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masks_of_every_type_select_the_same_tokens(modules, states, dtype):
    expected = flow_matching_loss(*modules, *states, MASK, T)
    torch.testing.assert_close(flow_matching_loss(*modules, *states, MASK.to(dtype), T), expected, rtol=0, atol=0)


def test_masked_tokens_have_no_influence_whatever_they_hold(modules, states):
    student, teacher = states
    expected = flow_matching_loss(*modules, student, teacher, MASK, T)
    hidden = (MASK == 0).unsqueeze(-1)
    student = [layer.detach().masked_fill(hidden, float("nan")).requires_grad_() for layer in student]
    teacher = [layer.masked_fill(hidden, float("inf")) for layer in teacher]
    loss = flow_matching_loss(*modules, student, teacher, MASK, T)
    assert loss.item() == expected.item()
    loss.backward()
    assert all((layer.grad.masked_select(hidden) == 0).all() for layer in student)


def test_an_empty_mask_gives_zero_and_zero_gradients(modules, states):
    loss = flow_matching_loss(*modules, *states, torch.zeros_like(MASK), T)
    loss.backward()
    assert loss.item() == 0
    for tensor in [*modules[0].parameters(), *modules[1].parameters(), *states[0]]:
        assert (tensor.grad == 0).all()


def test_layers_or_tokens_that_do_not_pair_up_are_refused(modules, states):
    student, teacher = states
    with pytest.raises(ValueError, match=r"3 student layers.*2 teacher layers"):
        flow_matching_loss(*modules, student, teacher[:2], MASK, T)
    with pytest.raises(ValueError, match=r"\[3, 4\] and \[3, 5\]"):
        flow_matching_per_token(*modules, torch.zeros(3, 4, STUDENT), torch.zeros(3, 5, TEACHER), torch.zeros(4))


def test_a_trained_field_transports_the_start_to_the_end():
    torch.manual_seed(0)
    size, pairs = 3, 2
    shifts = torch.tensor([[2.0, -1.0, 0.5], [-2.0, 1.0, 3.0]])

    def batch(count):
        start = torch.randn(pairs, count, size)
        return start, 0.5 * start + shifts[:, None]

    field = VelocityField(size, 32, pairs, 2, dropout=0.0)
    optimizer = torch.optim.AdamW(field.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        flow_matching_per_token(field, nn.Identity(), *batch(64), torch.rand(64)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    start, end = batch(64)
    with torch.no_grad():
        for pair in range(pairs):
            x = start[pair]
            for step in range(20):
                x = x + field(x, step / 20, pair) / 20
            assert (x - end[pair]).norm() < 0.05 * (start[pair] - end[pair]).norm()
