"""Turn instruction data into a token store: prompts and responses as ids, with their text beside them.

    python3 tools/process_data_dolly.py --data-dir data/dolly --model-path gpt2 \\
        --processed-data-dir processed_data/dolly/full/gpt2

reads train.jsonl and dev.jsonl of the data folder when both exist, else raw.jsonl, whose first --dev-num
rows are the validation split. A record's own `prompt` is used as it is; one without gets the template. A prompt
above --max-prompt-length loses its middle, a row above --max-length the end of its response; both are counted.
Writes {train,valid}_0.{bin,idx}, {train,valid}.jsonl, meta.json: all or none. The same input and options give
the same bytes, with any number of workers.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

from tqdm import tqdm

from data_utils.indexed_dataset import IndexedDatasetWriter, separator, token_dtype
from data_utils.instructions import Record, iterate_jsonl, references
from data_utils.prompts import encode_example, encode_prompt, prompt_of
from data_utils.store_meta import vocabulary_size
from tools.command_line import positive
from tools.processing import map_in_order, processing_parser, store_folder, summary, tokenizer_of, write_meta


@dataclass(frozen=True)
class Source:
    """A raw record and where it comes from, "file:line"."""

    place: str
    record: Record


@dataclass(frozen=True)
class Example:
    """An encoded record: sidecar fields, prompt ids, response ids with EOS, and which of the two loses ids."""

    fields: Record
    prompt: list[int]
    response: list[int]
    prompt_is_cut: bool
    response_is_cut: bool


@dataclass
class Counts:
    """The counts of one split."""

    rows: int = 0
    tokens: int = 0
    truncated_prompts: int = 0
    truncated_responses: int = 0


def read_split(path: Path, first: int, count: int | None) -> list[Source]:
    """Return `count` records of a file (None: all) from number `first` on; raise if there are none."""
    numbered = islice(islice(iterate_jsonl(path), first, None), count)
    sources = [Source(f"{path}:{number}", record) for number, record in numbered]
    if not sources:
        raise UserError(f"{path} has no record from row {first} on: give more data, or a smaller --dev-num")
    return sources


def read_sources(
    data_dir: Path, train_num: int | None, dev_num: int | None
) -> tuple[list[Path], dict[str, list[Source]]]:
    """Return the files that were read, and the records of each split; a number that is None means all rows."""
    train, dev, raw = (data_dir / f"{name}.jsonl" for name in ("train", "dev", "raw"))
    if train.exists() and dev.exists():
        return [train, dev], {"train": read_split(train, 0, train_num), "valid": read_split(dev, 0, dev_num)}
    if not raw.exists():
        missing = ", ".join(str(path) for path in (train, dev) if not path.exists())
        raise UserError(f"missing {missing}: {data_dir} needs train.jsonl and dev.jsonl, or raw.jsonl")
    if dev_num is None:
        raise UserError(f"--dev-num -1 makes all of {raw} validation rows: give their number")
    return [raw], {"train": read_split(raw, dev_num, train_num), "valid": read_split(raw, 0, dev_num)}


def encode_source(source: Source, tokenizer: Any, max_prompt_length: int, max_length: int) -> Example:
    """Encode one record, with the first of its references as response."""
    record, text = source.record, prompt_of(source.record)
    prompt, response = encode_example(tokenizer, text, references(record)[0], max_prompt_length)
    room = max_length - len(prompt)  # no training reads more
    if room <= 0:
        raise UserError(
            f"{source.place}: a prompt of {len(prompt)} ids leaves no response token within --max-length "
            f"{max_length}: lower --max-prompt-length {max_prompt_length}"
        )
    # only a prompt of exactly the limit may have been cut
    prompt_is_cut = len(prompt) == max_prompt_length and prompt != encode_prompt(tokenizer, text, sys.maxsize)
    given = {"instruction": record["instruction"], "input": record.get("input") or "", "output": record["output"]}
    return Example({**given, "prompt": text}, prompt, response[:room], prompt_is_cut, len(response) > room)


def write_split(folder: Path, split: str, examples: Iterable[Example], dtype: Any) -> Counts:
    """Write the store and the sidecar of one split."""
    counts = Counts()
    prefix, sidecar = folder / f"{split}_0", folder / f"{split}.jsonl"
    with (
        IndexedDatasetWriter(prefix, dtype) as store,
        open(sidecar, "w", encoding="utf-8", newline="\n") as lines,
    ):
        for example in examples:
            store.add([*example.prompt, separator(dtype), *example.response])
            lines.write(json.dumps(example.fields, ensure_ascii=False) + "\n")
            counts.rows += 1
            counts.tokens += len(example.prompt) + len(example.response)
            counts.truncated_prompts += example.prompt_is_cut
            counts.truncated_responses += example.response_is_cut
    return counts


def main() -> None:
    parser = processing_parser(__doc__)
    parser.add_argument("--max-prompt-length", type=positive, default=256, help="a longer prompt loses its middle")
    options = parser.parse_args()
    files, sources = read_sources(options.data_dir, options.train_num, options.dev_num)
    tokenizer = tokenizer_of(options)
    dtype = token_dtype(vocabulary_size(tokenizer))
    encode = partial(
        encode_source,
        tokenizer=tokenizer,
        max_prompt_length=options.max_prompt_length,
        max_length=options.max_length,
    )
    with store_folder(options.processed_data_dir) as folder:
        splits = {}
        for split, of_split in sources.items():
            examples = map_in_order(encode, of_split, options.data_process_workers)
            bar = tqdm(examples, desc=split, total=len(of_split), unit="row", disable=None)
            splits[split] = asdict(write_split(folder, split, bar, dtype))
        write_meta(folder, options, tokenizer, files, splits)
    print(summary(splits, options.processed_data_dir))


if __name__ == "__main__":
    run_as_script(main)
