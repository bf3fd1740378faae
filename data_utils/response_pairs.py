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

    Every row has at most `max_length` ids. Pair i has the row ids 2i (chosen) and 2i + 1 (rejected).
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int,
        max_prompt_length: int,
        num_rows: int = -1,
    ) -> None:
        """Encode the first `num_rows` pairs of a split, all of them for -1."""
        assert max_prompt_length < max_length, f"{max_prompt_length} ids of a prompt, {max_length} of a row"
        self._max_length = max_length
        self._pairs: list[Pair] = []
        table = _load_table(folder, split)
        for row in table if num_rows == -1 else table.take(min(num_rows, len(table))):
            prompt, chosen = encode_example(tokenizer, row["prompt"], row["chosen"], max_prompt_length)
            _, rejected = encode_example(tokenizer, row["prompt"], row["rejected"], max_prompt_length)
            first_id = 2 * len(self._pairs)
            self._pairs.append(Pair(self._cut(prompt, chosen, first_id), self._cut(prompt, rejected, first_id + 1)))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:  # type: ignore[override]  # no slices
        return self._pairs[index]

    @property
    def prompts(self) -> list[list[int]]:
        """The prompt ids of every pair."""
        return [pair.chosen.prompt for pair in self._pairs]

    @property
    def rejected(self) -> list[list[int]]:
        """The response ids of every pair's rejected side."""
        return [pair.rejected.response for pair in self._pairs]

    def replace_rejected(self, responses: Sequence[list[int]]) -> None:
        """Put new rejected responses in, one for each pair; what does not fit into a row is cut off."""
        self._pairs = [
            Pair(pair.chosen, self._cut(pair.rejected.prompt, response, pair.rejected.row_id))
            for pair, response in zip(self._pairs, responses, strict=True)
        ]

    def _cut(self, prompt: list[int], response: list[int], row_id: int) -> Row:
        """Return a row of at most `max_length` ids."""
        return Row(prompt, response[: self._max_length - len(prompt)], row_id)


def collate_pairs(pairs: Sequence[Pair], pad_id: int, *, packed: bool = True) -> TokenBatch:
    """Lay out P pairs as one batch: the chosen rows first, then the rejected ones."""
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    return collate(rows, pad_id, packed=packed)


def is_pair_folder(folder: str | Path) -> bool:
    """Say whether a data folder holds response pairs, not a processed store."""
    return (Path(folder) / "dataset_dict.json").is_file()


def _load_table(folder: str | Path, split: str):  # type: ignore[no-untyped-def]  # datasets takes seconds to import
    from datasets import DatasetDict, load_from_disk

    make_them = "make them with tools/build_response_pairs.py"
    with Reading(str(folder), f"; {folder} holds no response pairs; {make_them}"):
        tables = load_from_disk(str(folder))
    if not isinstance(tables, DatasetDict) or not len(tables.get(split, ())):
        raise UserError(f"{folder} holds no pairs of the split {split!r}; {make_them}")
    columns = tables[split].data.table
    missing = set(COLUMNS) - set(columns.column_names)
    if missing:
        raise UserError(f"{folder} lacks the columns {', '.join(sorted(missing))}; it needs {', '.join(COLUMNS)}")
    with Reading(f"{folder}, split {split}", "; make it again with tools/build_response_pairs.py"):
        columns.validate(full=True)  # memory-mapped: without this check, a damaged file is read beyond its bounds
    wrong = [name for name in COLUMNS if str(columns[name].type) != "string" or columns[name].null_count]
    if wrong:
        raise UserError(f"{folder}, split {split}: its column {wrong[0]} must hold only text")
    return tables[split]
