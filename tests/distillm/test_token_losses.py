import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distillm import token_losses
from distillm.divergences import skewed_reverse_kl
from distillm.token_losses import cross_entropy_per_token, sum_over_chunks, sum_over_logits

TOKENS, WIDTH, VOCABULARY = 23, 5, 11


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 4 tokens, the last one of 3."""
    monkeypatch.setattr(token_losses, "CHUNK_ELEMENTS", 4 * WIDTH)


def test_chunks_cover_every_token_once(small_chunks):
    sizes = []

    def per_token(values: torch.Tensor) -> torch.Tensor:
        sizes.append(values.shape[-2])
        return values.sum((0, -1))

    values = torch.randn(2, TOKENS, WIDTH)
    assert sum_over_chunks(per_token, (values,), WIDTH).item() == pytest.approx(values.sum().item(), rel=1e-5)
    assert sizes == [4, 4, 4, 4, 4, 3]


def test_no_token_gives_zero_and_a_gradient_of_zero():
    empty = torch.zeros(0, WIDTH, requires_grad=True)
    total = sum_over_chunks(lambda values: values.sum(-1), (empty,), WIDTH)
    total.backward()
    assert total.item() == 0 and empty.grad.shape == (0, WIDTH)


def test_the_gradient_reaches_states_and_parameters_through_every_chunk(small_chunks):
    linear, values = nn.Linear(WIDTH, 3), torch.randn(TOKENS, WIDTH, requires_grad=True)

    def per_token(values: torch.Tensor) -> torch.Tensor:
        return linear(values).square().sum(-1)

    wanted = [values, *linear.parameters()]
    expected = torch.autograd.grad(2 * per_token(values).sum(), wanted)
    total = sum_over_chunks(per_token, (values,), WIDTH, [*linear.parameters()])
    torch.testing.assert_close(torch.autograd.grad(2 * total, wanted, retain_graph=True), expected)
    torch.testing.assert_close(torch.autograd.grad(2 * total, wanted), expected)  # again: nothing was used up


def test_bug_dropout_inside_chunks_the_gradient_uses_the_masks_of_the_loss(small_chunks):
    """The chunks were recomputed without their random state, so the velocity field's gradient used other masks."""
    linear, dropout = nn.Linear(WIDTH, WIDTH, bias=False), nn.Dropout(0.5)
    values = torch.randn(TOKENS, WIDTH, requires_grad=True)
    masks = []

    def per_token(values: torch.Tensor) -> torch.Tensor:
        dropped = dropout(linear(values))
        masks.append((dropped != 0).float() * 2)
        return dropped.sum(-1)

    torch.manual_seed(0)
    sum_over_chunks(per_token, (values,), WIDTH).backward()
    assert len(masks) == 6, "no chunk is computed twice"
    torch.testing.assert_close(values.grad, torch.cat(masks) @ linear.weight)


# ---- losses of logits ----------------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A head that is no plain linear layer, as one with LoRA."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.linear(states)


def student_with(head: nn.Module, vocab_size: int = VOCABULARY, sharded: bool = False) -> SimpleNamespace:
    return SimpleNamespace(head=head, vocab_size=vocab_size, sharded=sharded)


def divergence_of(student, states: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    return sum_over_logits(skewed_reverse_kl, student, states, teacher_logits)


@pytest.fixture
def problem():
    torch.manual_seed(0)
    states = torch.randn(TOKENS, WIDTH, requires_grad=True)
    return nn.Linear(WIDTH, VOCABULARY), states, torch.randn(TOKENS, VOCABULARY)


def gradients_of(loss, head, states):
    return torch.autograd.grad(loss, [states, *head.parameters()])


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("layers", [None, 3])
def test_a_loss_of_logits_has_the_value_and_gradient_of_float64(wrapped, layers, problem, small_chunks):
    linear, states, teacher = problem
    if layers:  # FDD: the states of several layers
        states = torch.randn(layers, TOKENS, WIDTH, requires_grad=True)
        teacher = torch.randn(layers, TOKENS, VOCABULARY)

    def per_token(q, p):
        return skewed_reverse_kl(q, p).sum(0) if layers else skewed_reverse_kl(q, p)

    head = Wrapped(linear) if wrapped else linear
    exact, exact_states = copy.deepcopy(linear).double(), states.detach().double().requires_grad_()
    q, p = exact(exact_states).softmax(-1), teacher.double().softmax(-1)
    expected = 3 * (q * (q / (0.9 * p + 0.1 * q)).log()).sum()
    total = 3 * sum_over_logits(per_token, student_with(head), states, teacher)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    found, wanted = gradients_of(total, head, states), gradients_of(expected, exact, exact_states)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-5)


def test_the_form_for_sharded_heads_is_the_same_loss(problem, small_chunks, monkeypatch):
    monkeypatch.setattr(token_losses, "largest_of_all", lambda count, device: count)
    head, states, teacher = problem
    plain, recomputed = (divergence_of(student_with(head, sharded=s), states, teacher) for s in (False, True))
    torch.testing.assert_close(gradients_of(plain, head, states), gradients_of(recomputed, head, states))
    assert plain.item() == pytest.approx(recomputed.item(), rel=1e-6)


def test_a_frozen_head_gets_no_gradient_and_the_states_still_do(problem, small_chunks):
    head, states, teacher = problem
    wanted = gradients_of(divergence_of(student_with(head), states, teacher), head, states)[0]
    head.requires_grad_(False)
    divergence_of(student_with(head), states, teacher).backward()
    torch.testing.assert_close(states.grad, wanted)
    assert head.weight.grad is None and head.bias.grad is None


def test_without_gradients_a_loss_of_logits_is_a_number(problem):
    head, states, teacher = problem
    with torch.no_grad():
        total = divergence_of(student_with(head), states, teacher)
    assert not total.requires_grad
    assert total.item() == pytest.approx(divergence_of(student_with(head), states, teacher).item(), rel=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
def test_under_autocast_products_are_in_half_precision_and_gradients_in_fp32(dtype, tolerance, problem, small_chunks):
    head, states, teacher = problem
    expected = gradients_of(divergence_of(student_with(head), states, teacher), head, states)
    with torch.autocast("cpu", dtype):
        found = gradients_of(divergence_of(student_with(head), states, teacher), head, states)
    for one, two in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, two, rtol=0, atol=tolerance * float(two.abs().max()))


def test_in_fp16_gradients_of_logits_that_it_cannot_hold_are_not_lost():
    """Of 50,000 logits almost all have gradients below 6e-8, fp16's smallest number."""
    torch.manual_seed(0)
    head, states = nn.Linear(WIDTH, 50_000), torch.randn(3, WIDTH, requires_grad=True)
    labels = torch.tensor([[1], [2], [3]])
    head.bias.data[:4] += 7  # of the labels: the others have probabilities of about 1e-8

    def weight_gradient():
        loss = sum_over_logits(cross_entropy_per_token, student_with(head, 50_000), states, labels)
        return torch.autograd.grad(loss, head.weight)[0][4:]

    head.bias.data[:4] += 5
    exact = weight_gradient()
    with torch.autocast("cpu", torch.float16):
        found = weight_gradient()
    assert (found - exact).norm() < 0.05 * exact.norm()
