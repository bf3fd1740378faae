"""What the two processing tools share: their options, the worker processes, and the folder they write."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from multiprocessing import Pool
from pathlib import Path
from typing import Any, TypeVar

from data_utils.errors import STOP_SIGNALS
from data_utils.files import atomic_folder, write_json
from data_utils.store_meta import META_NAME, describe_tokenizer, file_hash
from distillm.models.checks import check_model_type
from distillm.models.loading import load_tokenizer
from tools.command_line import ToolParser, positive, require_replaceable

SPLITS = ("train", "valid")
STORE_FILES = {f"{split}{ending}" for split in SPLITS for ending in ("_0.bin", "_0.idx", ".jsonl")} | {META_NAME}
BLOCK, CHUNK = 8192, 64  # items handed out before waiting for all of them; items a worker takes at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


def count_or_all(text: str) -> int | None:
    """Parse a number of rows from 1 on; -1, all of them, becomes None."""
    return None if text == "-1" else positive(text)


def processing_parser(description: str | None) -> ToolParser:
    """Return a parser of the options that both tools know."""
    parser = ToolParser(description)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the raw files")
    parser.add_argument("--processed-data-dir", type=Path, required=True, help="folder to write, replaced as a whole")
    parser.add_argument("--model-path", required=True, help="checkpoint folder or hub id whose tokenizer is used")
    parser.add_argument("--model-type", default=None, help="refuse a checkpoint of another architecture")
    parser.add_argument("--max-length", type=positive, default=512, help="tokens of a training row")
    parser.add_argument("--train-num", type=count_or_all, default=None, help="rows at most, -1 = all")
    parser.add_argument("--dev-num", type=count_or_all, default=1000, help="rows at most, -1 = all")
    parser.add_argument("--data-process-workers", type=positive, default=32, help="processes, at most one per core")
    return parser


def tokenizer_of(options: Any) -> Any:
    """Return the tokenizer of `--model-path`, after comparing with `--model-type`."""
    if options.model_type is not None:
        check_model_type(options.model_path, options.model_type)
    return load_tokenizer(options.model_path)


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """Yield `function(item)` for every item, in their order, computed by several processes.

    Items are read a block at a time, so that a caller who has enough can stop long before their end.
    """
    num_workers = min(num_workers, os.cpu_count() or 1)
    if num_workers == 1:
        yield from map(function, items)
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
    items = iter(items)
    with Pool(num_workers, _set_work, (function,)) as pool:
        while block := list(islice(items, BLOCK)):
            yield from pool.imap(_do_work, block, CHUNK)


_work: Callable[[Any], Any]  # a worker's function, sent once and not with every item: a tokenizer is large


def _set_work(function: Callable[[Any], Any]) -> None:
    global _work
    _work = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    for number in STOP_SIGNALS:  # a handler in Python does not run while a worker waits for a lock
        signal.signal(number, signal.SIG_DFL)


def _do_work(item: Any) -> Any:
    return _work(item)


def store_folder(path: Path) -> AbstractContextManager[Path]:
    """Return a temporary folder that replaces `path` at the end; raise if `path` is not an older store."""
    names = {entry.name for entry in path.glob("*")}
    require_replaceable("--processed-data-dir", path, "train_0.idx" in names and names <= STORE_FILES, "a token store")
    return atomic_folder(path)


def write_meta(
    folder: Path, options: Any, tokenizer: Any, sources: Iterable[Path], splits: Mapping[str, Mapping[str, int]]
) -> None:
    """Write `meta.json`: tokenizer, lengths, hashes of the source files, counts of each split."""
    lengths = {name: value for name, value in vars(options).items() if name.endswith("_length")}
    hashes = {source.name: file_hash(source) for source in sources}
    meta = {"tokenizer": describe_tokenizer(tokenizer), **lengths, "sources": hashes, "splits": splits}
    write_json(folder / META_NAME, meta)


def summary(splits: Mapping[str, Mapping[str, int]], path: Path) -> str:
    """Return one line: the counts of each split, and where they were written."""
    counts = (
        f"{split}: " + ", ".join(f"{value:,} {what.replace('_', ' ')}" for what, value in of_split.items())
        for split, of_split in splits.items()
    )
    return f"{'; '.join(counts)}; written to {path}"
