"""Raw jsonl: one clear line that names file and line, or every record arrives, in order, with its text."""

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from data_utils.corpus import NEWLINES, document_line, read_documents
from data_utils.errors import UserError
from data_utils.indexed_dataset import IndexedDataset, separator, token_dtype
from data_utils.instructions import load_evaluation_set, read_jsonl, references
from data_utils.prompts import encode_prompt, format_prompt, prompt_of
from data_utils.store_meta import vocabulary_size
from tests.hostile.cases import cases
from tests.hostile.damage import damages
from tests.hostile.texts import BROKEN_TEXT, JUNK, ODD, TEXT
from tools.process_data_dolly import encode_source, read_sources, write_split

OUTPUT = TEXT | st.lists(TEXT, min_size=1, max_size=3)
SOUND = st.fixed_dictionaries(
    {"instruction": TEXT, "output": OUTPUT},
    optional={"input": TEXT | st.none(), "id": JUNK, "prompt": TEXT | st.none()},
)
WILD = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("instruction", "input", "prompt"), TEXT | JUNK | BROKEN_TEXT),
        "output": OUTPUT | JUNK | BROKEN_TEXT,
        "Instruction": TEXT,
    },
)
ENDS = st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"])


def as_line(record, escape: bool) -> bytes:
    """Return a line of JSON, non-ASCII letters escaped or as UTF-8 (lone surrogates as WTF-8)."""
    return json.dumps(record, ensure_ascii=escape).encode("utf-8", "surrogatepass")


LINES = st.builds(as_line, WILD | SOUND, st.booleans())
# 4,301 digits are more than Python converts into a number, 100,000 brackets more than its parser's stack holds.
STRANGE = [b"{", b"[]", b"null", b'"text"', b"NaN", b"\xff", b"\xef\xbb\xbf{}", b"9" * 4301, b"[" * 100_000]
STRANGE += [b"{}{}", b'{"instruction": "a", "output": "b"', b"\x00", b'{"a": 1e999}', b"\xff\xfe{\x00}\x00"]
STRANGE += [b'{"instruction": "a", "output": "b", "instruction": 3}', b'{"instruction": "\xed\xa0\x80", "output": ""}']
FILES = st.lists(LINES | st.sampled_from(STRANGE), max_size=4)


def is_sound(line: bytes) -> bool:
    """Say, by other means than the reader's, whether a line is a record."""
    try:
        record = json.loads(line)
        texts = [record["instruction"], *(record[key] for key in ("input", "prompt") if record.get(key) is not None)]
        answers = record["output"] if isinstance(record["output"], list) else [record["output"]]
        assert answers
        return bool([text.encode() for text in [*texts, *answers]])
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError):
        return False


@cases(700, lines=FILES, end=ENDS, torn=st.booleans())
def test_every_record_arrives_in_order_or_the_bad_line_is_named(tmp_path, lines, end, torn):
    path = tmp_path / "data.jsonl"
    content = end.encode().join(lines)
    path.write_bytes(content if torn else content + end.encode())
    bad = next((line for line in lines if not is_sound(line)), None)
    if bad is None:
        assert json.dumps(read_jsonl(path)) == json.dumps([json.loads(line) for line in lines])
        return
    before = end.encode().join([*lines[: lines.index(bad)], b""]).count(b"\n") if lines.index(bad) else 0
    with pytest.raises(UserError) as error:
        read_jsonl(path)
    assert str(error.value).startswith(f"{path}:{before + 1}") and "\n" not in str(error.value)


@cases(500, content=st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-16")))
def test_bytes_that_are_no_jsonl_are_refused(tmp_path, content):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    if not content.strip():
        assert read_jsonl(path) == []
        return
    with pytest.raises(UserError, match=r"data\.jsonl:\d+"):
        read_jsonl(path)


@cases(200, records=st.lists(SOUND, min_size=1, max_size=5), damage=damages("flip", "truncate", "append", "halves"))
def test_a_damaged_file_names_a_line_or_holds_only_whole_records(tmp_path, records, damage):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"".join(as_line(record, False) + b"\n" for record in records))
    damage.apply(path)
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    try:
        assert len(read_jsonl(path)) == len(lines)
    except UserError as error:
        assert f"{path}:" in str(error) and "\n" not in str(error)


def write_sets(folder: Path, **splits: list[dict]) -> None:
    for name, records in splits.items():
        (folder / f"{name}.jsonl").write_bytes(b"".join(as_line(record, False) + b"\n" for record in records))


