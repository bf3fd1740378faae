"""Read what `evaluate.py` wrote: the scores of several models on the same test sets with the same seeds.

A row of a table is one model, of one training run or of several that differ in their seed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.errors import UserError
from distillm.run.identity import RECORD, STUDENT, difference, read_header
from tools.command_line import ToolParser

KNOWN_SETS = ("dolly", "self_inst", "vicuna", "sinst", "uinst")
# What rows of one table may differ in: their models, and how these were computed. The data are compared set by set.
FREE_OPTIONS = {*STUDENT, "precision", "global batch size"}


@dataclass(frozen=True)
class Evaluation:
    """The results of one training run; `folder` holds `<set>-<max-length>/<seed>/{metrics.json,answers.jsonl}`."""

    name: str
    folder: Path
    sets: Sequence[str]
    seeds: Sequence[int]
    max_length: int

    def job(self, data_name: str, seed: int) -> Path:
        return self.folder / f"{data_name}-{self.max_length}" / str(seed)

    @cached_property
    def scores(self) -> np.ndarray:
        """ROUGE-L: `[sets, seeds]`."""
        return np.array([[self._score(name, seed) for seed in self.seeds] for name in self.sets])

    def row_scores(self, data_name: str) -> np.ndarray:
        """ROUGE-L of every row of a test set: `[seeds, rows]`."""
        columns = [self._row_scores(data_name, seed) for seed in self.seeds]
        if len({len(column) for column in columns}) != 1:
            counts = " and ".join(str(count) for count in sorted({len(column) for column in columns}))
            raise UserError(f"{self.name}: the seeds of {data_name} have {counts} rows; evaluate again")
        return np.array(columns)

    def _score(self, data_name: str, seed: int) -> float:
        path = self.job(data_name, seed) / "metrics.json"
        try:
            return as_score(json.loads(path.read_bytes())["rougeL"])
        except FileNotFoundError:
            raise UserError(
                f"{self.name} has no result for {data_name}, seed {seed}: {path} is missing; run evaluate.py"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is not a result of evaluate.py: no rougeL in it") from None

    def _row_scores(self, data_name: str, seed: int) -> list[float]:
        path = self.job(data_name, seed) / "answers.jsonl"
        try:
            # not str.splitlines: it also parts lines at U+2028 and the like, which answers may hold
            lines = path.read_bytes().splitlines()
            scores = [as_score(json.loads(line)["rougeL"]) for line in lines]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            raise UserError(f"{path} is missing or has no rougeL for each row; run evaluate.py again") from None
        total = self.scores[self.sets.index(data_name), self.seeds.index(seed)]
        if not scores or abs(np.mean(scores) - total) > 0.02:
            raise UserError(f"{path} does not fit metrics.json beside it: their ROUGE-L differ; evaluate again")
        return scores


@dataclass(frozen=True)
class Row:
    """A model: its training runs, all evaluated on the same sets with the same seeds."""

    name: str
    runs: Sequence[Evaluation]

    @cached_property
    def columns(self) -> list[np.ndarray]:
        """ROUGE-L of every set, then its average over sets, each `[runs, seeds]`."""
        scores = np.array([run.scores for run in self.runs])
        return [*scores.swapaxes(0, 1), scores.mean(1)]


def every_run(rows: Sequence[Row]) -> list[Evaluation]:
    return [run for row in rows for run in row.runs]


def as_score(value: Any) -> float:
    """Return a number as it is; anything else, NaN and infinity included, is a ValueError."""
    if not isinstance(value, int | float) or not abs(value) < 1e9:
        raise ValueError(value)
    return float(value)


def add_result_options(parser: ToolParser) -> None:
    """Add the options that say which results are meant."""
    parser.add_argument(
        "--row",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME=FOLDER", "FOLDER"),
        help="a model and its results, e.g. SFT=results/gpt2/eval_main/sft_gpt2-base; the folders of further training "
        "runs of it follow; repeat",
    )
    parser.add_argument(
        "--run",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME=FOLDER", "FOLDER"),
        help="a model and the save folders of its training runs; repeat",
    )
    parser.add_argument("--data-names", nargs="+", help="test sets; default: all that any row has")
    parser.add_argument("--seeds", nargs="+", type=int, help="sampling seeds; default: all that any row has")
    parser.add_argument("--max-length", type=int, help="that of the evaluation; needed if there are results of several")


def open_rows(
    folders: dict[str, list[Path]],
    data_names: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    max_length: int | None = None,
) -> list[Row]:
    """Return the rows, given the results folders of each; what is not given is read off the folders.

    Raises:
        UserError: a row lacks a set or a seed, or rows cannot be compared.
    """
    check_folders(folders)
    found = {result for paths in folders.values() for path in paths for result in results_in(path)}
    length = max_length or only_max_length({length for _, length, _ in found})
    sets = data_names or _in_known_order({name for name, of, _ in found if of == length})
    chosen = seeds or sorted({seed for _, of, seed in found if of == length})
    if not sets or not chosen:
        raise UserError(f"no row has a result of --max-length {length}; run evaluate.py first")
    rows = [
        Row(name, [Evaluation(name, path, tuple(sets), tuple(chosen), length) for path in paths])
        for name, paths in folders.items()
    ]
    for row in rows:
        _ = row.columns  # report a missing result before comparing anything else
    check_comparable(every_run(rows))
    return rows


def check_folders(folders: dict[str, list[Path]]) -> None:
    for name, paths in folders.items():
        for path in paths:
            if not path.is_dir():
                raise UserError(f"{name}: {path} does not exist; expected a results folder of evaluate.py")
        if len({path.resolve() for path in paths}) != len(paths):
            raise UserError(f"{name} names one folder twice: {', '.join(map(str, paths))}; each is a training run")


def results_in(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield test set, max-length and seed of everything that is evaluated in a results folder."""
    for path in folder.glob("*-*/*/metrics.json"):
        (name, _, length), seed = path.parents[1].name.rpartition("-"), path.parent.name
        if length.isdecimal() and seed.isdecimal():
            yield name, int(length), int(seed)


