"""Guarantees of tools/get_instruction_data.py and tools/get_openwebtext.py, with the hub replaced."""

import pytest

from data_utils.errors import UserError
from tools import get_instruction_data, get_openwebtext

FILES = {
    "dolly": ("raw.jsonl", "train.jsonl", "dev.jsonl", "valid.jsonl"),
    "self-inst": ("valid.jsonl",),
    "vicuna": ("valid.jsonl",),
    "sinst": ("11_/valid.jsonl",),
    "uinst": ("11_/valid.jsonl",),
}


@pytest.fixture
def fetch(run, tmp_path):
    """Run a tool on a data folder: what it printed."""
    return lambda tool, *options: run(tool, "--data-dir", tmp_path / "data", *options)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose data sets hold every file asked for, in a subfolder; it records the ids asked for."""
    asked = []

    def download(source, files):
        asked.append(source)
        snapshot = tmp_path / "hub" / source
        for name in files:
            path = snapshot / "some" / "folder" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{source} {name}")
        return snapshot

    monkeypatch.setattr(get_instruction_data, "download", download)
    return asked


def written(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_five_sets_come_to_their_places(fetch, hub, tmp_path):
    fetch(get_instruction_data)
    assert set(written(tmp_path / "data")) == {f"{folder}/{name}" for folder, names in FILES.items() for name in names}
    assert hub == ["MiniLLM/dolly", "MiniLLM/self-inst", "MiniLLM/Vicuna", "MiniLLM/sinst", "MiniLLM/uinst"]


def test_what_exists_already_is_neither_fetched_nor_changed(fetch, hub, tmp_path):
    mine = tmp_path / "data" / "dolly" / "train.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    fetch(get_instruction_data)
    assert mine.read_text() == "mine"
    del hub[:]
    assert fetch(get_instruction_data).count("exists already") == 5
    assert hub == []


def test_raw_replaces_train_and_dev(fetch, hub, tmp_path):
    folder = tmp_path / "data" / "dolly"
    folder.mkdir(parents=True)
    for name in ("raw.jsonl", "valid.jsonl"):
        (folder / name).write_text("mine")
    assert "dolly exists already" in fetch(get_instruction_data)


def test_a_set_can_come_from_elsewhere(fetch, hub):
    fetch(get_instruction_data, "--self-inst", "Someone/copy")
    assert "Someone/copy" in hub
    assert "MiniLLM/self-inst" not in hub


def test_offline_one_line_says_what_is_missing_and_nothing_is_written(fetch, tmp_path, monkeypatch):
    def download(source, files):
        raise ConnectionError("no network\nmore words")

    monkeypatch.setattr(get_instruction_data, "download", download)
    with pytest.raises(UserError) as error:
        fetch(get_instruction_data)
    message = str(error.value)
    assert message.startswith("cannot fetch MiniLLM/dolly (no network); missing ")
    assert "\n" not in message
    for place in ("dolly/train.jsonl", "dolly/valid.jsonl", "sinst/11_/valid.jsonl", "vicuna/valid.jsonl"):
        assert f"{tmp_path}/data/{place}" in message
    assert not (tmp_path / "data").exists()


def test_a_source_without_the_files_is_an_error(fetch, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(get_instruction_data, "download", lambda source, files: tmp_path / "nothing")
    with pytest.raises(UserError, match=r"it has no train\.jsonl, dev\.jsonl, valid\.jsonl"):
        fetch(get_instruction_data)


def test_the_corpus_is_one_document_a_line(fetch, tmp_path, monkeypatch):
    documents = [{"text": "one\n\ntwo 🙂"}, {"text": " \n"}, {"text": "three"}]
    monkeypatch.setattr(get_openwebtext, "load_documents", lambda data_set: documents)
    fetch(get_openwebtext)
    assert (tmp_path / "data" / "data.txt").read_text(encoding="utf-8") == "one<@x(x!>two 🙂\nthree\n"
    monkeypatch.setattr(get_openwebtext, "load_documents", None)
    assert "exists already" in fetch(get_openwebtext)


def test_offline_the_missing_corpus_is_named_and_nothing_is_written(fetch, tmp_path, monkeypatch):
    def load_documents(data_set):
        raise ConnectionError(f"no way to {data_set}")

    monkeypatch.setattr(get_openwebtext, "load_documents", load_documents)
    with pytest.raises(UserError, match=r"\(no way to Some/set\); missing .*data\.txt: put it there by hand"):
        fetch(get_openwebtext, "--data-set", "Some/set")
    assert not (tmp_path / "data").exists()
