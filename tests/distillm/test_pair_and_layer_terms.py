"""FDD's and DistiLLM-2's terms against docs/methods.md written out in float64 on full logits."""

import copy

import pytest
import torch

from contra.terms import AlignmentTerm
from data_utils.batching import Row, split_step
from data_utils.response_pairs import Pair, collate_pairs
from distillm import token_losses
from distillm.arguments import DistillationArguments, PairArguments
from distillm.distillm2 import contrastive_loss
from distillm.method import Method
from distillm.models.split_model import SplitModel
from distillm.objective import Objective, Progress
from distillm.terms import make_terms
from tests.distillm.test_objective import (
    ROWS,
    assert_same_gradients,
    make_field,
    micro_batches,
    reference_alignment,
    reference_cross_entropy,
    reference_divergence,
    step_gradient,
)
from tests.distillm.tiny import ALONE, EOS, PAD, VOCABULARY, make_batch, make_rows

STUDENT_LAYERS, TEACHER_LAYERS = [1, 2, 3], [1, 3, 5]  # 3 points of 4 and of 6 layers
FIELD_LAYERS = [1, 2], [2, 4]  # the tiny field has 2 pairs
ALPHA_1, ALPHA_2 = 0.2, 0.05
BETA = 1 + 0.5 * 2 * 3 / 20  # of `step_gradient`'s step 3 of 20


def make_pairs(count: int) -> list[Pair]:
    """Pairs whose sides differ in length as much as rows do; the first rejected response is only an EOS."""
    others = [[EOS], *(row.response for row in make_rows(count - 1, seed=9))]
    return [
        Pair(Row(row.prompt, row.response, 2 * index), Row(row.prompt, other, 2 * index + 1))
        for index, (row, other) in enumerate(zip(make_rows(count), others, strict=True))
    ]


PAIRS = make_pairs(4)


def pair_batches(pairs, accumulation=1, world=ALONE):
    shares = split_step(pairs, accumulation, world.size, [len(pair) for pair in pairs])
    return [{"instruction": collate_pairs(ranks[world.rank], PAD)} for ranks in shares]


def make_objective(name, student, teacher, world=ALONE, kd_ratio=1.0, gradual_beta=True) -> Objective:
    method = Method.parse(name)
    student_layers, teacher_layers = FIELD_LAYERS if method.contra else (STUDENT_LAYERS, TEACHER_LAYERS)
    models = SplitModel(student, student_layers), SplitModel(teacher, teacher_layers)
    arguments = DistillationArguments(type=name, kd_ratio=kd_ratio)
    pair_arguments = PairArguments(gradual_beta=gradual_beta, base_alpha_1=ALPHA_1, base_alpha_2=ALPHA_2)
    terms = make_terms(method, arguments, pair_arguments, *models, corpus=False)
    if method.contra:
        terms.append(AlignmentTerm(1.5, "epoch", *make_field()))
    return Objective(terms, *models, world)


def exact(*models):
    """Return copies of models in float64."""
    return [copy.deepcopy(model).double() for model in models]


def reference_side(divergence, student, teacher, row):
    """Mean of a divergence over the response tokens of one row, 0 without any."""
    ids = torch.tensor([row.prompt + row.response])
    counted = slice(len(row.prompt) - 1, ids.shape[1] - 1)
    q, p = (model(input_ids=ids).logits[0, counted].softmax(-1) for model in (student, teacher))
    mixture = {
        "K1": lambda: ALPHA_1 * p + (1 - ALPHA_1) * q,
        "K2": lambda: (1 - ALPHA_2) * p + ALPHA_2 * q.detach(),
    }[divergence]()
    first = p if divergence == "K1" else q
    return (first * (first / mixture).log()).sum() / max(1, len(q))


def reference_pairs(version, beta, student, teacher, pairs):
    total = 0.0
    for pair in pairs:
        if version == "v1":
            sides = (1, "K2", pair.chosen), (1, "K2", pair.rejected)
        else:
            sides = (2 - beta, "K1", pair.chosen), (beta, "K2", pair.rejected)
        total = total + sum(weight * reference_side(kind, student, teacher, row) for weight, kind, row in sides)
    return total / len(pairs)


