import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillm.divergences import DIVERGENCES, select_divergence, skewed_forward_kl, skewed_reverse_kl

NAMES = ["fkl", "rkl", "jsd", "tvd", "sfkl", "srkl"]
VOCABULARY = 7
INF = math.inf


def log_softmax(logits):
    peak = max(logits)
    total = sum(math.exp(x - peak) for x in logits)
    return [x - peak - math.log(total) for x in logits]


def log_add(a, b):
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def reference(name, student, teacher, weight=0.1):
    """The sum of a divergence over the vocabulary entries of one token, by a loop in float64."""
    total = 0.0
    for log_q, log_p in zip(log_softmax(student), log_softmax(teacher), strict=True):
        if -INF in (log_q, log_p):
            continue
        p, q = math.exp(log_p), math.exp(log_q)
        mostly_p = log_add(math.log(1 - weight) + log_p, math.log(weight) + log_q)
        mostly_q = log_add(math.log(weight) + log_p, math.log(1 - weight) + log_q)
        total += {
            "fkl": p * (log_p - log_q),
            "rkl": q * (log_q - log_p),
            "jsd": weight * q * (log_q - mostly_p) + (1 - weight) * p * (log_p - mostly_p),
            "tvd": 0.5 * abs(p - q),
            "sfkl": p * (log_p - mostly_q),
            "srkl": q * (log_q - mostly_p),
        }[name]
    return total


def random_logits(seed, scale=2.0, tokens=4):
    return np.random.default_rng(seed).normal(0, scale, (tokens, VOCABULARY)).astype(np.float32).astype(np.float64)


def value_and_gradient(name, student, teacher, **parameter):
    logits = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    values = DIVERGENCES[name](logits, torch.tensor(teacher, dtype=torch.float32), **parameter)
    values.sum().backward()
    return values.detach().numpy(), logits.grad.numpy()


def assert_equals_reference(name, student, teacher, numeric_gradient):
    values, gradient = value_and_gradient(name, student, teacher)
    expected = [reference(name, s, t) for s, t in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    for row in range(len(student)):
        slopes = numeric_gradient(lambda s, row=row: reference(name, s, teacher[row]), student[row])
        np.testing.assert_allclose(gradient[row], slopes, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.1, 2.0, 8.0])
def test_value_and_gradient_equal_a_float64_reference(name, scale, numeric_gradient):
    assert_equals_reference(name, random_logits(1, scale), random_logits(2, scale), numeric_gradient)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("masked", ["student", "teacher", "both", "one in each"])
def test_entries_with_infinite_logits_contribute_nothing_and_give_no_nan(name, masked, numeric_gradient):
    student, teacher = random_logits(3), random_logits(4)
    if masked != "teacher":
        student[:, 2] = -INF
    if masked != "student":
        teacher[:, 5 if masked == "one in each" else 2] = -INF
    assert_equals_reference(name, student, teacher, numeric_gradient)


