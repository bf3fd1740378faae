"""Guarantees of tools/process_data_dolly.py, tools/process_data_pretrain.py and tools/processing.py."""

import json
import os
from itertools import chain

import pytest

from data_utils.batching import Row
from data_utils.errors import UserError
from data_utils.indexed_dataset import IndexedDataset
from data_utils.instructions import InstructionDataset, load_evaluation_set, read_jsonl
from data_utils.prompts import encode_example, format_prompt
from data_utils.store_meta import check_length, check_tokenizer
from tools import process_data_dolly, process_data_pretrain, processing
from tools.generate_responses import ResponseArguments, read_prompts

TRAIN = [{"instruction": "Add.", "input": f"{i} and {i} 🙂", "output": str(2 * i)} for i in range(150)]
DEV = [{"instruction": "Name " + "a very long list " * 40, "output": ["first", "second"]}, {**TRAIN[0], "input": None}]


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return folder


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_lines(folder / "train.jsonl", TRAIN)
    write_lines(folder / "dev.jsonl", DEV)
    return folder


@pytest.fixture
def process(run, tmp_path, model):
    """Run a tool: its output folder and what it printed."""

    def process_data(tool, *options, save="store"):
        folders = ("--data-dir", tmp_path / "data", "--processed-data-dir", tmp_path / save, "--model-path", model)
        return tmp_path / save, run(tool, *folders, "--data-process-workers", 1, *options)

    return process_data


def write_lines(path, records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def chunks(folder, split):
    return [item.tolist() for item in IndexedDataset(folder / f"{split}_0")]


def assert_nothing_written(tmp_path, *expected):
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)


def test_a_row_is_the_encoded_example_with_its_text_beside_it(process, data, tokenizer):
    folder, _ = process(process_data_dolly)
    dataset, stored = InstructionDataset(folder, "train", 512, 256), read_jsonl(folder / "train.jsonl")
    assert len(dataset) == len(TRAIN)
    for i, record in enumerate(TRAIN):
        prompt = format_prompt(record)
        assert dataset[i] == Row(*encode_example(tokenizer, prompt, record["output"], 256), i)
        assert stored[i]["prompt"] == prompt
        assert dataset.references(i) == [record["output"]]


def test_bug_training_filled_the_template_where_evaluation_and_pairs_took_the_records_own_prompt(
    process, data, tmp_path, tokenizer
):
    records = [{**TRAIN[0], "prompt": "Two and two?"}, *({**TRAIN[0], "prompt": empty} for empty in ("", None))]
    write_lines(data / "train.jsonl", records)
    write_lines(data / "dolly" / "valid.jsonl", records)
    folder, _ = process(process_data_dolly)
    dataset = InstructionDataset(folder, "train", 512, 256)
    template = format_prompt(TRAIN[0])
    expected = ["Two and two?", template, template]
    assert [tokenizer.decode(row.prompt) for row in dataset] == expected
    assert [record["prompt"] for record in read_jsonl(folder / "train.jsonl")] == expected
    assert [record["prompt"] for record in load_evaluation_set(data, "dolly")] == expected
    answered = ResponseArguments(data=str(data / "train.jsonl"), output="x", model_path="x")
    assert read_prompts(answered) == expected


def test_a_prompt_that_is_the_filled_template_gives_the_same_bytes_as_none(process, data):
    without, _ = process(process_data_dolly, save="without")
    for split, records in (("train", TRAIN), ("dev", DEV)):
        write_lines(data / f"{split}.jsonl", [{**record, "prompt": format_prompt(record)} for record in records])
    published, _ = process(process_data_dolly, save="published")
    bytes_of = [contents(folder) for folder in (published, without)]
    for files in bytes_of:
        del files["meta.json"]  # holds the hashes of the raw files, which differ
    assert bytes_of[0] == bytes_of[1]


def test_rows_that_lose_ids_are_counted_prompts_and_responses_apart(process, data, tokenizer):
    prompt = len(tokenizer.encode(format_prompt(TRAIN[0])))
    room = 512 - prompt - 1  # for EOS
    answers = [tokenizer.decode(tokenizer.encode("x")) * length for length in (room - 1, room, room + 1, 2 * room)]
    write_lines(data / "train.jsonl", [{**TRAIN[0], "output": answer} for answer in answers])
    folder, printed = process(process_data_dolly)
    assert "0 truncated prompts, 2 truncated responses; valid: " in printed
    assert "1 truncated prompts, 0 truncated responses; written to " in printed
    splits = json.loads((folder / "meta.json").read_text())["splits"]
    assert [splits[split]["truncated_responses"] for split in ("train", "valid")] == [2, 0]
    ends = [row.response[-1] == tokenizer.eos_token_id for row in InstructionDataset(folder, "train", 512, 256)]
    assert ends == [True, True, False, False], "a row that is cut loses its EOS"


def test_of_several_references_the_first_is_the_response_and_all_are_kept(process, data, tokenizer):
    folder, _ = process(process_data_dolly)
    valid = InstructionDataset(folder, "valid", 512, 256)
    assert tokenizer.decode(valid[0].response) == "first</s>"
    assert valid.references(0) == ["first", "second"]
    assert len(valid[0].prompt) == 256
    assert read_jsonl(folder / "valid.jsonl")[1]["input"] == ""