def reference_fdd(student, teacher, rows, student_layers, teacher_layers):
    """Each model's own head on scheduled states, without final norm; prompt tokens count too."""
    values = []
    for row in rows:
        ids = torch.tensor([(row.prompt + row.response)[:-1]])
        z_s, z_t = (
            [model.get_output_embeddings()(states[layer][0]) for layer in layers]
            for model, layers, states in (
                (student, student_layers, student(input_ids=ids, output_hidden_states=True).hidden_states),
                (teacher, teacher_layers, teacher(input_ids=ids, output_hidden_states=True).hidden_states),
            )
        )
        kls = [
            ((t / 2).softmax(-1) * ((t / 2).log_softmax(-1) - (s / 2).log_softmax(-1))).sum(-1)
            for s, t in zip(z_s, z_t, strict=True)
        ]
        value = sum(kls) / len(kls)
        for i in range(1, len(z_s)):
            d_s, d_t = (z[i].log_softmax(-1) - z[i - 1].log_softmax(-1) for z in (z_s, z_t))
            cosine = (d_s * d_t).sum(-1) / (d_s.norm(dim=-1) * d_t.norm(dim=-1))
            value = value + (1 - cosine) / (len(z_s) - 1)
        values.append(value)
    return torch.cat(values).mean()


def assert_equals_reference(objective, batches, expected, reference_student):
    expected.backward()
    loss, gradients = step_gradient(objective, batches)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    # What no term reaches has no gradient in the reference, and none or 0 in the engine.
    wanted = {
        name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in reference_student.named_parameters()
    }
    assert_same_gradients(gradients, wanted, 1e-4)


# ---- response pairs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["distillm2-v1", "distillm2-v2", "distillm2-v2-contra"])
def test_loss_and_gradient_of_a_step_of_pairs_equal_a_float64_reference(name, student_model, teacher_model):
    student, teacher = exact(student_model, teacher_model)
    expected = reference_pairs(Method.parse(name).pairs, BETA, student, teacher, PAIRS)
    if "contra" in name:  # on the response tokens of both rows of a pair, one mean over all of them
        rows = [row for pair in PAIRS for row in (pair.chosen, pair.rejected)]
        expected = expected + 1.5 * reference_alignment(student, rows, 2 / 5)
    objective = make_objective(name, student_model, teacher_model)
    assert_equals_reference(objective, pair_batches(PAIRS), expected, student)


