"""Guarantees of distillm/run/loggers.py."""

import json
import sys
from types import SimpleNamespace

import pytest

from data_utils.errors import UserError
from distillm.run import loggers as reporting
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
    make_logger(tmp_path / "other", 1, [], {}).log({"step": 1})
    make_logger(tmp_path / "first", 0, [], {}).log({"step": 1})
    assert not (tmp_path / "other").exists()
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["log.jsonl", "training.log"]


def test_an_absent_logger_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting.importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "wandb"):
        with pytest.raises(UserError, match=f"pip install {name}"):
            make_logger(tmp_path, 0, [name], {})


def test_the_log_line_is_short_and_keeps_the_order():
    record = {"step": 120, "epoch": 2, "loss": 1.23456789, "lr": 5e-4, "case": "replayed", "best": True}
    assert format_record(record) == "step 120 | epoch 2 | loss 1.235 | lr 0.0005 | case replayed | best True"


class FakeWriter:
    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, [], False

    def add_scalar(self, *scalar):
        self.scalars.append(scalar)

    def close(self):
        self.closed = True


@pytest.mark.parametrize(("step", "purge_step"), [(None, None), (4, 5)])
def test_tensorboard_gets_the_numbers_and_hides_those_of_an_interrupted_attempt(step, purge_step, monkeypatch):
    monkeypatch.setattr(reporting, "_require", lambda package: None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=FakeWriter))
    logger = reporting.TensorBoardLogger("folder")
    logger.begin([], step, 0)
    logger.log({"step": 6, "loss": 0.5, "case": "replayed"})
    logger.close()
    assert vars(logger.writer) == {
        "folder": "folder",
        "purge_step": purge_step,
        "scalars": [("loss", 0.5, 6)],
        "closed": True,
    }