@pytest.mark.parametrize("name", NAMES)
def test_padding_the_vocabulary_with_infinite_logits_changes_nothing(name):
    student, teacher = random_logits(5), random_logits(6)
    padding = np.full((len(student), 3), -INF)
    value, gradient = value_and_gradient(name, student, teacher)
    padded_value, padded_gradient = value_and_gradient(
        name, np.hstack([student, padding]), np.hstack([teacher, padding])
    )
    np.testing.assert_allclose(padded_value, value, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(padded_gradient[:, :VOCABULARY], gradient, rtol=1e-5, atol=1e-7)
    assert (padded_gradient[:, VOCABULARY:] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_zero_value_and_gradient_at_equality(name):
    logits = random_logits(7, scale=5.0)
    value, gradient = value_and_gradient(name, logits, logits)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


finite_logits = st.lists(st.floats(-60, 60, width=32), min_size=VOCABULARY, max_size=VOCABULARY)


@pytest.mark.parametrize("name", NAMES)
@given(student=finite_logits, teacher=finite_logits)
def test_never_negative_and_never_nan(name, student, teacher):
    value, gradient = value_and_gradient(name, student, teacher)
    assert value >= -1e-5
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
def test_huge_logits_give_the_exact_finite_value(name):
    student = [[1e4, 0.0, -1e4], [0.0, 1e4, 1e4], [1e4, 1e4, 1e4]]
    teacher = [[0.0, 1e4, -1e4], [1e4, 0.0, 1e4], [1e4, 1e4, 1e4]]
    value, gradient = value_and_gradient(name, student, teacher)
    expected = [reference(name, s, t) for s, t in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
    assert np.isfinite(gradient).all()


def test_tiny_probabilities_do_not_underflow_in_a_mixture():
    apart = torch.tensor([200.0, 0.0]), torch.tensor([0.0, 200.0])
    for divergence in (skewed_forward_kl, skewed_reverse_kl):
        assert divergence(*apart, skew=0.1).item() == pytest.approx(-math.log(0.1), rel=1e-6)
        assert divergence(*apart, skew=1e-30).item() == pytest.approx(-math.log(1e-30), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_adding_a_constant_to_the_logits_changes_nothing(name):
    student, teacher = random_logits(8), random_logits(9)
    value, gradient = value_and_gradient(name, student, teacher)
    shifted_value, shifted_gradient = value_and_gradient(name, student + 30, teacher - 20)
    np.testing.assert_allclose(shifted_value, value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shifted_gradient, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_each_token_gets_its_own_value_in_fp32(name):
    student = torch.tensor(random_logits(10, tokens=6)).view(2, 3, VOCABULARY)
    teacher = torch.tensor(random_logits(11, tokens=6)).view(2, 3, VOCABULARY)
    values = DIVERGENCES[name](student, teacher)
    assert values.shape == (2, 3)
    assert values.dtype == torch.float32
    assert DIVERGENCES[name](student.half(), teacher.half()).dtype == torch.float32
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(DIVERGENCES[name](student[:, order], teacher[:, order]), values[:, order])


@pytest.mark.parametrize(("name", "parameter"), [("jsd", "mix"), ("sfkl", "skew"), ("srkl", "skew")])
@pytest.mark.parametrize("weight", [0.01, 0.5, 0.9])
def test_the_mixture_weight_is_read(name, parameter, weight):
    student, teacher = random_logits(12), random_logits(13)
    values, _ = value_and_gradient(name, student, teacher, **{parameter: weight})
    expected = [reference(name, s, t, weight) for s, t in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


def test_without_skew_the_skewed_divergences_are_the_plain_ones():
    student, teacher = random_logits(14), random_logits(15)
    for skewed, plain in (("sfkl", "fkl"), ("srkl", "rkl")):
        for got, expected in zip(
            value_and_gradient(skewed, student, teacher, skew=0.0),
            value_and_gradient(plain, student, teacher),
            strict=True,
        ):
            np.testing.assert_array_equal(got, expected)
        whole_skew = DIVERGENCES[skewed](torch.tensor(student), torch.tensor(teacher), skew=1.0)
        assert (whole_skew == 0).all()


def test_skewed_reverse_kl_gradient_flows_through_the_mixture(numeric_gradient):
    student, teacher = random_logits(16)[0], random_logits(17)[0]
    fixed = log_softmax(student)

    def with_constant_mixture(s):
        log_m = [
            log_add(math.log(0.9) + p, math.log(0.1) + q) for p, q in zip(log_softmax(teacher), fixed, strict=True)
        ]
        return sum(math.exp(q) * (q - m) for q, m in zip(log_softmax(s), log_m, strict=True))

    _, gradient = value_and_gradient("srkl", student[None], teacher[None])
    whole = numeric_gradient(lambda s: reference("srkl", s, teacher), student)
    partial = numeric_gradient(with_constant_mixture, student)
    np.testing.assert_allclose(gradient[0], whole, atol=1e-6)
    assert abs(whole - partial).max() > 1e-3


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_a_mixture_weight_outside_of_0_to_1_is_refused(weight):
    with pytest.raises(ValueError, match="must be in"):
        skewed_forward_kl(torch.zeros(3), torch.zeros(3), skew=weight)


def test_selecting_by_name_binds_the_skew_of_the_skewed_ones_only():
    student, teacher = torch.tensor(random_logits(18)), torch.tensor(random_logits(19))
    assert list(DIVERGENCES) == NAMES
    for name, divergence in DIVERGENCES.items():
        parameter = {"skew": 0.3} if name in ("sfkl", "srkl") else {}
        expected = divergence(student, teacher, **parameter)
        torch.testing.assert_close(select_divergence(name, 0.3)(student, teacher), expected)
