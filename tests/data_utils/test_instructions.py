"""Guarantees of data_utils/instructions.py."""

import json

import pytest

from data_utils.batching import Row
from data_utils.errors import UserError
from data_utils.indexed_dataset import IndexedDatasetWriter, separator
from data_utils.instructions import EVALUATION_SETS, InstructionDataset, load_evaluation_set, read_jsonl, references

GOOD = {"instruction": "Say hi", "input": "", "output": "hi"}


def write_lines(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


def write_store(folder, items, records=None, split="train", dtype="uint16"):
    with IndexedDatasetWriter(folder / f"{split}_0", dtype) as writer:
        for item in items:
            writer.add(item)
    if records is not None:
        write_lines(folder / f"{split}.jsonl", *records)
    return folder


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{not json", "is not JSON"),
        (b'{"instruction": "a", "output": "\xff"}', "is not JSON"),
        ([1], "is a list"),
        ({}, "has neither"),
        ({"instruction": "a"}, "has instruction"),
        ({"output": "a"}, "has output"),
        ({"instruction": 3, "output": "a"}, "`instruction` is a int"),
        ({"instruction": "a", "input": ["b"], "output": "a"}, "`input` is a list"),
        ({"instruction": "a", "output": "a", "prompt": 1}, "`prompt` is a int"),
        ({"instruction": None, "output": "a"}, "`instruction` is a NoneType"),
        ({"instruction": "a", "output": []}, "`output` must be"),
        ({"instruction": "a", "output": None}, "`output` must be"),
        ({"instruction": "a", "output": {"text": "b"}}, "`output` must be"),
        ({"instruction": "a", "output": ["b", 1]}, "`output` must be"),
        ({"instruction": "a", "output": "half an emoji \ud83d"}, "surrogate"),
    ],
)
def test_a_bad_line_is_one_line_that_names_file_and_line(tmp_path, line, complaint):
    path = write_lines(tmp_path / "train.jsonl", GOOD, b"", line)
    with pytest.raises(UserError) as error:
        read_jsonl(path)
    assert str(error.value).startswith(f"{path}:3")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_records_are_read_as_they_are(tmp_path):
    records = [{**GOOD, "output": ["a", "b"]}, {"instruction": "a\u2028b 🙂", "output": "日本", "more": 1}]
    assert read_jsonl(write_lines(tmp_path / "x.jsonl", *records)) == records


def test_one_output_and_several_are_both_references():
    assert references({"output": "a"}) == ["a"]
    assert references({"output": ["a", "b"]}) == ["a", "b"]


def test_the_five_evaluation_sets_lie_where_the_scripts_say():
    assert EVALUATION_SETS == {
        "dolly": ("dolly/valid.jsonl", None),
        "self_inst": ("self-inst/valid.jsonl", None),
        "vicuna": ("vicuna/valid.jsonl", None),
        "sinst": ("sinst/11_/valid.jsonl", None),
        "uinst": ("uinst/11_/valid.jsonl", 10_000),
    }


def test_a_record_of_an_evaluation_set_keeps_its_prompt_and_gets_the_template_without_one(tmp_path):
    write_lines(tmp_path / "dolly/valid.jsonl", {**GOOD, "prompt": "as it stands"}, GOOD)
    prompts = [record["prompt"] for record in load_evaluation_set(tmp_path, "dolly")]
    assert prompts[0] == "as it stands"
    assert prompts[1].endswith("### Instruction:\nSay hi\n\n### Response:\n")


def test_only_the_first_rows_of_uinst_count_and_what_follows_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setitem(EVALUATION_SETS, "uinst", ("uinst/11_/valid.jsonl", 2))
    write_lines(tmp_path / "uinst/11_/valid.jsonl", GOOD, GOOD, b"{broken")
    assert len(load_evaluation_set(tmp_path, "uinst")) == 2


def test_an_absent_and_an_empty_evaluation_set_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"vicuna/valid.jsonl does not exist"):
        load_evaluation_set(tmp_path, "vicuna")
    write_lines(tmp_path / "vicuna/valid.jsonl")
    with pytest.raises(UserError, match=r"vicuna/valid.jsonl holds no record"):
        load_evaluation_set(tmp_path, "vicuna")


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_row_is_parted_at_its_separator_and_cut_to_max_length(tmp_path, dtype):
    items = [[1, 2, separator(dtype), 3, 4, 5], [6, separator(dtype), 7]]
    dataset = InstructionDataset(write_store(tmp_path, items, dtype=dtype), "train", 4, 3)
    assert list(dataset) == [Row([1, 2], [3, 4], 0), Row([6], [7], 1)]
    assert type(dataset[0].prompt[0]) is int


def test_the_first_rows_are_used_when_fewer_are_asked_for(tmp_path):
    write_store(tmp_path, [[1, 65535, 2], [3, 65535, 4], [5, 65535, 6]], [GOOD] * 3)
    everything = list(InstructionDataset(tmp_path, "train", 512, 256))
    assert len(everything) == 3
    for num_rows in (2, 9):
        dataset = InstructionDataset(tmp_path, "train", 512, 256, num_rows)
        assert list(dataset) == everything[:num_rows] and len(dataset) == min(num_rows, 3)


def test_an_item_without_separator_is_all_response(tmp_path):
    dataset = InstructionDataset(write_store(tmp_path, [[1, 2, 3], [4, 5, 6]]), "train", 512, 256)
    assert list(dataset) == [Row([], [1, 2, 3], 0), Row([], [4, 5, 6], 1)]
    with pytest.raises(UserError, match=r"train.jsonl does not exist"):
        dataset.references(0)


def test_references_come_from_the_sidecar_in_the_same_order(tmp_path):
    records = [GOOD, {**GOOD, "output": ["a", "b"]}]
    dataset = InstructionDataset(write_store(tmp_path, [[1, 65535, 2]] * 2, records), "train", 512, 256)
    assert [dataset.references(i) for i in range(2)] == [["hi"], ["a", "b"]]


def test_store_and_sidecar_of_different_runs_are_an_error(tmp_path):
    write_store(tmp_path, [[1, 65535, 2]] * 2, [GOOD])
    with pytest.raises(UserError, match=r"has 1 records, .* 2 items"):
        InstructionDataset(tmp_path, "train", 512, 256)


@pytest.mark.parametrize(("max_length", "max_prompt_length", "limit"), [(512, 2, 2), (3, 256, 2)])
def test_a_prompt_too_long_for_the_run_is_an_error_at_opening(tmp_path, max_length, max_prompt_length, limit):
    write_store(tmp_path, [[1, 65535, 2], [1, 2, 3, 65535, 4]])
    with pytest.raises(UserError, match=f"item 1 has a prompt of 3 ids, more than {limit}"):
        InstructionDataset(tmp_path, "train", max_length, max_prompt_length)


@pytest.mark.parametrize("items", [[], [[1, 65535, 2], []]])
def test_an_empty_store_or_item_is_an_error_at_opening(tmp_path, items):
    with pytest.raises(UserError, match="no item, or an empty one"):
        InstructionDataset(write_store(tmp_path, items), "train", 512, 256)
