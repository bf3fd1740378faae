import math

import numpy as np
import pytest
import torch

from distillm.distillm2 import contrastive_loss, gradual_beta, pair_divergences, rejecting_kl

PAIRS, TOKENS, VOCABULARY = 2, 4, 5
LABELS = np.array(
    [
        [-100, 1, 2, 3],
        [-100, -100, 4, -100],
        [-100, 2, 2, -100],
        [0, 1, 2, 3],
    ]
)


def softmax(logits):
    powers = [math.exp(x - max(logits)) for x in logits]
    return [x / sum(powers) for x in powers]


def k1(student, teacher, alpha):
    return sum(
        p * math.log(p / (alpha * p + (1 - alpha) * q)) for q, p in zip(softmax(student), softmax(teacher), strict=True)
    )


def k2(student, teacher, alpha, held):
    """`held`: the student logits inside the mixture, which get no gradient."""
    return sum(
        q * math.log(q / ((1 - alpha) * p + alpha * h))
        for q, p, h in zip(softmax(student), softmax(teacher), softmax(held), strict=True)
    )


def reference(student, teacher, labels, version, beta, alpha_1, alpha_2, held):
    """Loss of each pair by loops over rows and tokens."""
    num_pairs = len(labels) // 2
    losses = [0.0] * num_pairs
    for row in range(2 * num_pairs):
        chosen = row < num_pairs
        tokens = [i for i in range(labels.shape[1]) if labels[row, i] != -100]
        for i in tokens:
            s, t, h = student[row, i], teacher[row, i], held[row, i]
            if version == "v1":
                loss = k2(s, t, alpha_2, h)
            else:
                loss = (2 - beta) * k1(s, t, alpha_1) if chosen else beta * k2(s, t, alpha_2, h)
            losses[row % num_pairs] += loss / len(tokens)
    return losses


def random_logits(seed, rows=2 * PAIRS):
    return np.random.default_rng(seed).normal(0, 2, (rows, TOKENS, VOCABULARY)).astype(np.float32).astype(np.float64)


def losses_and_gradient(student, teacher, labels, **options):
    logits = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    losses = contrastive_loss(logits, torch.tensor(teacher, dtype=torch.float32), torch.tensor(labels), **options)
    losses.sum().backward()
    return losses.detach().numpy(), logits.grad.numpy()


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(("beta", "alpha_1", "alpha_2"), [(1.0, 0.1, 0.1), (1.5, 0.3, 0.05)])
def test_values_and_gradient_equal_a_float64_reference(version, beta, alpha_1, alpha_2, numeric_gradient):
    student, teacher = random_logits(1), random_logits(2)
    losses, gradient = losses_and_gradient(
        student, teacher, LABELS, version=version, beta=beta, alpha_1=alpha_1, alpha_2=alpha_2
    )
    options = (version, beta, alpha_1, alpha_2)
    np.testing.assert_allclose(losses, reference(student, teacher, LABELS, *options, held=student), rtol=1e-5)
    slopes = numeric_gradient(lambda s: sum(reference(s, teacher, LABELS, *options, held=student)), student)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_half_precision_are_compared_in_fp32(version, dtype):
    student, teacher = (torch.tensor(random_logits(seed)).to(dtype) for seed in (1, 2))
    labels = torch.tensor(LABELS)
    losses = contrastive_loss(student, teacher, labels, version=version)
    assert torch.equal(losses, contrastive_loss(student.float(), teacher.float(), labels, version=version))


def test_v1_treats_both_sides_alike_and_is_not_v2_with_beta_1():
    sides = pair_divergences("v1", beta=1.0)
    student, teacher = (torch.tensor(random_logits(seed)[0]).float() for seed in (1, 2))
    assert torch.equal(sides.chosen(student, teacher), sides.rejected(student, teacher))
    assert not torch.allclose(sides.chosen(student, teacher), pair_divergences("v2").chosen(student, teacher))


def test_the_defaults_are_v2_with_beta_1_and_alphas_0_1():
    student, teacher = random_logits(3), random_logits(4)
    expected = reference(student, teacher, LABELS, "v2", 1.0, 0.1, 0.1, held=student)
    np.testing.assert_allclose(losses_and_gradient(student, teacher, LABELS)[0], expected, rtol=1e-5)