def test_the_same_input_gives_the_same_bytes_with_any_number_of_workers(process, data, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(processing, "BLOCK", 100)  # so that there are several
    first, _ = process(process_data_dolly, save="first")
    again, _ = process(process_data_dolly, save="again")
    parallel, _ = process(process_data_dolly, "--data-process-workers", 2, save="parallel")
    assert contents(first) == contents(again) == contents(parallel)


def test_train_and_dev_are_limited_and_the_limits_are_those_of_the_first_rows(process, data):
    folder, printed = process(process_data_dolly, "--train-num", 3, "--dev-num", 1)
    assert [record["output"] for record in read_jsonl(folder / "train.jsonl")] == ["0", "2", "4"]
    assert len(read_jsonl(folder / "valid.jsonl")) == 1
    assert printed.startswith("train: 3 rows, ") and "valid: 1 rows, " in printed and printed.count("\n") == 1


def test_the_first_rows_of_raw_are_for_validation_when_there_is_no_dev(process, data):
    (data / "dev.jsonl").unlink()
    (data / "train.jsonl").rename(data / "raw.jsonl")
    folder, _ = process(process_data_dolly, "--dev-num", 10, "--train-num", 20)
    outputs = {split: [row["output"] for row in read_jsonl(folder / f"{split}.jsonl")] for split in ("train", "valid")}
    assert outputs == {"valid": [str(2 * i) for i in range(10)], "train": [str(2 * i) for i in range(10, 30)]}


@pytest.mark.parametrize(("dev_num", "complaint"), [(-1, "--dev-num -1"), (150, "from row 150 on")])
def test_raw_that_leaves_no_row_to_train_on_is_an_error(process, data, dev_num, complaint):
    (data / "train.jsonl").rename(data / "raw.jsonl")
    with pytest.raises(UserError, match=complaint):
        process(process_data_dolly, "--dev-num", dev_num)


def test_train_and_dev_win_over_raw(process, data):
    write_lines(data / "raw.jsonl", DEV)
    folder, _ = process(process_data_dolly)
    assert len(read_jsonl(folder / "train.jsonl")) == len(TRAIN)


def test_missing_data_are_named_and_nothing_is_written(process, data, tmp_path):
    (data / "dev.jsonl").unlink()
    with pytest.raises(UserError, match=r"missing .*dev\.jsonl: .* needs train\.jsonl and dev\.jsonl, or raw\.jsonl"):
        process(process_data_dolly)
    assert_nothing_written(tmp_path, "data")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_row_that_could_keep_no_response_is_refused_with_file_and_line(process, data, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(UserError, match=r"dev\.jsonl:1: a prompt of 256 ids leaves no response .*--max-length 256"):
        process(process_data_dolly, "--max-length", 256, "--data-process-workers", workers)
    assert_nothing_written(tmp_path, "data")


def test_a_bad_line_leaves_the_older_store_as_it_was(process, data, tmp_path):
    folder, _ = process(process_data_dolly)
    before = contents(folder)
    with open(data / "dev.jsonl", "a") as lines:
        lines.write("{oops\n")
    with pytest.raises(UserError, match=r"dev\.jsonl:3 is not JSON"):
        process(process_data_dolly)
    assert contents(folder) == before
    assert_nothing_written(tmp_path, "data", "store")


@pytest.mark.parametrize("name", ["notes.txt", "valid.jsonl"])
def test_a_folder_that_is_no_store_is_never_replaced(process, data, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("precious")
    with pytest.raises(UserError, match="mine holds something other than a token store; choose another"):
        process(process_data_dolly, save="mine")
    assert contents(tmp_path / "mine") == {name: b"precious"}


def test_the_description_tells_tokenizer_lengths_sources_and_counts(process, data, tokenizer, crossing_tokenizer):
    folder, _ = process(process_data_dolly)
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["max_length"], meta["max_prompt_length"]) == (512, 256)
    assert meta["tokenizer"]["vocabulary_size"] == len(tokenizer)
    assert set(meta["sources"]) == {"train.jsonl", "dev.jsonl"}
    assert meta["splits"]["train"]["rows"] == len(TRAIN)
    assert meta["splits"]["valid"]["truncated_prompts"] == 1
    check_tokenizer(folder, tokenizer)
    with pytest.raises(UserError, match="was made with the tokenizer"):
        check_tokenizer(folder, crossing_tokenizer)


def test_a_row_is_cut_at_max_length_when_it_is_stored(process, data, tokenizer):
    """A response of megabytes would be stored, mapped and searched, and never read."""
    lines = [json.dumps({"instruction": "Go on.", "output": "red " * 2_000}), json.dumps(TRAIN[0])]
    (data / "train.jsonl").write_text("".join(f"{line}\n" for line in lines))
    folder, _ = process(process_data_dolly, "--max-length", "200", "--max-prompt-length", "150")
    store = IndexedDataset(folder / "train_0")
    assert store.sizes[0] == 200 + 1  # and the separator
    whole = encode_example(tokenizer, format_prompt(json.loads(lines[0])), "red " * 2_000, 150)
    row = InstructionDataset(folder, "train", 200, 150)[0]
    assert (row.prompt, row.response) == (whole[0], whole[1][: 200 - len(whole[0])])
    check_length(folder, 200)
    with pytest.raises(UserError, match="rows of at most 200 ids, but --max-length is 201: process the data again"):
        check_length(folder, 201)


def test_a_checkpoint_of_another_architecture_is_refused(process, data):
    with pytest.raises(UserError, match="gpt2 model, but --model-type says llama"):
        process(process_data_dolly, "--model-type", "llama")


@pytest.fixture
def corpus(tmp_path, tokenizer):
    """Writes a corpus of this many documents; returns all its tokens, in order."""

    def write(num_documents):
        documents = [f"Document {i}\nhas two lines 🙂." for i in range(num_documents)]
        lines = [document.replace("\n", "<@x(x!>") + "\n" for document in documents]
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "data.txt").write_text("\n".join(lines), encoding="utf-8")
        eos = tokenizer.eos_token_id
        return [token for text in documents for token in [*tokenizer.encode(text, add_special_tokens=False), eos]]

    return write


def test_a_corpus_is_cut_into_exact_chunks_the_first_for_validation(process, corpus):
    tokens = corpus(100)
    folder, printed = process(process_data_pretrain, "--max-length", 16, "--dev-num", 3, "--train-num", 50)
    assert chunks(folder, "valid") == [tokens[i : i + 16] for i in range(0, 3 * 16, 16)]
    assert chunks(folder, "train") == [tokens[i : i + 16] for i in range(3 * 16, 53 * 16, 16)]
    assert sorted(contents(folder)) == ["meta.json", "train_0.bin", "train_0.idx", "valid_0.bin", "valid_0.idx"]
    assert printed == f"train: 50 rows, 800 tokens; valid: 3 rows, 48 tokens; written to {folder}\n"


def test_all_of_a_corpus_but_an_incomplete_last_chunk_is_used(process, corpus):
    tokens = corpus(100)
    folder, _ = process(process_data_pretrain, "--max-length", 16, "--dev-num", 3)
    whole = chunks(folder, "valid") + chunks(folder, "train")
    assert whole == [tokens[i : i + 16] for i in range(0, len(tokens) - 15, 16)]
    assert len(chunks(folder, "valid")) == 3


def test_of_a_small_corpus_at_most_5_percent_go_to_validation_and_it_is_said(process, corpus):
    total = len(corpus(100)) // 16
    folder, printed = process(process_data_pretrain, "--max-length", 16, "--train-num", 22_870)
    assert len(chunks(folder, "valid")) == total // 20
    assert len(chunks(folder, "train")) == total - total // 20
    assert printed.startswith(f"{total} chunks are too few for --dev-num 1,000: validation gets {total // 20} of ")


def test_two_chunks_are_one_each_and_one_is_an_error(process, corpus, tmp_path):
    total = len(corpus(4))
    folder, _ = process(process_data_pretrain, "--max-length", total // 2)
    assert (len(chunks(folder, "train")), len(chunks(folder, "valid"))) == (1, 1)
    with pytest.raises(UserError, match="has 1 chunks of"):
        process(process_data_pretrain, "--max-length", total // 2 + 1, save="other")
    assert_nothing_written(tmp_path, "data", "store")


def test_documents_longer_than_a_chunk_are_cut_the_same_with_any_number_of_workers(process, corpus, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    tokens = corpus(60)
    one, _ = process(process_data_pretrain, "--max-length", 7, "--dev-num", 2, save="one")
    two, _ = process(process_data_pretrain, "--max-length", 7, "--dev-num", 2, "--data-process-workers", 2, save="two")
    assert contents(one) == contents(two)
    assert list(chain(*chunks(one, "valid"), *chunks(one, "train"))) == tokens[: len(tokens) // 7 * 7]


def test_reading_stops_when_there_are_enough_chunks(process, corpus, tmp_path):
    corpus(100)
    with open(tmp_path / "data" / "data.txt", "ab") as lines:
        lines.write(b"\xff\n")  # would be an error if it were read
    folder, _ = process(process_data_pretrain, "--max-length", 16, "--dev-num", 1, "--train-num", 5)
    assert len(chunks(folder, "train")) == 5


def test_a_corpus_store_is_a_data_set_without_prompts(process, corpus):
    tokens = corpus(20)
    folder, _ = process(process_data_pretrain, "--max-length", 16, "--dev-num", 1, "--train-num", 5)
    assert InstructionDataset(folder, "valid", 16, 8)[0] == Row([], tokens[:16], 0)


def test_a_missing_corpus_is_named(process, tmp_path):
    with pytest.raises(UserError, match=r"data/data\.txt does not exist: run tools/get_openwebtext\.py"):
        process(process_data_pretrain)
    assert_nothing_written(tmp_path)
