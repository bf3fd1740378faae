"""Response pairs of DistiLLM-2: for each prompt a teacher's response (chosen) and a student's (rejected)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_utils.batching import Row, TokenBatch, collate
from data_utils.errors import Reading, UserError
from data_utils.prompts import encode_example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("prompt", "chosen", "rejected")
PAIR_MODELS = "models.json"  # in a folder of pairs: which models wrote them


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, each encoded like a row of the instruction data."""

    chosen: Row
    rejected: Row

    def __len__(self) -> int:
        return max(len(self.chosen), len(self.rejected))


class PairDataset(Sequence[Pair]):
    """The pairs of a folder written by `tools/build_response_pairs.py`; rejected responses can be replaced.

    Pair i has the row ids 2i (chosen) and 2i + 1 (rejected).
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int,
        max_prompt_length: int,
        max_pairs: int = -1,
    ) -> None:
        """Encode the first `max_pairs` pairs of a split, all of them for -1."""
        table = _load_table(folder, split)
        table = table.select(range(min(len(table), max_pairs))) if max_pairs != -1 else table
        self.prompts: list[list[int]] = []
        self._chosen: list[list[int]] = []
        self._rejected: list[list[int]] = []
        for prompt, chosen, rejected in zip(*(table[name] for name in COLUMNS), strict=True):
            prompt_ids, chosen_ids = encode_example(tokenizer, prompt, chosen, max_prompt_length)
            _, rejected_ids = encode_example(tokenizer, prompt, rejected, max_prompt_length)
            room = max_length - len(prompt_ids)
            self.prompts.append(prompt_ids)
            self._chosen.append(chosen_ids[:room])
            self._rejected.append(rejected_ids[:room])

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # an int; slices are not offered
        if not 0 <= index < len(self):
            raise IndexError(index)
        prompt = self.prompts[index]
        return Pair(Row(prompt, self._chosen[index], 2 * index), Row(prompt, self._rejected[index], 2 * index + 1))

    @property
    def rejected(self) -> list[list[int]]:
        """The response ids of every pair's rejected side."""
        return self._rejected

    def replace_rejected(self, responses: Sequence[list[int]]) -> None:
        """Put new rejected responses in, one for each pair."""
        assert len(responses) == len(self)
        self._rejected = list(responses)


def collate_pairs(pairs: Sequence[Pair], pad_id: int, *, packed: bool = True) -> TokenBatch:
    """Lay out P pairs as one batch: the chosen rows first, then the rejected ones."""
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    return collate(rows, pad_id, packed=packed)


def is_pair_folder(folder: str | Path) -> bool:
    """Say whether a data folder holds response pairs, not a processed store."""
    return (Path(folder) / "dataset_dict.json").is_file()


def _load_table(folder: str | Path, split: str):  # type: ignore[no-untyped-def]  # datasets takes seconds to import
    from datasets import DatasetDict, load_from_disk

    with Reading(str(folder), f"; {folder} holds no response pairs; make them with tools/build_response_pairs.py"):
        tables = load_from_disk(str(folder))
    if not isinstance(tables, DatasetDict) or split not in tables:
        raise UserError(f"{folder} has no split {split!r}; make it with tools/build_response_pairs.py")
    missing = set(COLUMNS) - set(tables[split].column_names)
    if missing:
        raise UserError(f"{folder} lacks the columns {', '.join(sorted(missing))}; it needs {', '.join(COLUMNS)}")
    if not len(tables[split]):
        raise UserError(f"{folder} has no pair in its split {split!r}")
    with Reading(f"{folder}, split {split}", "; make it anew with tools/build_response_pairs.py"):
        columns = tables[split].data.table
        columns.validate(full=True)  # memory-mapped: without this check, a damaged file is read beyond its bounds
    wrong = [name for name in COLUMNS if str(columns[name].type) != "string" or columns[name].null_count]
    if wrong:
        raise UserError(f"{folder}, split {split}: its column {wrong[0]} is not all text")
    return tables[split]
