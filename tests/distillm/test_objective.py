"""The loss of a whole step against docs/methods.md written out in float64 on full logits."""

import copy
from functools import lru_cache

import pytest
import torch
from torch.nn.functional import cosine_similarity
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contra.projector import Projector
from contra.terms import AlignmentTerm
from contra.velocity_field import VelocityField
from data_utils.batching import Row, split_step
from distillm import token_losses
from distillm.arguments import DistillationArguments, PairArguments
from distillm.method import Method
from distillm.models.loading import enable_gradient_checkpointing
from distillm.models.split_model import SplitModel
from distillm.objective import Objective, Progress
from distillm.terms import make_terms
from distillm.training.engine import TorchEngine
from tests.distillm.tiny import ALONE, VOCABULARY, make_batch, make_rows

ROWS, CORPUS = make_rows(8), [Row([], [*row.prompt, *row.response], row.row_id) for row in make_rows(8, seed=5)]
STUDENT_LAYERS, TEACHER_LAYERS = [1, 2], [2, 4]  # 2 points of 4 and of 6 layers
DONE = Progress(step=3, total_steps=20, epoch=2, epochs=5)
METHODS = [  # type, kd_ratio, with corpus
    ("lm", 1.0, False),
    ("kd", 0.5, False),
    ("rkl", 1.0, False),
    ("srkl", 1.0, True),
    ("srkl-contra", 0.7, False),
]


@lru_cache(maxsize=1)  # made once: ranks that are threads share torch's random numbers
def field_of_all() -> tuple[VelocityField, Projector]:
    torch.manual_seed(7)
    field, projector = VelocityField(24, 8, 2, 2), Projector(16, 24)
    torch.nn.init.normal_(field.output.weight)
    return field.requires_grad_(False).eval(), projector.requires_grad_(False).eval()


def make_field() -> tuple[VelocityField, Projector]:
    return copy.deepcopy(field_of_all())


def make_objective(method, kd_ratio, corpus, student, teacher, world=ALONE) -> Objective:
    parsed = Method.parse(method)
    split_student = SplitModel(student, STUDENT_LAYERS if parsed.contra else None)
    split_teacher = SplitModel(teacher, TEACHER_LAYERS if parsed.contra else None) if parsed.needs_teacher else None
    arguments = DistillationArguments(type=method, kd_ratio=kd_ratio, lm_coef=0.8, skew_alpha=0.2)
    terms = make_terms(parsed, arguments, PairArguments(), split_student, split_teacher, corpus)
    if parsed.contra:
        terms.append(AlignmentTerm(kd_ratio * 1.5, "epoch", *make_field()))
    return Objective(terms, split_student, split_teacher, world)


def micro_batches(rows, corpus, accumulation, world=ALONE):
    def split(rows):
        shares = split_step(rows, accumulation, world.size, [len(row) for row in rows])
        return [make_batch(ranks[world.rank]) for ranks in shares]

    return [
        {"instruction": instruction, "corpus": corpus}
        for instruction, corpus in zip(split(rows), split(corpus), strict=True)
    ]


def step_gradient(objective, batches, world=ALONE) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the step's loss and gradient through the engine, as the trainer does it."""
    engine = TorchEngine(objective.student.model, 0.0, 0.0, "fp32", world)
    engine.module.train()
    engine.module.zero_grad()
    normalisers = objective.normalisers(batches)
    loss = torch.zeros(())
    for batch in batches:
        part = objective.loss(objective.term_values(batch, normalisers, DONE))
        engine.backward(part)
        loss = loss + part.detach()
    world.sum_gradients(engine.parameters)
    gradients = {name: parameter.grad.clone() for name, parameter in engine.module.named_parameters()}
    return world.sum(loss.clone()).item(), gradients


def reference_cross_entropy(student, rows):
    """Mean of −log q(response token), one row after the other, without padding."""
    values = []
    for row in rows:
        ids = torch.tensor([row.prompt + row.response])
        log_q = student(input_ids=ids).logits[0].log_softmax(-1)
        values += [-log_q[t - 1, ids[0, t]] for t in range(max(1, len(row.prompt)), ids.shape[1])]
    return torch.stack(values).mean()


def reference_divergence(method, student, teacher, rows, skew):
    values = []
    for row in rows:
        ids = torch.tensor([row.prompt + row.response])
        counted = slice(len(row.prompt) - 1, ids.shape[1] - 1)
        q = student(input_ids=ids).logits[0, counted].softmax(-1)
        p = teacher(input_ids=ids).logits[0, counted].softmax(-1)
        per_token = {
            "fkl": lambda p=p, q=q: p * (p / q).log(),
            "rkl": lambda p=p, q=q: q * (q / p).log(),
            "srkl": lambda p=p, q=q: q * (q / ((1 - skew) * p + skew * q)).log(),
        }[method.divergence]()
        values.append(per_token.sum(-1))
    return torch.cat(values).mean()


def reference_alignment(student, rows, step_size):
    field, projector = (module.double() for module in make_field())
    total = 0.0
    for pair, layer in enumerate(STUDENT_LAYERS):
        cosines = []
        for row in rows:
            ids = torch.tensor([row.prompt + row.response])
            states = student(input_ids=ids, output_hidden_states=True).hidden_states[layer]
            a = projector(states[0, len(row.prompt) - 1 : -1])
            g = (a + step_size * field(a, 0.0, pair)).detach()
            cosines.append(cosine_similarity(a, g, dim=-1))
        total = total + (1 - torch.cat(cosines).mean()) / len(STUDENT_LAYERS)
    return total