def text_of(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@cases(
    200,
    train=st.lists(SOUND, min_size=1, max_size=4),
    dev=st.lists(SOUND, min_size=1, max_size=3),
    raw=st.booleans(),
)
def test_rows_in_are_rows_out_and_their_text_comes_back(tmp_path, tokenizer, train, dev, raw):
    for name in ("train", "dev", "raw"):
        (tmp_path / f"{name}.jsonl").unlink(missing_ok=True)
    write_sets(tmp_path, **({"raw": dev + train} if raw else {"train": train, "dev": dev}))
    _, splits = read_sources(tmp_path, None, len(dev))
    assert [len(splits["train"]), len(splits["valid"])] == [len(train), len(dev)]
    dtype = token_dtype(vocabulary_size(tokenizer))
    examples = (encode_source(source, tokenizer, 4_000, 20_000) for source in splits["train"])
    assert write_split(tmp_path, "train", examples, dtype).rows == len(train)
    store, sidecar = IndexedDataset(tmp_path / "train_0"), read_jsonl(tmp_path / "train.jsonl")
    for item, written, record in zip(store, sidecar, train, strict=True):
        ids = item.tolist()
        at = ids.index(separator(dtype))
        assert text_of(tokenizer, ids[:at]) == prompt_of(record) == written["prompt"]
        assert text_of(tokenizer, ids[at + 1 : -1]) == references(record)[0]
        assert ids[-1] == tokenizer.eos_token_id
        assert [written[key] for key in ("instruction", "output")] == [record["instruction"], record["output"]]


@cases(
    400,
    texts=st.lists(st.sampled_from(ODD) | st.text(max_size=200), min_size=2, max_size=2),
    limit=st.integers(1, 90),
)
def test_a_long_prompt_is_cut_to_its_limit_with_its_end_whole_or_refused(tokenizer, texts, limit):
    prompt = format_prompt({"instruction": texts[0], "input": texts[1]})
    end = len(encode_prompt(tokenizer, "### Response:\n", 10_000))
    try:
        ids = encode_prompt(tokenizer, prompt, limit)
    except UserError as error:
        assert f"--max-prompt-length {limit}" in str(error)
        assert limit < end + 2
        return
    assert len(ids) <= limit
    assert text_of(tokenizer, ids).endswith("### Response:\n")


@cases(300, records=st.lists(SOUND | WILD, max_size=4))
def test_an_evaluation_set_has_a_prompt_and_references_for_every_row_or_is_refused(tmp_path, tokenizer, records):
    folder = tmp_path / "dolly"
    folder.mkdir(exist_ok=True)
    write_sets(folder, valid=records)
    try:
        loaded = load_evaluation_set(tmp_path, "dolly")
    except UserError as error:
        assert str(folder / "valid.jsonl") in str(error)
        assert not records or not all(is_sound(as_line(record, False)) for record in records)
        return
    assert len(loaded) == len(records)
    for row, record in zip(loaded, records, strict=True):
        assert row["prompt"] == (record.get("prompt") or format_prompt(record))
        assert all(isinstance(text, str) for text in references(row))
        assert len(tokenizer.encode(row["prompt"])) > 0


@cases(500, documents=st.lists(TEXT | st.text(max_size=40), max_size=5))
def test_documents_of_a_corpus_arrive_in_order_with_their_line_breaks(tmp_path, documents):
    path = tmp_path / "data.txt"
    path.write_text("".join(map(document_line, documents)), encoding="utf-8", newline="")
    expected = [document_line(document).removesuffix("\n").replace(NEWLINES, "\n") for document in documents]
    assert list(read_documents(path)) == [document for document in expected if document]


@cases(300, content=st.binary(max_size=60))
def test_a_corpus_that_is_not_utf8_names_its_line(tmp_path, content):
    path = tmp_path / "data.txt"
    path.write_bytes(content)
    try:
        documents = list(read_documents(path))
    except UserError as error:
        assert f"{path}:" in str(error) and "UTF-8" in str(error)
        return
    assert documents == [
        line.decode().strip().replace(NEWLINES, "\n") for line in content.split(b"\n") if line.decode().strip()
    ]


# ---- what was wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"[" * 100_000, "not JSON"),
        (b'{"instruction": "a", "output": "b", "prompt": "\\ud83d"}', "lone surrogate"),
    ],
    ids=[
        "bug_a_line_of_ten_thousand_brackets_ended_in_a_recursion_error",
        "bug_a_lone_surrogate_in_a_prompt_of_its_own_crashed_the_tokenizer",
    ],
)
def test_a_bad_line_is_named(tmp_path, line, what):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"instruction": "a", "output": "b"}\n' + line + b"\n")
    with pytest.raises(UserError, match=what) as error:
        read_jsonl(path)
    assert str(error.value).startswith(f"{path}:2")
