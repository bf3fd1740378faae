"""Guarantees of data_utils/store_meta.py (tests/tools has `check_length`, with the tool that cuts the rows)."""

import pytest

from data_utils.errors import UserError
from data_utils.files import write_json
from data_utils.store_meta import check_tokenizer, describe_tokenizer


def test_a_store_of_another_tokenizer_is_noticed(tmp_path, tokenizer, crossing_tokenizer):
    write_json(tmp_path / "meta.json", {"tokenizer": describe_tokenizer(tokenizer)})
    check_tokenizer(tmp_path, tokenizer)
    with pytest.raises(UserError, match="made with the tokenizer"):
        check_tokenizer(tmp_path, crossing_tokenizer)


def test_a_store_of_other_tools_without_meta_json_is_trusted(tmp_path, tokenizer):
    check_tokenizer(tmp_path, tokenizer)


def test_the_bos_habit_is_part_of_a_tokenizer_but_an_added_padding_token_is_not(tokenizer, tokenizer_maker):
    padded = tokenizer_maker()
    padded.add_special_tokens({"pad_token": "<pad>"})
    assert describe_tokenizer(padded)["fingerprint"] == describe_tokenizer(tokenizer)["fingerprint"]
    with_bos = tokenizer_maker("<s> $A")
    assert describe_tokenizer(with_bos)["fingerprint"] != describe_tokenizer(tokenizer)["fingerprint"]
