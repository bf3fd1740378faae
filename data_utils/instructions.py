"""Instruction data: raw jsonl records, evaluation sets, and the processed store as a data set of rows."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.batching import Row
from data_utils.errors import UserError
from data_utils.indexed_dataset import IndexedDataset, separator
from data_utils.prompts import prompt_of

Record = dict[str, Any]

EVALUATION_SETS: dict[str, tuple[str, int | None]] = {
    # name: (path below the data folder, rows that count or None for all)
    "dolly": ("dolly/valid.jsonl", None),
    "self_inst": ("self-inst/valid.jsonl", None),
    "vicuna": ("vicuna/valid.jsonl", None),
    "sinst": ("sinst/11_/valid.jsonl", None),
    "uinst": ("uinst/11_/valid.jsonl", 10_000),
}


def iterate_jsonl(path: str | Path) -> Iterator[tuple[int, Record]]:
    """Yield (line number from 1, record) of an instruction file; a bad line is an error that names it."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parse_record(line, f"{path}:{number}")


def read_jsonl(path: str | Path) -> list[Record]:
    """Return the records of an instruction file."""
    return [record for _, record in iterate_jsonl(path)]


def references(record: Record) -> list[str]:
    """Return the responses that count as correct: `output` is one string or a list of strings."""
    return [record["output"]] if isinstance(record["output"], str) else record["output"]


def load_evaluation_set(data_dir: str | Path, name: str) -> list[Record]:
    """Return the records of a test set, each with a `prompt`."""
    relative_path, max_rows = EVALUATION_SETS[name]
    path = Path(data_dir) / relative_path
    records = [record for _, record in islice(iterate_jsonl(path), max_rows)]
    if not records:
        raise UserError(f"{path} holds no record")
    return [{**record, "prompt": prompt_of(record)} for record in records]


class InstructionDataset(Sequence[Row]):
    """The rows of a processed folder: `<split>_0.{bin,idx}` and, unless it is a corpus, `<split>.jsonl`.

    Every row has at most `max_length` ids and a response. An item without separator has no prompt: all its tokens are
    response, so SFT on a corpus is pretraining.
    """

    def __init__(
        self, folder: str | Path, split: str, max_length: int, max_prompt_length: int, num_rows: int = -1
    ) -> None:
        """Open the first `num_rows` rows of a split, all of them for -1."""
        prefix = Path(folder) / f"{split}_0"
        self._items = IndexedDataset(prefix)
        if not len(self._items) or not self._items.sizes.all():
            raise UserError(f"{prefix}.idx holds no item, or an empty one: process the data again")
        self._prompt_sizes = _prompt_sizes(self._items, f"{prefix}.bin")
        self._max_length = max_length
        self._num_rows = len(self._items) if num_rows == -1 else min(num_rows, len(self._items))
        self._sidecar = Path(folder) / f"{split}.jsonl"
        self._records = read_jsonl(self._sidecar) if self._sidecar.exists() else None
        if self._records is not None and len(self._records) != len(self._items):
            raise UserError(
                f"{self._sidecar} has {len(self._records)} records, {prefix}.idx {len(self._items)} items: "
                "they come from different runs; process the data again"
            )
        longest = int(self._prompt_sizes.argmax())
        found, limit = self._prompt_sizes[longest], min(max_prompt_length, max_length - 1)
        if found > limit:
            raise UserError(
                f"{prefix}.bin: item {longest} has a prompt of {found} ids, more than {limit} "
                f"(--max-prompt-length {max_prompt_length}, --max-length {max_length}): process the data again"
            )

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # no slices
        """Return row `index`, cut to its first `max_length` ids."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        ids, prompt_size = self._items[index].tolist(), int(self._prompt_sizes[index])
        prompt, response = ([], ids) if prompt_size < 0 else (ids[:prompt_size], ids[prompt_size + 1 :])
        return Row(prompt, response[: self._max_length - len(prompt)], index)

    @property
    def largest_id(self) -> int:
        """The largest token id in the store: what a model must have an embedding for."""
        tokens = self._items.tokens
        return int(tokens[tokens != separator(self._items.dtype)].max())

    def references(self, index: int) -> list[str]:
        """Return the reference responses of row `index`."""
        return references(self._record(index))

    def _record(self, index: int) -> Record:
        if self._records is None:
            raise UserError(f"{self._sidecar} does not exist: a corpus has no references to compare with")
        return self._records[index]


def _prompt_sizes(items: IndexedDataset, place: str) -> np.ndarray:
    """Return the number of ids before each item's separator, -1 where there is none: `[N]` int64."""
    separators = np.flatnonzero(items.tokens == separator(items.dtype))
    owners = np.searchsorted(items.starts, separators, side="right") - 1
    sizes = np.full(len(items), -1, dtype=np.int64)
    sizes[owners] = separators - items.starts[owners]
    twice, unanswered = owners[1:][np.diff(owners) == 0], np.flatnonzero(sizes == items.sizes - 1)
    if len(twice) or len(unanswered):
        item, what = (twice[0], "two separators") if len(twice) else (unanswered[0], "no response")
        raise UserError(f"{place} is damaged: item {item} has {what}; process the data again")
    return sizes


def _parse_record(line: bytes, place: str) -> Record:
    """Return the record on a line; `place` is "file:line"."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or ten thousand brackets deep
        raise UserError(f"{place} is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise UserError(f"{place} is a {type(record).__name__}, not an object with `instruction` and `output`")
    if not record.keys() >= {"instruction", "output"}:
        raise UserError(f"{place} needs `instruction` and `output`, but has {', '.join(record) or 'neither'}")
    for field, kinds in (("instruction", str), ("input", str | None), ("prompt", str | None)):
        if not isinstance(record.get(field), kinds):
            raise UserError(f"{place}: `{field}` is a {type(record[field]).__name__}, but must be a string")
    answers = references(record)
    if not (isinstance(answers, list) and answers and all(isinstance(answer, str) for answer in answers)):
        raise UserError(f"{place}: `output` must be a string or a non-empty list of strings")
    try:
        "".join([record["instruction"], record.get("input") or "", record.get("prompt") or "", *answers]).encode()
    except UnicodeEncodeError as error:  # half of an emoji, cut off by whoever made the file
        raise UserError(f"{place} holds a lone surrogate, which no tokenizer reads: remove it") from error
    return record
