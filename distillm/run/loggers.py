"""What a run reports while it runs: in files, on the terminal, and in TensorBoard or Weights & Biases.

The trainer uses exactly one `Logger` and never asks which: on every rank except the first, `make_logger` returns one
that writes nothing.
"""

import hashlib
import importlib.util
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_utils.errors import UserError
from data_utils.files import Writing, atomic_file

Record = Mapping[str, Any]
SPEED = ("seconds_per_step", "tokens_per_second")


class Logger:
    """Receives one flat record (`step`, `epoch`, `loss`, …) per log interval and validation; this one drops them."""

    def log(self, record: Record) -> None:
        """Record numbers; the record holds plain Python values and a `step`."""

    def say(self, line: str) -> None:
        """Show the user a line of text."""

    def begin(self, overview: Sequence[str], step: int | None, records: int) -> None:
        """Begin, or continue after `step`: keep the first `records` records and drop later ones."""

    def close(self) -> None:
        """Finish writing."""


@dataclass
class MultiLogger(Logger):
    """Hands everything to several loggers."""

    loggers: Sequence[Logger]

    def log(self, record: Record) -> None:
        for logger in self.loggers:
            logger.log(record)

    def say(self, line: str) -> None:
        for logger in self.loggers:
            logger.say(line)

    def begin(self, overview: Sequence[str], step: int | None, records: int) -> None:
        for logger in self.loggers:
            logger.begin(overview, step, records)

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()


@dataclass
class JsonLinesLogger(Logger):
    """One JSON object per line, appended and flushed at once, so that a killed run keeps its history.

    Speed is left out: equal runs write equal files.
    """

    path: Path

    def log(self, record: Record) -> None:
        numbers = {name: value for name, value in record.items() if name not in SPEED}
        _append(self.path, json.dumps(numbers, ensure_ascii=False))

    def begin(self, overview: Sequence[str], step: int | None, records: int) -> None:
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:records]
        with atomic_file(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines if _is_record(line)), encoding="utf-8")


def _is_record(line: str) -> bool:
    """Say whether a log line is whole; one torn by a crash of the machine is not."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


@dataclass
class TextLogger(Logger):
    """One readable line per record, on the terminal and in a file; lines of interrupted attempts are kept."""

    path: Path

    def log(self, record: Record) -> None:
        self.say(format_record(record))

    def say(self, line: str) -> None:
        tqdm.write(line)  # does not break up a progress bar
        _append(self.path, line)

    def begin(self, overview: Sequence[str], step: int | None, records: int) -> None:
        for line in (*overview, "started" if step is None else f"resumed after step {step}"):
            self.say(line)


def _append(path: Path, line: str) -> None:
    with Writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


class TensorBoardLogger(Logger):
    """Scalars for TensorBoard, which hides what interrupted attempts recorded after the step where a run resumes."""

    def __init__(self, folder: str | Path) -> None:
        _require("tensorboard")
        self.folder = str(folder)
        self.purge_step: int | None = None

    @cached_property
    def writer(self) -> Any:  # not before the folder is known to be this process's
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self.folder, purge_step=self.purge_step)

    def begin(self, overview: Sequence[str], step: int | None, records: int) -> None:
        self.purge_step = None if step is None else step + 1

    def log(self, record: Record) -> None:
        for name, value in _numbers(record).items():
            self.writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self.writer.close()


class WandbLogger(Logger):
    """Scalars for Weights & Biases (project, entity and mode come from its own environment variables).

    A run continues under its id; a step recorded again is ignored there.
    """

    def __init__(self, folder: str | Path, configuration: Mapping[str, Any]) -> None:
        _require("wandb")
        self.folder, self.configuration = Path(folder), dict(configuration)

    @cached_property
    def run(self) -> Any:  # not before the folder is known to be this process's
        import wandb

        identity = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]
        return wandb.init(id=identity, resume="allow", dir=str(self.folder), config=self.configuration)

    def log(self, record: Record) -> None:
        self.run.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        self.run.finish()


def _numbers(record: Record) -> dict[str, float]:
    return {name: value for name, value in record.items() if isinstance(value, (int, float)) and name != "step"}


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"logging to {package} was asked for, but it is not installed: pip install {package}")


def make_logger(save: str | Path, rank: int, report_to: Collection[str], configuration: Mapping[str, Any]) -> Logger:
    """Return the logger of this rank: `log.jsonl` and `training.log` in `save`, and what `report_to` names.

    Args:
        save: the run's folder.
        rank: only rank 0 writes.
        report_to: any of `tensorboard`, `wandb`.
        configuration: what Weights & Biases shows as the run's configuration.
    """
    if rank != 0:
        return Logger()
    save = Path(save)
    loggers: list[Logger] = [JsonLinesLogger(save / "log.jsonl"), TextLogger(save / "training.log")]
    if "tensorboard" in report_to:
        loggers.append(TensorBoardLogger(save / "tensorboard"))
    if "wandb" in report_to:
        loggers.append(WandbLogger(save, configuration))
    return MultiLogger(loggers)


def format_record(record: Record) -> str:
    """Return the record as one line: `step 120 | epoch 2 | loss 1.234 | lr 0.0005`."""
    values = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in record.items()}
    return " | ".join(f"{name} {value}" for name, value in values.items())
