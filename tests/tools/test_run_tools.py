"""Guarantees of the small tools of the runs: keep_best_run.py and hold_out_test_rows.py."""

import json

import pytest

from data_utils.errors import UserError
from tools import hold_out_test_rows, keep_best_run


def finished(folder, best):
    folder.mkdir()
    (folder / "finished.json").write_text(json.dumps({"step": 2, "kept_step": 1, "best": best}))
    (folder / "model").write_text(folder.name)
    return folder


def test_the_run_with_the_best_dev_score_is_copied(run, tmp_path):
    runs = [finished(tmp_path / name, best) for name, best in (("a", 3.0), ("b", 5.0), ("c", 4.0))]
    run(keep_best_run, "--runs", *runs, "--save", tmp_path / "best")
    assert (tmp_path / "best" / "model").read_text() == "b"
    finished(tmp_path / "d", 9.0)
    run(keep_best_run, "--runs", tmp_path / "d", "--save", tmp_path / "best")
    assert (tmp_path / "best" / "model").read_text() == "d"


def test_a_run_without_an_end_or_a_score_is_refused(run, tmp_path):
    (tmp_path / "open").mkdir()
    with pytest.raises(UserError, match="not a finished run"):
        run(keep_best_run, "--runs", tmp_path / "open", "--save", tmp_path / "best")
    with pytest.raises(UserError, match="without --do-valid"):
        run(keep_best_run, "--runs", finished(tmp_path / "a", None), "--save", tmp_path / "best")
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (".", "is, holds or lies in .*a of --runs"),
        ("a", "is, holds or lies in .*a of --runs"),
        ("link", "is, holds or lies in .*b of --runs"),
        ("b/best", "is, holds or lies in .*b of --runs"),
        ("foreign", "holds something other than a finished run"),
        ("foreign/thesis", "holds something other than a finished run"),
    ],
)
def test_bug_the_copy_replaced_whatever_stood_in_its_place(run, tmp_path, save, message):
    runs = [finished(tmp_path / name, best) for name, best in (("a", 3.0), ("b", 5.0))]
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis").write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        run(keep_best_run, "--runs", *runs, "--save", tmp_path / save)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_takes_the_copy(run, tmp_path):
    (tmp_path / "best").mkdir()
    run(keep_best_run, "--runs", finished(tmp_path / "a", 1.0), "--save", tmp_path / "best")
    assert (tmp_path / "best" / "model").read_text() == "a"


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "train.jsonl").write_text("t1\nt2\n")
    (folder / "dev.jsonl").write_text("d1\nd2\u2028\nd3\n\n", encoding="utf-8")
    return folder


def rows(folder):
    return {split: (folder / f"{split}.jsonl").read_text(encoding="utf-8") for split in ("train", "dev", "valid")}


def test_the_last_dev_rows_become_the_test_set(run, raw, tmp_path):
    run(hold_out_test_rows, "--data-dir", raw, "--output", tmp_path / "new", "--test-num", 2)
    assert rows(tmp_path / "new") == {"train": "t1\nt2\n", "dev": "d1\n", "valid": "d2\u2028\nd3\n"}


def test_a_test_set_that_exists_is_used(run, raw, tmp_path):
    (raw / "valid.jsonl").write_text("v1\nv2\nv3\n")
    run(hold_out_test_rows, "--data-dir", raw, "--output", tmp_path / "new", "--test-num", 2)
    assert rows(tmp_path / "new")["valid"] == "v1\nv2\n"
    assert rows(tmp_path / "new")["dev"].startswith("d1\nd2")


@pytest.mark.parametrize(("number", "message"), [(3, "leaves none of the 3 rows"), (0, "at least 1, .* is 0")])
def test_a_bad_number_of_test_rows_writes_nothing(run, raw, tmp_path, number, message):
    with pytest.raises(UserError, match=message):
        run(hold_out_test_rows, "--data-dir", raw, "--output", tmp_path / "new", "--test-num", number)
    assert not (tmp_path / "new").exists()


def test_bug_a_folder_of_something_else_was_replaced_by_splits(run, raw, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="holds something other than such splits"):
        run(hold_out_test_rows, "--data-dir", raw, "--output", tmp_path, "--test-num", 1)
    assert (tmp_path / "mine.txt").exists()
    for number in (1, 2):  # its own are
        run(hold_out_test_rows, "--data-dir", raw, "--output", tmp_path / "new", "--test-num", number)
    assert rows(tmp_path / "new")["valid"] == "d2\u2028\nd3\n"


def test_the_raw_data_are_never_replaced(run, raw):
    with pytest.raises(UserError, match="choose another folder"):
        run(hold_out_test_rows, "--data-dir", raw, "--output", raw, "--test-num", 1)
