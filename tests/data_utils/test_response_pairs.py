"""Response pairs: encoded like instruction rows, distinct ids, and one clear line for a folder without pairs."""

import pytest
from datasets import Dataset, DatasetDict

from data_utils.batching import Row, collate
from data_utils.errors import UserError
from data_utils.prompts import encode_example, format_prompt
from data_utils.response_pairs import Pair, PairDataset, collate_pairs, is_pair_folder

MAX_LENGTH, MAX_PROMPT_LENGTH = 120, 80
RECORDS = [
    {"prompt": format_prompt({"instruction": f"Say {i}."}), "chosen": f"{i}, of course.", "rejected": "No. " * i}
    for i in range(3)
]


@pytest.fixture
def save(tmp_path):
    """Write splits as `tools/build_response_pairs.py` does; return the folder."""

    def save_splits(**splits):
        tables = DatasetDict({name: Dataset.from_list(records) for name, records in splits.items()})
        tables.save_to_disk(str(tmp_path / "pairs"))
        return tmp_path / "pairs"

    return save_splits


def open_pairs(folder, tokenizer, max_length=MAX_LENGTH, max_prompt_length=MAX_PROMPT_LENGTH, **options):
    return PairDataset(folder, "train", tokenizer, max_length, max_prompt_length, **options)


@pytest.mark.parametrize("kind", ["tokenizer", "bos_tokenizer", "crossing_tokenizer"])
def test_both_sides_are_encoded_like_instruction_rows(kind, save, request):
    tokenizer = request.getfixturevalue(kind)
    pairs = open_pairs(save(train=RECORDS), tokenizer, max_length=1000, max_prompt_length=500)
    for index, record in enumerate(RECORDS):
        for side, row in (("chosen", pairs[index].chosen), ("rejected", pairs[index].rejected)):
            prompt, response = encode_example(tokenizer, record["prompt"], record[side], 500)
            assert (row.prompt, row.response) == (prompt, response)
            assert response[-1] == tokenizer.eos_token_id
        assert pairs.prompts[index] == pairs[index].chosen.prompt
        assert len(pairs[index]) == max(len(pairs[index].chosen), len(pairs[index].rejected))


def test_every_row_has_an_id_of_its_own_that_says_pair_and_side(save, tokenizer):
    pairs = open_pairs(save(train=RECORDS), tokenizer)
    ids = [(pair.chosen.row_id, pair.rejected.row_id) for pair in pairs]
    assert ids == [(0, 1), (2, 3), (4, 5)]


def test_a_prompt_that_is_too_long_loses_its_middle_and_a_row_its_end(save, tokenizer):
    prompt = format_prompt({"instruction": "red green " * 60})
    record = {"prompt": prompt, "chosen": "blue " * 100, "rejected": "ok"}
    (pair,) = open_pairs(save(train=[record]), tokenizer)
    whole = tokenizer.encode(prompt)
    marker = len(tokenizer.encode("### Response:\n"))
    assert len(whole) > MAX_PROMPT_LENGTH == len(pair.chosen.prompt)
    assert pair.chosen.prompt == whole[: MAX_PROMPT_LENGTH - marker] + whole[-marker:]
    assert len(pair.chosen) == MAX_LENGTH and len(pair.rejected) < MAX_LENGTH
    assert tokenizer.eos_token_id not in pair.chosen.response
    assert pair.rejected.response[-1] == tokenizer.eos_token_id


def test_the_first_pairs_are_used_when_fewer_are_asked_for(save, tokenizer):
    folder = save(train=RECORDS)
    everything = list(open_pairs(folder, tokenizer))
    assert len(everything) == 3
    assert list(open_pairs(folder, tokenizer, num_rows=2)) == everything[:2]
    assert list(open_pairs(folder, tokenizer, num_rows=9)) == everything


def test_replaced_rejected_responses_are_cut_to_the_row_and_leave_the_chosen_side_and_the_ids(save, tokenizer):
    pairs = open_pairs(save(train=RECORDS), tokenizer)
    chosen = [pair.chosen for pair in pairs]
    room = MAX_LENGTH - len(pairs.prompts[2])
    pairs.replace_rejected([[7], [8, 9], [1] * MAX_LENGTH])
    assert [pair.chosen for pair in pairs] == chosen
    assert [pair.rejected for pair in pairs] == [
        Row(prompt, response, 2 * index + 1)
        for index, (prompt, response) in enumerate(zip(pairs.prompts, [[7], [8, 9], [1] * room], strict=True))
    ]
    assert len(pairs[2].rejected) == MAX_LENGTH


def test_a_batch_holds_the_chosen_rows_then_the_rejected_ones_of_the_same_prompts():
    pairs = [
        Pair(Row([5, 6], [7, 8, 9, 1], 10), Row([5, 6], [1], 11)),
        Pair(Row([4], [3, 1], 4), Row([4], [2, 2, 2, 2, 2, 2, 2, 2, 2, 1], 5)),
    ]
    batch = collate_pairs(pairs, pad_id=0)
    expected = collate([pairs[0].chosen, pairs[1].chosen, pairs[0].rejected, pairs[1].rejected], 0)
    for name in ("input_ids", "position_ids", "labels", "row_ids"):
        assert getattr(batch, name).tolist() == getattr(expected, name).tolist(), name
    assert batch.row_ids.tolist() == [10, 4, 11, 5]
    assert batch.response_counts.tolist() == [4, 2, 1, 10]


# ---- folders that hold no pairs ----------------------------------------------------------------------------------


def refused(folder, tokenizer, *words):
    with pytest.raises(UserError) as caught:
        open_pairs(folder, tokenizer)
    assert "\n" not in str(caught.value)
    for word in (str(folder), *words):
        assert word in str(caught.value)


def test_a_missing_folder_or_one_without_pairs(tmp_path, tokenizer):
    refused(tmp_path / "nowhere", tokenizer, "tools/build_response_pairs.py")
    refused(tmp_path, tokenizer, "tools/build_response_pairs.py")
    assert not is_pair_folder(tmp_path)


def test_a_missing_or_empty_split(save, tokenizer):
    folder = save(dev=RECORDS)
    assert is_pair_folder(folder)
    refused(folder, tokenizer, "'train'", "tools/build_response_pairs.py")
    empty = DatasetDict({"train": Dataset.from_dict({name: [] for name in ("prompt", "chosen", "rejected")})})
    empty.save_to_disk(str(folder))
    refused(folder, tokenizer, "holds no response pairs", "tools/build_response_pairs.py")


def test_missing_columns(save, tokenizer):
    refused(save(train=[{"prompt": "a", "response": "b"}]), tokenizer, "lacks the columns chosen, rejected")


def test_a_table_without_splits(tmp_path, tokenizer):
    Dataset.from_list(RECORDS).save_to_disk(str(tmp_path / "table"))
    refused(tmp_path / "table", tokenizer, "'train'")