@pytest.mark.parametrize(
    ("gradual", "step", "beta"), [(True, 1, 1.125), (True, 3, 1.375), (True, 4, 1.5), (True, 8, 1.5), (False, 8, 1.0)]
)
def test_beta_follows_the_run_when_it_is_gradual(gradual, step, beta, student_model, teacher_model):
    objective = make_objective("distillm2-v2", student_model, teacher_model, gradual_beta=gradual)
    (batch,) = pair_batches(PAIRS[:2])
    with torch.no_grad():
        value = objective.term_values(batch, objective.normalisers([batch]), Progress(step, 8, 1, 1)).item()
        expected = reference_pairs("v2", beta, *exact(student_model, teacher_model), PAIRS[:2]).item()
    assert value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_term_is_the_published_loss_summed_over_pairs(version, student_model, teacher_model):
    objective = make_objective(f"distillm2-{version}", student_model, teacher_model)
    batches = pair_batches(PAIRS)
    batch = collate_pairs(PAIRS, PAD, packed=False)
    logits = [
        model.eval()(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        for model in (student_model, teacher_model)
    ]
    labels = torch.full_like(batch.input_ids, -100).flatten().index_put((batch.response_positions,), batch.labels)
    losses = contrastive_loss(*logits, labels.view_as(batch.input_ids), version, BETA, ALPHA_1, ALPHA_2)
    assert step_gradient(objective, batches)[0] == pytest.approx((losses.sum() / len(PAIRS)).item(), rel=1e-5)


@pytest.mark.parametrize("empty", ["chosen", "rejected"])
def test_a_side_without_response_tokens_adds_zero(empty, student_model, teacher_model):
    sides = {"chosen": PAIRS[1].chosen, "rejected": PAIRS[1].rejected}
    pairs = [Pair(**sides | {empty: Row(PAIRS[1].chosen.prompt, [], 2)}), *PAIRS[2:]]
    student, teacher = exact(student_model, teacher_model)
    expected = reference_pairs("v2", BETA, student, teacher, pairs)
    objective = make_objective("distillm2-v2", student_model, teacher_model)
    assert_equals_reference(objective, pair_batches(pairs), expected, student)


# ---- feature dynamics --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kd_ratio", "num_points"), [(1.0, 3), (0.6, 3), (0.6, 1)])
def test_loss_and_gradient_with_fdd_equal_a_float64_reference(kd_ratio, num_points, student_model, teacher_model):
    student, teacher = exact(student_model, teacher_model)
    layers = STUDENT_LAYERS[:num_points], TEACHER_LAYERS[:num_points]
    method = Method.parse("rkl-fdd")
    expected = kd_ratio * reference_divergence(method, student, teacher, ROWS, 0.1)
    expected = expected + kd_ratio * reference_fdd(student, teacher, ROWS, *layers)
    if kd_ratio < 1:
        expected = expected + (1 - kd_ratio) * reference_cross_entropy(student, ROWS)
    objective = make_objective("rkl-fdd", student_model, teacher_model, kd_ratio=kd_ratio)
    objective.student.layers, objective.teacher.layers = layers
    assert_equals_reference(objective, [{"instruction": make_batch(ROWS)}], expected, student)


def test_fdd_counts_prompt_tokens_and_no_padding(student_model, teacher_model):
    objective = make_objective("rkl-fdd", student_model, teacher_model)
    narrow, wide = ([{"instruction": make_batch(ROWS, multiple)}] for multiple in (1, 40))
    _, of_fdd = objective.normalisers(wide).tolist()
    assert of_fdd == sum(len(row) - 1 for row in ROWS)
    (loss, gradient), (wide_loss, wide_gradient) = step_gradient(objective, narrow), step_gradient(objective, wide)
    assert wide_loss == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(wide_gradient, gradient, 1e-5)


# ---- both: how a step is computed has no influence ---------------------------------------------------------------


def batches_of(name, accumulation=1, world=ALONE):
    if "distillm2" in name:
        return pair_batches(PAIRS, accumulation, world)
    return [{"instruction": batch["instruction"]} for batch in micro_batches(ROWS, ROWS, accumulation, world)]


@pytest.mark.parametrize("name", ["distillm2-v2-contra", "rkl-fdd"])
def test_neither_micro_batches_nor_chunks_change_the_gradient(name, student_model, teacher_model, monkeypatch):
    objective = make_objective(name, student_model, teacher_model)
    loss, plain = step_gradient(objective, batches_of(name))
    monkeypatch.setattr(token_losses, "CHUNK_ELEMENTS", 21 * VOCABULARY)  # 7 tokens of 3 layers
    for accumulation in (1, 2):
        other_loss, other = step_gradient(objective, batches_of(name, accumulation))
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert_same_gradients(other, plain, 1e-5)


@pytest.mark.parametrize("name", ["distillm2-v2-contra", "rkl-fdd"])
def test_the_gradient_does_not_depend_on_the_number_of_ranks(name, student_model, teacher_model, on_ranks):
    def gradient(world):
        models = copy.deepcopy(student_model), copy.deepcopy(teacher_model)
        return step_gradient(make_objective(name, *models, world), batches_of(name, 2, world), world)

    loss, alone = gradient(ALONE)
    for rank_loss, of_rank in on_ranks(2, gradient):
        assert rank_loss == pytest.approx(loss, rel=1e-5)
        assert_same_gradients(of_rank, alone, 1e-5)