def reference_loss(name, kd_ratio, corpus, student, teacher):
    """(1 - kd_ratio) CE + kd_ratio (L_output + contra_weight L_CONTRA) + lm_coef CE(corpus)."""
    method = Method.parse(name)
    if not method.needs_teacher:
        return reference_cross_entropy(student, ROWS)
    loss = kd_ratio * reference_divergence(method, student, teacher, ROWS, 0.2)
    if kd_ratio < 1:
        loss = loss + (1 - kd_ratio) * reference_cross_entropy(student, ROWS)
    if method.contra:
        loss = loss + kd_ratio * 1.5 * reference_alignment(student, ROWS, 2 / 5)
    if corpus:
        loss = loss + 0.8 * reference_cross_entropy(student, CORPUS)
    return loss


def assert_same_gradients(found, expected, tolerance):
    """Compare entry by entry, relative to the largest entry of each parameter."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            found[name].double(),
            gradient.double(),
            rtol=0,
            atol=tolerance * scale + 1e-9,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize(("method", "kd_ratio", "corpus"), METHODS)
def test_loss_and_gradient_of_a_step_equal_a_float64_reference(method, kd_ratio, corpus, student_model, teacher_model):
    exact = copy.deepcopy(student_model).double()
    expected = reference_loss(method, kd_ratio, corpus, exact, copy.deepcopy(teacher_model).double())
    expected.backward()
    objective = make_objective(method, kd_ratio, corpus, student_model, teacher_model)
    loss, gradients = step_gradient(objective, micro_batches(ROWS, CORPUS, 1))
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert_same_gradients(gradients, {name: p.grad for name, p in exact.named_parameters()}, 1e-4)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_the_gradient_does_not_depend_on_how_a_step_is_split(accumulation, student_model, teacher_model):
    """Rows of very different lengths: means of means would differ."""
    objective = make_objective("srkl-contra", 0.5, True, student_model, teacher_model)
    loss, whole = step_gradient(objective, micro_batches(ROWS, CORPUS, 1))
    split_loss, split = step_gradient(objective, micro_batches(ROWS, CORPUS, accumulation))
    assert split_loss == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(split, whole, 1e-5)


def test_the_gradient_does_not_depend_on_the_number_of_ranks(student_model, teacher_model, on_ranks):
    def gradient(world):
        models = copy.deepcopy(student_model), copy.deepcopy(teacher_model)
        objective = make_objective("srkl-contra", 0.5, True, *models, world)
        return step_gradient(objective, micro_batches(ROWS, CORPUS, 2, world), world)

    loss, alone = gradient(ALONE)
    for rank_loss, of_rank in on_ranks(2, gradient):
        assert rank_loss == pytest.approx(loss, rel=1e-5)
        assert_same_gradients(of_rank, alone, 1e-5)


def test_padding_changes_nothing(student_model, teacher_model):
    objective = make_objective("srkl-contra", 0.5, False, student_model, teacher_model)
    (loss, narrow), (wide_loss, wide) = (
        step_gradient(objective, [{"instruction": make_batch(ROWS, multiple)}]) for multiple in (1, 40)
    )
    assert wide_loss == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(wide, narrow, 1e-5)


@pytest.mark.parametrize("method", ["lm", "kd", "tvd", "srkl-contra"])
def test_an_empty_response_mask_gives_zero_and_a_gradient_of_zero(method, student_model, teacher_model):
    batch = make_batch([Row([5, 6, 7], [], 0), Row([8, 9], [], 1)])
    assert not len(batch.labels)
    objective = make_objective(method, 0.5, False, student_model, teacher_model)
    normalisers = objective.normalisers([{"instruction": batch}])
    loss = objective.loss(objective.term_values({"instruction": batch}, normalisers, DONE))
    loss.backward()
    assert loss.item() == 0 and normalisers.eq(1).all()
    gradients = [parameter.grad for parameter in student_model.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.eq(0).all() for gradient in gradients)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_of_tokens_give_the_plain_value_and_gradient(
    chunk, checkpointing, student_model, teacher_model, monkeypatch
):
    objective = make_objective("srkl-contra", 0.5, True, student_model, teacher_model)
    loss, plain = step_gradient(objective, micro_batches(ROWS, CORPUS, 1))
    monkeypatch.setattr(token_losses, "CHUNK_ELEMENTS", chunk * VOCABULARY)
    if checkpointing:
        enable_gradient_checkpointing(student_model)
    chunked_loss, chunked = step_gradient(objective, micro_batches(ROWS, CORPUS, 1))
    assert chunked_loss == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(chunked, plain, 1e-5)


class WidestLogits(TorchDispatchMode):
    """Records the most rows of any tensor of vocabulary width that is created."""

    rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.shape[-1] == VOCABULARY:
                self.rows = max(self.rows, tensor.numel() // VOCABULARY)
        return output


@pytest.mark.parametrize("method", ["lm", "srkl-contra", "adaptive-jsd", "rkl-fdd"])
def test_no_more_logits_than_one_chunk_exist_in_a_training_step(method, student_model, teacher_model, monkeypatch):
    # The head's own gradient is [width, vocabulary] in GEMM's order: up to 24 rows that are not tokens.
    chunk = 25
    layers = 2 if "fdd" in method else 1
    monkeypatch.setattr(token_losses, "CHUNK_ELEMENTS", layers * chunk * VOCABULARY)
    objective = make_objective(method, 0.5, True, student_model, teacher_model)
    if "fdd" in method:
        objective.student.layers, objective.teacher.layers = STUDENT_LAYERS, TEACHER_LAYERS
    batches = micro_batches(ROWS, CORPUS, 1)
    assert len(batches[0]["instruction"].labels) > 2 * chunk
    with WidestLogits() as widest:
        step_gradient(objective, batches)
    assert 0 < widest.rows <= layers * chunk