def test_the_rejected_side_passes_no_gradient_through_its_mixture(numeric_gradient):
    student, teacher = random_logits(5)[0, 0], random_logits(6)[0, 0]
    logits = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    rejecting_kl(logits, torch.tensor(teacher, dtype=torch.float32), skew=0.3).backward()
    held = numeric_gradient(lambda s: k2(s, teacher, 0.3, student), student)
    free = numeric_gradient(lambda s: k2(s, teacher, 0.3, s), student)
    np.testing.assert_allclose(logits.grad.numpy(), held, atol=1e-6)
    assert abs(held - free).max() > 1e-3


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_zero_at_equality_and_never_negative(version):
    logits = random_logits(9)
    np.testing.assert_allclose(losses_and_gradient(logits, logits, LABELS, version=version)[0], 0, atol=1e-6)
    assert (losses_and_gradient(logits, random_logits(10), LABELS, version=version)[0] >= 0).all()


def test_a_side_without_response_tokens_adds_zero():
    student, teacher = random_logits(11), random_logits(12)
    labels = LABELS.copy()
    labels[0] = labels[1] = labels[3] = -100
    losses, gradient = losses_and_gradient(student, teacher, labels)
    np.testing.assert_allclose(losses, reference(student, teacher, labels, "v2", 1.0, 0.1, 0.1, student), rtol=1e-5)
    assert losses[1] == 0
    assert (gradient[[0, 1, 3]] == 0).all()
    losses, gradient = losses_and_gradient(student, teacher, np.full_like(labels, -100))
    assert (losses == 0).all()
    assert (gradient == 0).all()


def test_uncounted_positions_and_padding_have_no_influence_whatever_they_hold():
    student, teacher = random_logits(13), random_logits(14)
    losses, gradient = losses_and_gradient(student, teacher, LABELS)
    student[LABELS == -100], teacher[LABELS == -100] = math.nan, math.inf
    padding = np.full((2 * PAIRS, 3, VOCABULARY), math.nan)
    wide = np.pad(LABELS, ((0, 0), (0, 3)), constant_values=-100)
    student, teacher = (np.concatenate([logits, padding], axis=1) for logits in (student, teacher))
    padded_losses, padded_gradient = losses_and_gradient(student, teacher, wide)
    np.testing.assert_array_equal(padded_losses, losses)
    np.testing.assert_array_equal(padded_gradient[:, :TOKENS], gradient)
    assert (padded_gradient[:, TOKENS:] == 0).all()


def test_each_pair_depends_on_its_own_two_rows_only():
    student, teacher = random_logits(15), random_logits(16)
    losses, _ = losses_and_gradient(student, teacher, LABELS)
    swapped = [1, 0, 3, 2]
    np.testing.assert_array_equal(
        losses_and_gradient(student[swapped], teacher[swapped], LABELS[swapped])[0], losses[::-1]
    )
    student[[1, 3]] += random_logits(17)[:2]
    changed, _ = losses_and_gradient(student, teacher, LABELS)
    assert changed[0] == losses[0]
    assert changed[1] != losses[1]


def test_a_masked_vocabulary_entry_gives_no_nan():
    student, teacher = random_logits(18), random_logits(19)
    student[..., 0] = teacher[..., 0] = -math.inf
    losses, gradient = losses_and_gradient(student, teacher, LABELS)
    expected, _ = losses_and_gradient(student[..., 1:], teacher[..., 1:], LABELS)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_an_odd_number_of_rows_and_an_unknown_version_are_refused():
    with pytest.raises(ValueError, match="3 rows are odd"):
        contrastive_loss(torch.zeros(3, 1, 2), torch.zeros(3, 1, 2), torch.zeros(3, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="v3"):
        pair_divergences("v3")


def test_gradual_beta_rises_to_1_5_at_half_of_the_run():
    assert [gradual_beta(step, 8) for step in (1, 2, 4, 5, 8)] == [1.125, 1.25, 1.5, 1.5, 1.5]
