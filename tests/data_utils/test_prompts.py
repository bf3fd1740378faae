"""Guarantees of data_utils/prompts.py: the template and rules a to d of encoding."""

import pytest

from data_utils.prompts import encode_example, encode_prompt, format_prompt, puts_bos_first

LONG = format_prompt({"instruction": "Count the words. " * 60, "input": "one two ### Response: three " * 20})


def plain_ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def test_the_template_without_input():
    expected = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName a colour.\n\n### Response:\n"
    )
    assert format_prompt({"instruction": "Name a colour."}) == expected
    assert format_prompt({"instruction": "Name a colour.", "input": ""}) == expected
    assert format_prompt({"instruction": "Name a colour.", "input": None, "prompt": "other"}) == expected


def test_the_template_with_input():
    assert format_prompt({"instruction": "Translate {this}.", "input": "chat"}) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nTranslate {this}.\n\n### Input:\nchat\n\n### Response:\n"
    )


def test_a_bos_stands_first_exactly_when_the_tokenizer_puts_it_there(tokenizer, bos_tokenizer):
    prompt = format_prompt({"instruction": "Hi"})
    assert not puts_bos_first(tokenizer)
    assert puts_bos_first(bos_tokenizer)
    assert encode_prompt(tokenizer, prompt, 256) == plain_ids(tokenizer, prompt)
    assert encode_prompt(bos_tokenizer, prompt, 256) == [bos_tokenizer.bos_token_id, *plain_ids(bos_tokenizer, prompt)]


def test_a_tokenizer_without_bos_gets_none(tokenizer_maker):
    tokenizer = tokenizer_maker("$A </s>")
    tokenizer.bos_token = None
    assert encode_prompt(tokenizer, "Hi", 256) == plain_ids(tokenizer, "Hi")


@pytest.mark.parametrize("which", ["tokenizer", "bos_tokenizer", "crossing_tokenizer"])
@pytest.mark.parametrize("limit", [256, 100, 40])
def test_b_a_long_prompt_keeps_its_first_ids_and_those_from_the_last_response_marker_on(which, limit, request):
    tokenizer = request.getfixturevalue(which)
    whole = encode_prompt(tokenizer, LONG, 10**9)
    assert len(whole) > limit
    tail = next(k for k in range(len(whole)) if "### Response:" in tokenizer.decode(whole[len(whole) - k :]))
    cut = encode_prompt(tokenizer, LONG, limit)
    assert cut == whole[: limit - tail] + whole[-tail:]
    assert len(cut) == limit
    assert tokenizer.decode(cut).endswith("### Response:\n")


def test_b_a_prompt_of_exactly_the_limit_is_whole(tokenizer):
    whole = encode_prompt(tokenizer, LONG, 10**9)
    assert encode_prompt(tokenizer, LONG, len(whole)) == whole


def test_b_a_long_prompt_without_a_marker_keeps_its_first_ids(tokenizer):
    assert encode_prompt(tokenizer, "word " * 300, 50) == plain_ids(tokenizer, "word " * 300)[:50]


def test_b_a_limit_that_cannot_hold_the_marker_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="--max-prompt-length 1 "):
        encode_prompt(tokenizer, LONG, 1)


@pytest.mark.parametrize("which", ["tokenizer", "bos_tokenizer"])
@pytest.mark.parametrize("response", ["Yes.", "", " leading space", "two\n\nlines", "naïve 🙂 日本語"])
def test_c_a_response_is_what_follows_the_prompt_in_the_whole_text(which, response, request):
    tokenizer = request.getfixturevalue(which)
    prompt = format_prompt({"instruction": "Say 🙂", "input": "ça"})
    prompt_ids, response_ids = encode_example(tokenizer, prompt, response, 256)
    assert prompt_ids == encode_prompt(tokenizer, prompt, 256)
    assert response_ids[-1] == tokenizer.eos_token_id
    assert response_ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.bos_token_id not in response_ids
    assert tokenizer.decode(response_ids[:-1]) == response
    assert plain_ids(tokenizer, prompt) + response_ids[:-1] == plain_ids(tokenizer, prompt + response)


def test_c_a_response_whose_first_token_would_begin_in_the_prompt_is_encoded_apart(crossing_tokenizer):
    prompt = "### Response:\n"
    together = plain_ids(crossing_tokenizer, prompt + "Yes.")
    prompt_only = plain_ids(crossing_tokenizer, prompt)
    assert together[: len(prompt_only)] != prompt_only, "the tokenizer must have a token across the boundary"
    prompt_ids, response_ids = encode_example(crossing_tokenizer, prompt, "Yes.", 256)
    assert prompt_ids == prompt_only
    assert response_ids == [*plain_ids(crossing_tokenizer, "Yes."), crossing_tokenizer.eos_token_id]


def test_c_cutting_a_prompt_does_not_change_the_response(tokenizer):
    whole = encode_example(tokenizer, LONG, "Yes.", 10**9)
    cut = encode_example(tokenizer, LONG, "Yes.", 60)
    assert cut[1] == whole[1]
    assert len(cut[0]) == 60
