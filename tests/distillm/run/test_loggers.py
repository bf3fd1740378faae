"""Guarantees of distillm/run/loggers.py."""

import argparse
import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from data_utils.errors import UserError
from distillm.progress_bar import progress_bar
from distillm.run import loggers as reporting
from distillm.run.header import git_commit, run_header
from distillm.run.identity import fingerprint
from distillm.run.loggers import JsonLinesLogger, Logger, MultiLogger, TextLogger, format_record, make_logger


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_appended_across_attempts(tmp_path):
    path = tmp_path / "run" / "log.jsonl"
    JsonLinesLogger(path).log({"step": 1, "loss": 2.0})
    JsonLinesLogger(path).log({"step": 2, "loss": 1.5})
    assert read(path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]


def test_resuming_drops_later_records_and_a_torn_line(tmp_path):
    path = tmp_path / "log.jsonl"
    logger = JsonLinesLogger(path)
    for step in (10, 20, 30):
        logger.log({"step": step})
    with open(path, "a") as file:
        file.write('{"step": 4')
    logger.begin((), 20, 2)
    logger.log({"step": 21})
    assert [record["step"] for record in read(path)] == [10, 20, 21]


def test_resuming_without_a_log_is_fine(tmp_path):
    JsonLinesLogger(tmp_path / "log.jsonl").begin((), 5, 1)
    assert not (tmp_path / "log.jsonl").exists()


def test_several_loggers_hear_the_same(tmp_path):
    logger = MultiLogger([JsonLinesLogger(tmp_path / "a"), TextLogger(tmp_path / "b"), Logger()])
    logger.log({"step": 1, "loss": 0.123456})
    logger.begin(["the model: small"], 0, 0)
    logger.close()
    assert read(tmp_path / "a") == []
    assert (tmp_path / "b").read_text() == "step 1 | loss 0.1235\nthe model: small\nresumed after step 0\n"


def test_only_the_first_rank_writes(tmp_path):
    make_logger(tmp_path / "other", rank=1).log({"step": 1})
    make_logger(tmp_path / "first", rank=0).log({"step": 1})
    assert not (tmp_path / "other").exists()
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["log.jsonl", "training.log"]


def test_an_absent_or_unknown_logger_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting.importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "wandb"):
        with pytest.raises(UserError, match=f"pip install {name}"):
            make_logger(tmp_path, rank=0, report_to=[name])
    with pytest.raises(UserError, match="choose tensorboard or wandb"):
        make_logger(tmp_path, rank=0, report_to=["stdout"])


def test_the_log_line_is_short_and_keeps_the_order():
    record = {"step": 120, "epoch": 2, "loss": 1.23456789, "lr": 5e-4, "case": "replayed", "best": True}
    assert format_record(record) == "step 120 | epoch 2 | loss 1.235 | lr 0.0005 | case replayed | best True"


def test_progress_bars_stay_silent_on_other_ranks_and_short_in_files(capfd):
    assert list(progress_bar(range(3), rank=1)) == [0, 1, 2]
    assert capfd.readouterr().err == ""
    assert sum(progress_bar(range(100_000), desc="rows")) == 4_999_950_000
    assert len(capfd.readouterr().err) < 400


@dataclasses.dataclass
class Options:
    lr: float = 5e-4
    save: Path = Path("results")
    names: tuple[str, ...] = ("dolly",)


def test_the_header_is_json_and_complete(tmp_path):
    data = tmp_path / "train_0.bin"
    data.write_bytes(b"1234")
    arguments = {"train": Options(), "other": argparse.Namespace(seed=10, limit=None)}
    header = run_header(
        arguments, seed=10, global_batch_size=16, inputs={"data_dir": {"train_0.bin": data}, "model_path": {}}
    )
    assert json.loads(json.dumps(header)) == header
    assert header["arguments"] == {
        "train": {"lr": 5e-4, "save": "results", "names": ["dolly"]},
        "other": {"seed": 10, "limit": None},
    }
    assert (header["seed"], header["global_batch_size"]) == (10, 16)
    assert header["inputs"] == {"data_dir": {"train_0.bin": fingerprint(data)}}
    assert {"python", "torch", "transformers"} <= header["versions"].keys()


def test_the_commit_is_none_outside_git_and_inside_a_foreign_repository(tmp_path):
    assert git_commit(tmp_path) is None
    assert git_commit(tmp_path / "absent") is None
    if shutil.which("git") is None:
        pytest.skip("needs git")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "file").write_text("one")
    subprocess.run(["git", "-C", str(tmp_path), "add", "file"], check=True)
    subprocess.run(["git", *identity, "-C", str(tmp_path), "commit", "-q", "-m", "x"], check=True)
    commit = git_commit(tmp_path)
    assert commit is not None and len(commit) == 40
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == commit + "+changes"
    (tmp_path / "inner").mkdir()
    assert git_commit(tmp_path / "inner") is None
