import copy

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    MambaConfig,
    MambaForCausalLM,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from data_utils.errors import UserError
from distillm.arguments import DecodingArguments
from distillm.models.generation import KeyedSampling, ResponseGenerator, left_padded, until_eos
from tests.distillm.tiny import ALONE, EOS, PAD, VOCABULARY, make_gpt2, make_rows
from tests.entry.curves import end_responses_at_random

PROMPTS = [row.prompt for row in make_rows(7, seed=2)]
ROW_IDS = list(range(40, 47))
PLAIN = DecodingArguments()
LAST_UNIFORM = 1 - 2**-53  # the largest float64 below 1


def respond(
    model,
    tokenizer,
    batch_size=3,
    *,
    decoding=PLAIN,
    max_new_tokens=12,
    world=ALONE,
    prompts=PROMPTS,
    row_ids=ROW_IDS,
    **key,
):
    generator = ResponseGenerator(tokenizer, decoding, max_new_tokens, batch_size, world)
    return generator.respond(model, prompts, row_ids, **{"seed": 10, "purpose": "test", **key})


def sample(scores, uniforms) -> list[int]:
    """Return the tokens that KeyedSampling leaves as the only ones: scores [B, V], uniforms [B]."""
    processor = KeyedSampling(torch.tensor(uniforms, dtype=torch.float64).unsqueeze(1), prompt_width=3)
    left = processor(torch.zeros(len(scores), 3, dtype=torch.long), scores)
    assert left.isfinite().sum(-1).eq(1).all()
    return left.argmax(-1).tolist()


@pytest.mark.parametrize("batch_size", [1, 2, 7, 50])
def test_responses_do_not_depend_on_the_batch_size(batch_size, student_model, ids_tokenizer):
    expected = respond(student_model, ids_tokenizer, 3)
    assert respond(student_model, ids_tokenizer, batch_size) == expected
    assert len({tuple(response) for response in expected}) > 4


@pytest.mark.parametrize("size", [2, 3])
def test_responses_do_not_depend_on_the_number_of_ranks(size, student_model, ids_tokenizer, on_ranks):
    expected = respond(student_model, ids_tokenizer)

    def as_rank(world):
        return respond(copy.deepcopy(student_model), ids_tokenizer, world=world)

    assert on_ranks(size, as_rank) == [expected] * size


def test_fewer_prompts_than_ranks_are_answered(student_model, ids_tokenizer, on_ranks):
    few = {"prompts": PROMPTS[:1], "row_ids": ROW_IDS[:1]}
    expected = respond(student_model, ids_tokenizer, **few)

    def as_rank(world):
        return respond(copy.deepcopy(student_model), ids_tokenizer, world=world, **few)

    assert on_ranks(2, as_rank) == [expected] * 2


def test_a_response_belongs_to_its_row_wherever_the_row_stands(student_model, ids_tokenizer):
    expected = respond(student_model, ids_tokenizer)
    backwards = {"prompts": PROMPTS[::-1], "row_ids": ROW_IDS[::-1]}
    assert respond(student_model, ids_tokenizer, **backwards) == expected[::-1]


@pytest.mark.parametrize("key", [{"seed": 11}, {"purpose": "other"}, {"step": 1}, {"row_ids": list(range(7))}])
def test_seed_purpose_step_and_row_each_change_the_responses(key, student_model, ids_tokenizer):
    assert respond(student_model, ids_tokenizer, **key) != respond(student_model, ids_tokenizer)


@pytest.mark.parametrize("no_repeat_ngram_size", [0, 2])
@pytest.mark.parametrize("repetition_penalty", [1.0, 2.0])
def test_greedy_responses_are_those_of_transformers_row_by_row(
    no_repeat_ngram_size, repetition_penalty, student_model, ids_tokenizer
):
    """A penalty sees no padding, although padding is EOS."""
    options = {"no_repeat_ngram_size": no_repeat_ngram_size, "repetition_penalty": repetition_penalty}
    student_model.eval()
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        output = student_model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, **options
        )
        expected.append(until_eos(output[0, len(prompt) :].tolist(), EOS))
    assert respond(student_model, ids_tokenizer, 7, decoding=DecodingArguments(do_sample=False, **options)) == expected


