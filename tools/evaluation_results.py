"""Read what `evaluate.py` wrote: the scores of several models on the same test sets with the same seeds.

A row of a table is one model, of one training run or of several that differ in their seed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.errors import UserError
from data_utils.instructions import EVALUATION_SETS
from distillm.run.identity import RECORD, STUDENT, difference, read_header
from tools.command_line import ToolParser

# Rows of one table may differ in their models, and in how these were computed. The data are compared set by set.
FREE_OPTIONS = {*STUDENT, "precision", "global batch size"}


@dataclass(frozen=True)
class Row:
    """A model: ROUGE-L of its training runs on every test row of each set, `[runs, seeds, test rows]`."""

    name: str
    seeds: Sequence[int]
    scores: Mapping[str, np.ndarray]

    @property
    def num_runs(self) -> int:
        return len(next(iter(self.scores.values())))

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """ROUGE-L of every set, then its average over sets, each `[runs, seeds]`."""
        means = {data_name: scores.mean(2) for data_name, scores in self.scores.items()}
        return means | {"average": np.mean(list(means.values()), axis=0)}


def add_result_options(parser: ToolParser) -> None:
    """Add the options that say which results are meant."""
    parser.add_argument(
        "--row",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME=FOLDER", "FOLDER"),
        help="a model and its results, e.g. SFT=results/gpt2/eval_main/sft_gpt2-base, then the folders of its further "
        "training runs; repeatable",
    )
    parser.add_argument(
        "--run",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME=FOLDER", "FOLDER"),
        help="a model and the save folders of its training runs; repeatable",
    )
    parser.add_argument("--data-names", nargs="+", help="test sets; default: all that any row has")
    parser.add_argument("--seeds", nargs="+", type=int, help="sampling seeds; default: all that any row has")
    parser.add_argument("--max-length", type=int, help="the evaluation's; needed if results of several lengths exist")


def open_rows(
    folders: Mapping[str, Sequence[Path]],
    data_names: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    max_length: int | None = None,
) -> list[Row]:
    """Return the rows, given the results folders of each; what is not given is read from the folders.

    Raises:
        UserError: a row lacks a set or a seed, or rows cannot be compared.
    """
    check_folders(folders)
    found = {result for paths in folders.values() for path in paths for result in results_in(path)}
    length = max_length or only_max_length({length for _, length, _ in found})
    sets = data_names or [name for name in EVALUATION_SETS if (name, length) in {result[:2] for result in found}]
    chosen = seeds or sorted({seed for _, of, seed in found if of == length})
    if not sets or not chosen:
        raise UserError(f"no row has a result of --max-length {length}; run evaluate.py first")
    reader = Reader(sets, chosen, length)
    return [Row(model, chosen, reader.scores(model, paths)) for model, paths in folders.items()]


class Reader:
    """Reads results folders, and compares every job with the first that it has to agree with."""

    def __init__(self, sets: Sequence[str], seeds: Sequence[int], max_length: int) -> None:
        self.sets, self.seeds, self.max_length = sets, seeds, max_length
        self.headers: dict[str, tuple[str, dict[str, Any]]] = {}
        self.prompts: dict[str, tuple[str, list[str]]] = {}

    def scores(self, model: str, folders: Sequence[Path]) -> dict[str, np.ndarray]:
        """Return ROUGE-L of every test row of each set, for the training runs in `folders`: `[runs, seeds, rows]`."""
        return {
            name: np.array([[self.job_scores(model, folder, name, seed) for seed in self.seeds] for folder in folders])
            for name in self.sets
        }

    def job_scores(self, model: str, results: Path, data_name: str, seed: int) -> list[float]:
        folder = results / f"{data_name}-{self.max_length}" / str(seed)
        record, here = folder / RECORD, f"{model} ({folder})"
        if not record.is_file():
            raise UserError(f"{model} has no result for {data_name}, seed {seed}: {record} is missing; run evaluate.py")
        prompts, scores = read_answers(folder / "answers.jsonl")
        check_mean(folder, scores)
        header = read_header(record, "evaluate again")
        for group, matters, advice in (
            (f"model in {results}", STUDENT.__contains__, "both with one model, or with a --save for each"),
            ("options", lambda name: name not in FREE_OPTIONS | {"data_dir"}, "both with the same options"),
            (f"data of {data_name}", {"data_dir"}.__contains__, "both on the same data"),
        ):
            there, expected = self.headers.setdefault(group, (here, header))
            if other := difference(header, expected, matters):
                raise UserError(f"{here} does not fit {there}: it was made with {other}; evaluate {advice}")
        there, asked = self.prompts.setdefault(data_name, (here, prompts))
        if prompts != asked:
            raise UserError(
                f"{here} answers other prompts ({len(prompts)} rows) than {there} ({len(asked)} rows): they cannot be "
                "paired; evaluate both on the same data"
            )
        return scores


def read_answers(path: Path) -> tuple[list[str], list[float]]:
    """Return prompt and ROUGE-L of each row."""
    try:
        # not str.splitlines: it also splits lines at U+2028 and the like, which answers may hold
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        prompts, scores = [row["prompt"] for row in rows], [row["rougeL"] for row in rows]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        prompts, scores = [], [None]
    if not scores or not all(isinstance(score, int | float) and abs(score) < 1e9 for score in scores):  # nor NaN
        raise UserError(f"{path} is missing, or does not hold a prompt and rougeL for each row; run evaluate.py again")
    return prompts, scores


def check_mean(folder: Path, scores: Sequence[float]) -> None:
    """Raise unless the rows' scores have the mean that `evaluate.py` wrote beside them."""
    path = folder / "metrics.json"
    try:
        mean = json.loads(path.read_bytes())["rougeL"]
        fits = abs(np.mean(scores) - mean) <= 0.02
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
        raise UserError(f"{path} is missing, or holds no rougeL; run evaluate.py again") from None
    if not fits:  # nor NaN
        raise UserError(f"{folder / 'answers.jsonl'} does not fit metrics.json beside it: their ROUGE-L differ")


def check_folders(folders: Mapping[str, Sequence[Path]]) -> None:
    for name, paths in folders.items():
        for path in paths:
            if not path.is_dir():
                raise UserError(f"{name}: {path} does not exist; expected a results folder of evaluate.py")
        if len({path.resolve() for path in paths}) != len(paths):
            raise UserError(f"{name} names one folder twice: {', '.join(map(str, paths))}; each is a training run")


def results_in(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield test set, max-length and seed of every result in a results folder."""
    for path in folder.glob("*-*/*/answers.jsonl"):
        (name, _, length), seed = path.parents[1].name.rpartition("-"), path.parent.name
        if name in EVALUATION_SETS and length.isdecimal() and seed.isdecimal():
            yield name, int(length), int(seed)


def only_max_length(found: set[int]) -> int:
    if not found:
        raise UserError("no row has a result; run evaluate.py first")
    if len(found) > 1:
        raise UserError(f"results of --max-length {' and '.join(map(str, sorted(found)))} exist; name one of them")
    return found.pop()


def spread_is_over_runs(rows: Sequence[Row]) -> bool:
    """Say whether a cell's ± is over training runs; with one run in each row it is over sampling seeds."""
    return any(row.num_runs > 1 for row in rows)


def mean_and_std(scores: np.ndarray, over_runs: bool) -> tuple[float, float | None]:
    """Return the mean of `[runs, seeds]` and the sample standard deviation over runs or seeds (None if of one)."""
    values = scores.mean(1) if over_runs else scores[0]
    return float(scores.mean()), float(values.std(ddof=1)) if len(values) > 1 else None
