import math

import numpy as np
import pytest
import torch

from distillm.fdd import fdd_loss, fdd_per_token

LAYERS, TOKENS, VOCABULARY = 3, 4, 6


def log_softmax(logits):
    return logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())


def reference_token(student, teacher, temperature):
    """Loss of one token from `[N, V]` float64 logits, layer by layer."""
    num_layers = len(student)
    trajectory = derivative = 0.0
    for s, t in zip(student, teacher, strict=True):
        log_q, log_p = log_softmax(s / temperature), log_softmax(t / temperature)
        trajectory += sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True) if p > -math.inf)
    for i in range(1, num_layers):
        keep = np.isfinite(student[i])
        d_s = log_softmax(student[i])[keep] - log_softmax(student[i - 1])[keep]
        d_t = log_softmax(teacher[i])[keep] - log_softmax(teacher[i - 1])[keep]
        norms = max(np.linalg.norm(d_s), 1e-5) * max(np.linalg.norm(d_t), 1e-5)
        derivative += 1 - (d_s * d_t).sum() / norms
    return trajectory / num_layers + (derivative / (num_layers - 1) if num_layers > 1 else 0.0)


def reference(student, teacher, mask, temperature=2.0):
    tokens = [i for i in range(len(mask)) if mask[i]]
    return sum(reference_token(student[:, i], teacher[:, i], temperature) for i in tokens) / max(len(tokens), 1)


def random_logits(seed, layers=LAYERS):
    values = np.random.default_rng(seed).normal(0, 2, (layers, TOKENS, VOCABULARY))
    return values.astype(np.float32).astype(np.float64)


def value_and_gradient(student, teacher, mask, **options):
    logits = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    loss = fdd_loss(logits, torch.tensor(teacher, dtype=torch.float32), torch.as_tensor(mask), **options)
    loss.backward()
    return loss.item(), logits.grad.numpy()


def assert_equals_reference(student, teacher, mask, numeric_gradient, **options):
    value, gradient = value_and_gradient(student, teacher, mask, **options)
    assert value == pytest.approx(reference(student, teacher, mask, **options), rel=1e-5)
    slopes = numeric_gradient(lambda s: reference(s, teacher, mask, **options), student)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_value_and_gradient_equal_a_float64_reference(layers, temperature, numeric_gradient):
    mask = [1, 0, 1, 1]
    assert_equals_reference(
        random_logits(1, layers), random_logits(2, layers), mask, numeric_gradient, temperature=temperature
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_half_precision_are_compared_in_fp32(dtype):
    student, teacher = (torch.tensor(random_logits(seed)).to(dtype) for seed in (1, 2))
    assert torch.equal(fdd_per_token(student, teacher), fdd_per_token(student.float(), teacher.float()))


def test_the_default_temperature_is_2():
    student, teacher, mask = random_logits(3), random_logits(4), [1] * TOKENS
    assert value_and_gradient(student, teacher, mask)[0] == pytest.approx(
        reference(student, teacher, mask, 2.0), rel=1e-5
    )


def test_with_one_layer_only_the_trajectory_counts():
    student, teacher = random_logits(5, layers=1), random_logits(6, layers=1)
    log_q, log_p = log_softmax(student[0, 0] / 2), log_softmax(teacher[0, 0] / 2)
    expected = (np.exp(log_p) * (log_p - log_q)).sum()
    assert value_and_gradient(student, teacher, [1, 0, 0, 0])[0] == pytest.approx(expected, rel=1e-5)


def test_vocabulary_entries_with_infinite_logits_contribute_nothing(numeric_gradient):
    student, teacher = random_logits(7), random_logits(8)
    student[:, :, 2] = teacher[:, :, 2] = -math.inf
    assert_equals_reference(student, teacher, [1] * TOKENS, numeric_gradient)


def test_zero_at_equality():
    logits = random_logits(9)
    value, gradient = value_and_gradient(logits, logits, [1] * TOKENS)
    assert value == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_never_negative():
    for seed in range(50):
        values = fdd_per_token(torch.tensor(random_logits(seed)), torch.tensor(random_logits(seed + 100)))
        assert (values >= 0).all()


def test_an_empty_mask_gives_zero_and_a_zero_gradient():
    value, gradient = value_and_gradient(random_logits(10), random_logits(11), [0] * TOKENS)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masks_of_every_type_select_the_same_tokens(dtype):
    mask = torch.tensor([1, 0, 0, 1])
    expected = reference(random_logits(12), random_logits(13), mask)
    assert value_and_gradient(random_logits(12), random_logits(13), mask.to(dtype))[0] == pytest.approx(
        expected, rel=1e-5
    )


def test_masked_tokens_have_no_influence_whatever_they_hold():
    student, teacher, mask = random_logits(14), random_logits(15), [1, 1, 0, 0]
    value, gradient = value_and_gradient(student, teacher, mask)
    student[:, 2], teacher[:, 3] = math.nan, math.inf
    changed_value, changed_gradient = value_and_gradient(student, teacher, mask)
    assert changed_value == value
    np.testing.assert_array_equal(changed_gradient, gradient)


def test_the_order_of_tokens_and_constants_added_to_logits_do_not_matter():
    student, teacher, mask = random_logits(16), random_logits(17), np.array([1, 1, 0, 1])
    value, gradient = value_and_gradient(student, teacher, mask)
    order = [3, 0, 2, 1]
    moved_value, moved_gradient = value_and_gradient(student[:, order] + 7, teacher[:, order] - 5, mask[order])
    assert moved_value == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(moved_gradient, gradient[:, order], rtol=1e-4, atol=1e-6)


def test_layers_that_say_the_same_give_a_finite_gradient():
    student = np.repeat(random_logits(18, layers=1), LAYERS, axis=0)
    value, gradient = value_and_gradient(student, random_logits(19), [1] * TOKENS)
    assert math.isfinite(value)
    assert np.isfinite(gradient).all()


def test_changes_shorter_than_the_cosine_eps_count_in_proportion():
    student = np.zeros((2, TOKENS, VOCABULARY))
    student[1, :, 0], student[1, :, 1] = 2.0**-18, -(2.0**-18)
    teacher = student * 2.0**18
    small = math.sqrt(2) * 2.0**-18
    assert small < 1e-5
    values = fdd_per_token(torch.tensor(student), torch.tensor(teacher), temperature=1e6)  # almost no trajectory loss
    np.testing.assert_allclose(values, 1 - small / 1e-5, atol=0.05)