def test_bug_the_generation_settings_of_a_checkpoint_change_nothing(student_model, ids_tokenizer):
    """Transformers takes from them what a call leaves open: beams broke the sampling, other settings changed it."""
    expected = respond(student_model, ids_tokenizer)
    own = student_model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.1,
        top_k=1,
        top_p=0.1,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        max_length=5,
        max_new_tokens=2,
        eos_token_id=7,
        num_beams=3,
        min_new_tokens=10,
        suppress_tokens=list(range(2, 40)),
        bos_token_id=0,
        pad_token_id=0,
    )
    assert respond(student_model, ids_tokenizer) == expected
    assert student_model.generation_config is own


def test_sampling_is_exact_to_float64_over_a_large_vocabulary():
    """Just below and above the boundary between two tokens: sums in fp32 are off by 1e-7."""
    scores = torch.randn(1, 50_257, generator=torch.Generator().manual_seed(0))
    cumulative = scores[0].double().softmax(-1).cumsum(-1)
    for token in (10_000, 30_000, 50_000):
        assert sample(scores, [cumulative[token] - 1e-11]) == [token]
        assert sample(scores, [cumulative[token] + 1e-11]) == [token + 1]


def test_sampling_inverts_the_cumulative_distribution():
    scores = torch.randn(200, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3
    uniforms = np.random.default_rng(0).random(200)
    probabilities = np.exp(scores.double().numpy())
    probabilities /= probabilities.sum(-1, keepdims=True)
    expected = [
        int(np.searchsorted(row.cumsum() / row.sum(), u, side="right"))
        for row, u in zip(probabilities, uniforms, strict=True)
    ]
    assert sample(scores, uniforms) == expected


def test_sampling_follows_the_distribution():
    """χ² of 40,000 draws with 9 degrees of freedom: above 33.7 once in 10,000 seeds."""
    probabilities = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.05, 0.03, 0.015, 0.005], dtype=torch.float64)
    uniforms = np.random.default_rng(0).random(40_000)
    counts = np.bincount(sample(probabilities.log().expand(40_000, -1), uniforms), minlength=10)
    expected = probabilities.numpy() * 40_000
    assert ((counts - expected) ** 2 / expected).sum() < 33.7


@pytest.mark.parametrize("uniform", [0.0, 5e-324, 0.5, LAST_UNIFORM])
def test_a_token_of_probability_zero_is_never_sampled(uniform):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(500, VOCABULARY, generator=generator) * 10
    excluded = torch.rand(500, VOCABULARY, generator=generator) < 0.6
    excluded[:, 0] = excluded[:, -1] = True
    scores = scores.masked_fill(excluded, -torch.inf)
    tokens = sample(scores, [uniform] * 500)
    assert not excluded[torch.arange(500), torch.tensor(tokens)].any()


def test_the_extreme_uniforms_sample_the_first_and_the_last_token():
    scores = torch.zeros(1, 7)
    assert sample(scores, [0.0]) == [0]
    assert sample(scores, [LAST_UNIFORM]) == [6]
    only = torch.full((1, 7), -torch.inf).index_fill_(1, torch.tensor([3]), 0.5)
    assert sample(only, [0.0]) == sample(only, [LAST_UNIFORM]) == [3]


def test_the_uniform_of_each_new_position_is_used_once():
    uniforms = torch.tensor([[0.15, 0.55, 0.95]], dtype=torch.float64)
    processor = KeyedSampling(uniforms, prompt_width=2)
    scores = torch.zeros(1, 10)
    chosen = [processor(torch.zeros(1, 2 + new, dtype=torch.long), scores).argmax().item() for new in range(3)]
    assert chosen == [1, 5, 9]


@pytest.mark.parametrize(
    "warpers",
    [
        {"temperature": 0.5},
        {"top_k": 4},
        {"top_p": 0.7},
        {"temperature": 1.7, "top_k": 10, "top_p": 0.8},
    ],
)
def test_temperature_top_k_and_top_p_are_those_of_transformers(warpers, student_model, ids_tokenizer):
    """Follow each response: every token is the sample of the warped distribution at its position."""
    generator = ResponseGenerator(ids_tokenizer, DecodingArguments(**warpers), 6, 4, ALONE)
    uniforms = np.random.default_rng(1).random((len(PROMPTS), 6))
    responses = generator.respond_with(student_model, PROMPTS, uniforms)
    student_model.eval()
    for prompt, response, row in zip(PROMPTS, responses, uniforms, strict=True):
        for place, token in enumerate(response):
            ids = torch.tensor([prompt + response[:place]])
            with torch.no_grad():
                scores = student_model(input_ids=ids).logits[:, -1]
            if "temperature" in warpers:
                scores = TemperatureLogitsWarper(warpers["temperature"])(ids, scores)
            if "top_k" in warpers:
                scores = TopKLogitsWarper(warpers["top_k"])(ids, scores)
            if "top_p" in warpers:
                scores = TopPLogitsWarper(warpers["top_p"])(ids, scores)
            assert sample(scores, [row[place]]) == [token]