def only_max_length(found: set[int]) -> int:
    if not found:
        raise UserError("no row has a result; run evaluate.py first")
    if len(found) > 1:
        raise UserError(f"results of --max-length {' and '.join(map(str, sorted(found)))} exist; name one of them")
    return next(iter(found))


def check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Raise if one run has results of several models, or if runs differ in options or, within a set, in data."""
    firsts: dict[str, tuple[str, dict[str, Any]]] = {}
    for evaluation in evaluations:
        for data_name, seed in product(evaluation.sets, evaluation.seeds):
            job = evaluation.job(data_name, seed)
            if not (job / RECORD).exists():  # such results are trusted
                continue
            header, here = read_header(job / RECORD, "evaluate again"), f"{evaluation.name} ({job})"
            for group, matters, advice in (
                (
                    f"model in {evaluation.folder}",
                    STUDENT.__contains__,
                    "both with one model, or with a --save for each",
                ),
                ("options", lambda name: name not in FREE_OPTIONS | {"data_dir"}, "both with the same options"),
                (f"data of {data_name}", {"data_dir"}.__contains__, "both on the same data"),
            ):
                there, expected = firsts.setdefault(group, (here, header))
                other = difference(header, expected, matters)
                if other:
                    raise UserError(f"{here} does not fit {there}: it was made with {other}; evaluate {advice}")


def check_same_prompts(evaluations: Sequence[Evaluation], data_name: str) -> None:
    """Raise if models or seeds answered different prompts in a row of a set; answers without prompts are trusted."""
    firsts: dict[int, tuple[Path, str]] = {}
    for evaluation, seed in product(evaluations, evaluations[0].seeds):
        path = evaluation.job(data_name, seed) / "answers.jsonl"
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            prompt = json.loads(line).get("prompt")
            if not isinstance(prompt, str):
                continue
            first, expected = firsts.setdefault(number, (path, prompt))
            if prompt != expected:
                here, there = parting(prompt, expected)
                raise UserError(
                    f"{path}:{number} answers …{here!r}…, {first}:{number} …{there!r}…: they cannot be paired; "
                    "evaluate both on the same data"
                )


def parting(*texts: str) -> list[str]:
    """Return the part of each text around the first place where they differ."""
    place = next(index for index, letters in enumerate(zip_longest(*texts)) if len(set(letters)) > 1)
    return [text[max(0, place - 20) : place + 20] for text in texts]


def _in_known_order(names: set[str]) -> list[str]:
    known = [name for name in KNOWN_SETS if name in names]
    return known + sorted(names - set(known))


def spread_is_over_runs(rows: Sequence[Row]) -> bool:
    """Say whether a cell's ± is over training runs; with one run in each row it is over sampling seeds."""
    return any(len(row.runs) > 1 for row in rows)


def mean_and_std(scores: np.ndarray, over_runs: bool) -> tuple[float, float | None]:
    """Return the mean of `[runs, seeds]` and the sample standard deviation over runs or seeds (None if of one)."""
    values = scores.mean(1) if over_runs else scores[0]
    return float(scores.mean()), float(values.std(ddof=1)) if len(values) > 1 else None
