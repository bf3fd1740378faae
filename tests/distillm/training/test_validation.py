import copy

import pytest
import torch

from data_utils.errors import UserError
from distillm.arguments import DecodingArguments, TrainingArguments
from distillm.metrics import compute_metrics
from distillm.models.generation import ResponseGenerator
from distillm.models.split_model import SplitModel
from distillm.training.validation import Validator, score
from tests.distillm.tiny import ALONE, make_gpt2, make_rows


class Dev:
    """Dev rows with two references each."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def references(self, index):
        return [" ".join(map(str, self.rows[index].response)), " ".join(map(str, range(index, index + 20)))]


DEV = Dev(make_rows(11, seed=4))


def make_validator(tokenizer, batch_size=4, world=ALONE, dev=DEV, generate=True, seed=10) -> Validator:
    training = TrainingArguments(save="x", do_valid=True, eval_batch_size=batch_size, eval_gen=generate, seed=seed)
    generator = ResponseGenerator(tokenizer, DecodingArguments(), 8, batch_size, world)
    return Validator(dev, tokenizer, generator, training, world)


def reference_loss(model, rows) -> float:
    """Mean over all response tokens of the set of −log q, one row after the other, in float64."""
    exact, values = copy.deepcopy(model).double().eval(), []
    for row in rows:
        ids = torch.tensor([row.prompt + row.response])
        with torch.no_grad():
            log_q = exact(input_ids=ids).logits[0].log_softmax(-1)
        values += [-log_q[t - 1, ids[0, t]].item() for t in range(len(row.prompt), ids.shape[1])]
    return sum(values) / len(values)


@pytest.mark.parametrize("num_rows", [11, 5])
def test_the_dev_loss_is_the_mean_over_the_response_tokens_of_the_set(num_rows, student_model, ids_tokenizer):
    validator = make_validator(ids_tokenizer, dev=Dev(DEV.rows[:num_rows]), generate=False)
    scores = validator.validate(SplitModel(student_model), 0)
    assert scores == {"dev_loss": pytest.approx(reference_loss(student_model, DEV.rows[:num_rows]), rel=1e-5)}


def test_bug_a_dev_loss_that_is_not_finite_was_taken_for_a_loss(student_model, ids_tokenizer):
    """The adaptive threshold was compared with it, and the run went on to its end."""
    student_model.get_output_embeddings().weight.data[5] = float("nan")
    with pytest.raises(UserError, match="the dev loss after step 12 is nan"):
        make_validator(ids_tokenizer).validate(SplitModel(student_model), 12)


def test_dropout_is_off_and_the_model_returns_to_training(ids_tokenizer):
    model = make_gpt2(16, 4, dropout=0.5).train()
    expected = make_validator(ids_tokenizer).validate(SplitModel(make_gpt2(16, 4)), 0)
    assert make_validator(ids_tokenizer).validate(SplitModel(model), 0) == expected
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_the_responses_are_scored_against_the_references_of_their_rows(student_model, ids_tokenizer):
    validator = make_validator(ids_tokenizer)
    scores = validator.validate(SplitModel(student_model), 7)
    assert scores.keys() == {"dev_loss", "dev_rougeL", "dev_exact_match"}
    generator = ResponseGenerator(ids_tokenizer, DecodingArguments(), 8, 4, ALONE)
    responses = generator.respond(
        student_model,
        [row.prompt for row in DEV.rows],
        [row.row_id for row in DEV.rows],
        seed=10,
        purpose="validation",
        step=7,
    )
    texts = ids_tokenizer.batch_decode(responses, skip_special_tokens=True)
    expected = compute_metrics(texts, [DEV.references(index) for index in range(len(DEV))])
    assert {name: scores[f"dev_{name}"] for name in expected} == expected
    assert 0 < scores["dev_rougeL"] < 100


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_scores_do_not_depend_on_the_batch_size(batch_size, student_model, ids_tokenizer):
    expected = make_validator(ids_tokenizer).validate(SplitModel(student_model), 1)
    scores = make_validator(ids_tokenizer, batch_size).validate(SplitModel(student_model), 1)
    assert scores == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_scores_do_not_depend_on_the_number_of_ranks(size, student_model, ids_tokenizer, on_ranks):
    expected = make_validator(ids_tokenizer).validate(SplitModel(student_model), 1)

    def as_rank(world):
        return make_validator(ids_tokenizer, world=world).validate(SplitModel(copy.deepcopy(student_model)), 1)

    for scores in on_ranks(size, as_rank):
        assert scores == pytest.approx(expected, rel=1e-6)


def test_another_seed_and_another_step_sample_other_responses(student_model, ids_tokenizer):
    student = SplitModel(student_model)
    scores = [
        make_validator(ids_tokenizer, seed=seed).validate(student, step) for seed, step in ((10, 0), (11, 0), (10, 1))
    ]
    assert len({entry["dev_rougeL"] for entry in scores}) == 3 and len({entry["dev_loss"] for entry in scores}) == 1


def test_rouge_selects_a_checkpoint_where_there_is_one_else_the_loss():
    assert score({"dev_loss": 2.0, "dev_rougeL": 30.0, "dev_exact_match": 1.0}) == 30.0
    assert score({"dev_loss": 2.0}) > score({"dev_loss": 3.0})