def test_a_response_ends_with_its_first_eos_and_holds_no_padding(student_model, ids_tokenizer):
    student_model.generation_config.pad_token_id = 0
    many = PROMPTS * 6
    row_ids = list(range(len(many)))
    responses = respond(student_model, ids_tokenizer, 42, max_new_tokens=25, prompts=many, row_ids=row_ids)
    ended = [response for response in responses if EOS in response]
    assert 0 < len(ended) < len(responses)  # of both kinds
    assert all(response.index(EOS) == len(response) - 1 for response in ended)
    assert all(len(response) == 25 for response in responses if EOS not in response)


def test_rows_that_have_ended_leave_the_batch(student_model, ids_tokenizer, monkeypatch):
    """Every response is as it is alone, and most of the tokens computed are tokens of responses."""
    end_responses_at_random(monkeypatch)
    many = {"prompts": PROMPTS * 6, "row_ids": list(range(6 * len(PROMPTS))), "max_new_tokens": 25}
    alone = respond(student_model, ids_tokenizer, 1, **many)
    computed = []

    def count(module, arguments, options):
        computed.append(len(options["input_ids"]))

    with student_model.register_forward_pre_hook(count, with_kwargs=True):
        together = respond(student_model, ids_tokenizer, 42, **many)
    assert together == alone
    tokens, longest = sum(map(len, alone)), max(map(len, alone))
    assert tokens <= sum(computed) < 1.5 * tokens < 0.7 * 42 * longest


def test_bug_a_model_without_an_attention_cache_could_not_generate(ids_tokenizer):
    """It was handed one; without one, the rows that go on are read again."""
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2))
    alone = respond(model, ids_tokenizer, 1, max_new_tokens=25)
    assert respond(model, ids_tokenizer, 7, max_new_tokens=25) == alone
    assert len({len(response) for response in alone}) > 1


def test_prompts_are_padded_on_the_left():
    assert left_padded([[1, 2, 3], [4]], 9).tolist() == [[1, 2, 3], [9, 9, 4]]


def test_until_eos_keeps_the_first_eos_and_nothing_behind_it():
    assert until_eos([5, EOS, 6, EOS], EOS) == [5, EOS]
    assert until_eos([EOS, PAD], EOS) == [EOS]
    assert until_eos([5, 6], EOS) == [5, 6]


@pytest.mark.parametrize("size", [2, 3])
def test_no_ngram_of_the_given_size_repeats(size, student_model, ids_tokenizer):
    """Prompt and response count together; at this temperature tokens would otherwise repeat."""
    student_model.generation_config.eos_token_id = None
    prompts = [list(range(2, 2 + length)) for length in range(1, 8)]

    def responses_with(**options):
        decoding = DecodingArguments(temperature=0.2, **options)
        return respond(student_model, ids_tokenizer, decoding=decoding, max_new_tokens=15, prompts=prompts)

    def repeats(prompt, response):
        ids = prompt + response
        ngrams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
        return len(ngrams) > len(set(ngrams))

    assert any(repeats(*pair) for pair in zip(prompts, responses_with(), strict=True))
    responses = responses_with(no_repeat_ngram_size=size)
    assert not any(repeats(*pair) for pair in zip(prompts, responses, strict=True))


def test_bug_ngrams_of_one_token_are_refused():
    """EOS was forbidden exactly in the rows that are padded with it, so responses depended on the batch."""
    with pytest.raises(UserError, match="--no-repeat-ngram-size 1"):
        DecodingArguments(no_repeat_ngram_size=1)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_returns_to_its_mode_and_generates_without_dropout(training, ids_tokenizer):
    model = make_gpt2(16, 2, dropout=0.5).train(training)
    plain = respond(make_gpt2(16, 2), ids_tokenizer)
    assert respond(model, ids_tokenizer) == plain
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())
