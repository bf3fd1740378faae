"""Responses, pairs, logs and results: every row arrives as it was, or one line names the file."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import strategies as st

from data_utils.errors import UserError
from data_utils.response_pairs import PairDataset
from distillm.run.loggers import JsonLinesLogger
from evaluate import Job, is_done, write_results
from tests.distillm.tiny import ALONE
from tests.hostile.cases import cases
from tests.hostile.damage import damages
from tests.hostile.texts import BROKEN_TEXT, JUNK, TEXT
from tools.build_response_pairs import join, read_responses
from tools.evaluation_results import open_rows
from tools.generate_responses import append, resume
from tools.make_results_table import tables
from tools.plot_results import read_log

PARTS = st.floats(0, 1, exclude_max=True)


def lines_of(path: Path, records: list) -> None:
    path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records))


def one_line(error: UserError) -> str:
    assert str(error).strip() and "\n" not in str(error)
    return str(error)


# ---- responses ---------------------------------------------------------------------------------------------------

ANSWERED = st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=5)


@cases(400, rows=ANSWERED, written=PARTS, torn=PARTS)
def test_an_interrupted_generation_goes_on_after_its_last_whole_line(tmp_path, rows, written, torn):
    partial = tmp_path / "responses.jsonl.partial"
    partial.unlink(missing_ok=True)
    records = [{"prompt": prompt, "generated_text": text} for prompt, text, _ in rows]
    count = int(written * (len(rows) + 1))
    append(partial, records[:count])
    whole = partial.read_bytes()
    rest = json.dumps(records[count % len(rows)], ensure_ascii=False).encode()
    partial.write_bytes(whole + rest[: int(torn * len(rest))])  # killed while it wrote
    done = resume(partial, [prompt for prompt, _, _ in rows], ALONE)
    assert done == count and partial.read_bytes() == whole
    append(partial, records[count:])
    assert read_responses(partial) == records


@cases(300, rows=ANSWERED, damage=damages("flip", "truncate", "halves", "append", "foreign"))
def test_a_damaged_beginning_is_refused_or_its_prompts_are_these(tmp_path, rows, damage):
    partial, prompts = tmp_path / "responses.jsonl.partial", [prompt for prompt, _, _ in rows]
    lines_of(partial, [{"prompt": prompt, "generated_text": text} for prompt, text, _ in rows])
    damage.apply(partial)
    try:
        done = resume(partial, prompts, ALONE)
    except UserError as error:
        assert str(partial) in one_line(error)
        return
    kept = partial.read_bytes().split(b"\n")[:-1]
    assert [json.loads(line)["prompt"] for line in kept] == prompts[:done]


RESPONSE = st.fixed_dictionaries(
    {}, optional={"prompt": TEXT | JUNK | BROKEN_TEXT, "generated_text": TEXT | JUNK | BROKEN_TEXT}
)


@cases(400, records=st.lists(RESPONSE | JUNK, max_size=4))
def test_a_line_that_is_no_response_is_named(tmp_path, records):
    path = tmp_path / "generated_train_teacher.jsonl"
    lines_of(path, records)
    sound = [isinstance(r, dict) and all(is_text(r.get(k)) for k in ("prompt", "generated_text")) for r in records]
    try:
        rows = read_responses(path)
    except UserError as error:
        assert not records or f"{path}:{sound.index(False) + 1}" in one_line(error)
        return
    assert all(sound)
    assert rows == [{name: record[name] for name in ("prompt", "generated_text")} for record in records]


def is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


@cases(100, rows=ANSWERED)
def test_pairs_hold_the_text_of_both_files_row_by_row(tmp_path, tokenizer, rows):
    for side, column in (("teacher", 1), ("student", 2)):
        records = [{"prompt": row[0], "generated_text": row[column]} for row in rows]
        lines_of(tmp_path / f"generated_train_{side}.jsonl", records)
    pairs = join(tmp_path, "train")
    assert [tuple(pair.values()) for pair in pairs] == rows
    folder = tmp_path / "pairs"
    shutil.rmtree(folder, ignore_errors=True)
    DatasetDict({"train": Dataset.from_list(pairs)}).save_to_disk(str(folder))
    loaded = PairDataset(folder, "train", tokenizer, 4_000, 2_000)
    texts = [
        (loaded.prompts[i], loaded[i].chosen.response[:-1], loaded[i].rejected.response[:-1]) for i in range(len(rows))
    ]
    assert [tuple(map(tokenizer.decode, ids)) for ids in texts] == rows


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "sound"
    rows = [{"prompt": f"p{i}", "chosen": "good " * i, "rejected": "bad"} for i in range(5)]
    DatasetDict({"train": Dataset.from_list(rows), "dev": Dataset.from_list(rows[:2])}).save_to_disk(str(folder))
    return folder


@cases(200, which=PARTS, damage=damages())
def test_a_damaged_pair_folder_is_refused_or_holds_as_many_pairs(pair_folder, tokenizer, tmp_path, which, damage):
    folder = tmp_path / "pairs"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pair_folder, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[int(which * len(files))]
    damage.apply(path, folder / ("dev" if path.parent.name == "train" else "train") / path.name)
    try:
        pairs = PairDataset(folder, "train", tokenizer, 400, 300)
    except UserError as error:
        assert str(folder) in one_line(error)
        return
    assert len(pairs) == 5 or (damage.kind == "swap" and len(pairs) == 2)
    assert all(pairs[i].chosen.response and pairs[i].rejected.response for i in range(len(pairs)))


@cases(60, kinds=st.lists(st.sampled_from(["text", "none", "number", "list", "bytes"]), min_size=3, max_size=3))
def test_columns_that_are_not_text_are_refused(tokenizer, tmp_path, kinds):
    folder = tmp_path / "pairs"
    shutil.rmtree(folder, ignore_errors=True)
    values = {"text": ["a", "b"], "none": ["a", None], "number": [1, 2], "list": [["a"], []], "bytes": [b"a", b"b"]}
    columns = {name: values[kind] for name, kind in zip(("prompt", "chosen", "rejected"), kinds, strict=True)}
    DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(str(folder))
    try:
        assert len(PairDataset(folder, "train", tokenizer, 400, 300)) == 2
    except UserError as error:
        assert "must hold only text" in one_line(error) and set(kinds) != {"text"}
    else:
        assert set(kinds) == {"text"}


# ---- results -----------------------------------------------------------------------------------------------------


HEADER = {"arguments": {"a": 1}, "inputs": {"b": "2"}, "global_batch_size": 8}


def write_evaluation(folder: Path, rows: list[tuple[str, str]], seed: int = 10) -> Job:
    records = [{"prompt": prompt, "output": [answer, "red"]} for prompt, answer in rows]
    job = Job("dolly", seed, folder / "dolly-512" / str(seed), records, HEADER)
    write_results(job, [answer for _, answer in rows])
    return job


@cases(200, rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_whatever_was_answered_has_its_row_in_the_table(tmp_path, rows):
    write_evaluation(tmp_path / "a", rows)
    (row,) = open_rows({"A": [tmp_path / "a"]})
    assert row.scores["dolly"].shape == (1, 1, len(rows))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluated")
    for name, answers in {"a": ["red", "red and blue"], "b": ["blue", "green"]}.items():
        write_evaluation(root / name, [("Say it.", answer) for answer in answers])
    return root


@cases(200, which=PARTS, damage=damages())
def test_a_damaged_result_is_refused_evaluated_anew_or_in_the_table(evaluated, tmp_path, which, damage):
    shutil.copytree(evaluated, tmp_path / "results", dirs_exist_ok=True)
    folder = tmp_path / "results" / "a" / "dolly-512" / "10"
    for entry in folder.iterdir():
        shutil.copyfile(evaluated / "a" / "dolly-512" / "10" / entry.name, entry)
    files = sorted(folder.iterdir())
    path = files[int(which * len(files))]
    changed = damage.apply(path, tmp_path / "results" / "b" / "dolly-512" / "10" / path.name)
    job = Job("dolly", 10, folder, [], HEADER)
    assert is_done(job) or (changed and path.name in ("args.json", "metrics.json"))
    folders = {name.upper(): [tmp_path / "results" / name] for name in "ab"}
    try:
        text = "".join(tables(open_rows(folders, ["dolly"], [10]), ["A"]))
    except UserError as error:
        assert str(path) in one_line(error) or "A" in str(error)
        assert changed
        return
    assert "nan" not in text and "inf" not in text


@cases(300, value=JUNK | st.floats() | st.sampled_from(["12", "NaN", [], 10**400, float("nan"), float("inf")]))
def test_a_score_that_is_no_number_is_refused(evaluated, tmp_path, value):
    shutil.copytree(evaluated, tmp_path / "results", dirs_exist_ok=True)
    path = tmp_path / "results" / "a" / "dolly-512" / "10" / "answers.jsonl"
    path.write_text(json.dumps({"prompt": "Say it.", "rougeL": value}))
    (path.parent / "metrics.json").write_text(json.dumps({"rougeL": value}))  # the mean of one row
    number = isinstance(value, int | float) and abs(value) < 1e9
    try:
        (row,) = open_rows({"A": [tmp_path / "results" / "a"]})
    except UserError as error:
        assert str(path) in one_line(error) and not number
        return
    assert number and row.scores["dolly"].tolist() == [[[float(value)]]]


@cases(
    200,
    steps=st.lists(st.integers(0, 9), max_size=6),
    cut=st.integers(0, 9),
    damage=damages("flip", "truncate", "append"),
)
def test_a_damaged_log_is_refused_or_read_and_a_resumed_run_cuts_it(tmp_path, steps, cut, damage):
    path = tmp_path / "log.jsonl"
    lines_of(path, [{"step": step, "note": "\u2028x"} for step in steps])
    damage.apply(path)
    try:
        assert len(read_log(tmp_path)) <= len(steps)
    except UserError as error:
        assert f"{path}:" in one_line(error)
    JsonLinesLogger(path).begin((), 9, cut)
    assert len([json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]) <= cut


# ---- what was wrong ----------------------------------------------------------------------------------------------


def test_bug_an_answer_with_a_line_separator_made_a_sound_result_unreadable(tmp_path):
    write_evaluation(tmp_path, [("Say it.", "one\u2028two"), ("And now?", "three\x85four")])
    (row,) = open_rows({"A": [tmp_path]})
    assert row.scores["dolly"].shape == (1, 1, 2)


def test_bug_a_result_without_readable_options_ended_in_a_traceback(tmp_path, capsys):
    job = write_evaluation(tmp_path, [("Say it.", "red")])
    assert is_done(job)
    for content in ("{", "[]", "null", '{"arguments": 1}'):
        (job.folder / "args.json").write_text(content)
        assert not is_done(job)
        assert "evaluated again" in capsys.readouterr().out
    assert not is_done(replace(job, folder=tmp_path))


def test_bug_a_response_with_a_lone_surrogate_ended_in_a_traceback_of_arrow(tmp_path):
    path = tmp_path / "responses.jsonl"
    lines_of(path, [{"prompt": "a", "generated_text": "\ud83d"}])
    with pytest.raises(UserError, match=r"responses\.jsonl:1 is not a response"):
        read_responses(path)


def test_bug_a_damaged_arrow_file_was_read_out_of_its_bounds(pair_folder, tokenizer, tmp_path):
    """Its offsets were not checked: 255 in place of a length read beyond the data, or crashed."""
    folder = Path(shutil.copytree(pair_folder, tmp_path / "pairs"))
    path = next((folder / "train").glob("*.arrow"))
    content = path.read_bytes()
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 2, 4, 6, 8, 10))
    assert offsets in content
    path.write_bytes(content.replace(offsets, offsets[:-4] + (1 << 30).to_bytes(4, "little")))
    with pytest.raises(UserError, match="make it again with tools/build_response_pairs"):
        PairDataset(folder, "train", tokenizer, 400, 300)
