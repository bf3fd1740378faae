"""Read what `evaluate.py` wrote: the scores of several models on the same test sets with the same seeds."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.errors import UserError
from distillm.run_identity import RECORD, STUDENT, difference, read_header
from tools.command_line import ToolParser, named_path

KNOWN_SETS = ("dolly", "self_inst", "vicuna", "sinst", "uinst")
# What rows of one table may differ in: their models, and how these were computed. The data are compared set by set.
FREE_OPTIONS = {*STUDENT, "precision", "global batch size"}


@dataclass(frozen=True)
class Evaluation:
    """One model's results; `folder` holds `<set>-<max-length>/<seed>/{metrics.json,answers.jsonl}`."""

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


def as_score(value: Any) -> float:
    """Return a number as it is; anything else, NaN and infinity included, is a ValueError."""
    if not isinstance(value, int | float) or not abs(value) < 1e9:
        raise ValueError(value)
    return float(value)


def add_result_options(parser: ToolParser) -> None:
    """Add the options that say which results are meant."""
    parser.add_argument(
        "--row",
        type=named_path,
        action="append",
        required=True,
        metavar="NAME=PATH",
        help="a model and its results folder, e.g. Teacher=results/gpt2/eval_main/sft/gpt2-xlarge; repeat",
    )
    parser.add_argument("--data-names", nargs="+", help="test sets; default: all that any row has")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: all that any row has")
    parser.add_argument("--max-length", type=int, default=512, help="the --max-length of the evaluation")
    parser.add_argument(
        "--skip-missing", action="store_true", help="leave out models that lack a result, instead of an error"
    )


def open_evaluations(
    rows: Sequence[tuple[str, str]],
    data_names: Sequence[str] | None,
    seeds: Sequence[int] | None,
    max_length: int,
    skip_missing: bool = False,
) -> list[Evaluation]:
    """Return the named evaluations; one that lacks a set or a seed is an error, or is left out with a message."""
    folders = {name: Path(path) for name, path in rows}
    if len(folders) != len(rows):
        raise UserError(f"two rows have one name: {', '.join(name for name, _ in rows)}; name each --row differently")
    for name, folder in folders.items():
        if not folder.is_dir() and not skip_missing:
            raise UserError(f"{name}: {folder} does not exist; expected a results folder of evaluate.py")
    found = [path for folder in folders.values() for path in folder.glob(f"*-{max_length}/*/metrics.json")]
    sets = data_names or _in_known_order({path.parent.parent.name.rpartition("-")[0] for path in found})
    chosen = seeds or sorted({int(path.parent.name) for path in found if path.parent.name.isdecimal()})
    if not sets or not chosen:
        raise UserError(f"no row has a result of --max-length {max_length}; run evaluate.py first")
    complete = []
    for name, folder in folders.items():
        evaluation = Evaluation(name, folder, tuple(sets), tuple(chosen), max_length)
        try:
            _ = evaluation.scores
        except UserError as error:
            if not skip_missing:
                raise
            print(f"left out: {error}", file=sys.stderr)
        else:
            complete.append(evaluation)
    if not complete:
        raise UserError(f"no row has all of {', '.join(sets)} with the seeds {', '.join(map(str, chosen))}")
    check_comparable(complete)
    return complete


def check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Raise if a row is of several models, or rows are of several options or, in one set, of several data."""
    firsts: dict[str, tuple[str, dict[str, Any]]] = {}
    for evaluation in evaluations:
        for data_name, seed in product(evaluation.sets, evaluation.seeds):
            job = evaluation.job(data_name, seed)
            if not (job / RECORD).exists():  # such results are trusted
                continue
            header, here = read_header(job / RECORD, "evaluate again"), f"{evaluation.name} ({job})"
            for group, matters, advice in (
                (f"model of {evaluation.name}", STUDENT.__contains__, "both with one model, or with a --save for each"),
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
    """Return of different texts what stands around the first place where they differ."""
    place = next(index for index, letters in enumerate(zip_longest(*texts)) if len(set(letters)) > 1)
    return [text[max(0, place - 20) : place + 20] for text in texts]


def _in_known_order(names: set[str]) -> list[str]:
    known = [name for name in KNOWN_SETS if name in names]
    return known + sorted(names - set(known))


def mean_and_std(scores: np.ndarray) -> tuple[float, float | None]:
    """Return the mean over seeds and their sample standard deviation (None for one seed); `[seeds]`."""
    return float(scores.mean()), float(scores.std(ddof=1)) if len(scores) > 1 else None
