"""Turn a plain-text corpus into a token store of chunks of equal length.

    python3 tools/process_data_pretrain.py --data-dir data/openwebtext --model-path gpt2 --train-num 22870 \\
        --processed-data-dir processed_data/openwebtext/gpt2/512/22.87K

reads data.txt of the data folder, one document per line, with runs of newlines written `<@x(x!>`. Documents
are encoded, EOS is put after each, and all are cut into chunks of exactly --max-length tokens: the first
--dev-num for validation, the next --train-num for training. If the corpus is too small for both, at most
5 % of it goes to validation.
Writes {train,valid}_0.{bin,idx}, meta.json: all or none.
The same input and options give the same bytes, with any number of workers.
"""

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

import numpy as np
from tqdm import tqdm

from data_utils.corpus import read_documents
from data_utils.indexed_dataset import IndexedDatasetWriter, token_dtype
from data_utils.prompts import encode_text
from data_utils.store_meta import vocabulary_size
from tools.processing import map_in_order, processing_parser, store_folder, summary, tokenizer_of, write_meta

SMALL_CORPUS_SHARE = 20  # one chunk in this many is for validation when there are too few


def encode_document(document: str, tokenizer: Any, dtype: np.dtype) -> np.ndarray:
    """Return the ids of a document with EOS at the end: `[tokens]`."""
    return np.asarray([*encode_text(tokenizer, document), tokenizer.eos_token_id], dtype)


def cut(documents: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Yield chunks `[length]` of the documents put end to end; an incomplete last one is dropped."""
    waiting: list[np.ndarray] = []
    num_waiting = 0
    for document in documents:
        waiting.append(document)
        num_waiting += len(document)
        if num_waiting >= length:
            tokens = np.concatenate(waiting)
            complete = num_waiting - num_waiting % length
            yield from tokens[:complete].reshape(-1, length)
            waiting, num_waiting = [tokens[complete:]], num_waiting - complete


def num_dev_chunks(num_chunks: int, dev_num: int | None, wanted: int | None) -> int:
    """Return how many of the first chunks are for validation; a corpus that is large enough gives `wanted` chunks."""
    share = max(1, num_chunks // SMALL_CORPUS_SHARE)
    if dev_num is not None and (dev_num <= share or num_chunks == wanted):
        return dev_num
    if dev_num is not None:
        print(f"{num_chunks:,} chunks are too few for --dev-num {dev_num:,}: validation gets {share:,} of them")
    return share


def read_chunks(options: Any, source: Path, tokenizer: Any, dtype: np.dtype) -> dict[str, list[np.ndarray]]:
    """Return the chunks `[max_length]` of each split."""
    encode = partial(encode_document, tokenizer=tokenizer, dtype=dtype)
    documents = map_in_order(encode, read_documents(source), options.data_process_workers)
    train_num, dev_num = options.train_num, options.dev_num
    wanted = None if train_num is None or dev_num is None else train_num + dev_num
    bar = tqdm(cut(documents, options.max_length), desc="corpus", total=wanted, unit="chunk", disable=None)
    chunks = list(islice(bar, wanted))
    if len(chunks) < 2:
        raise UserError(f"{source} has {len(chunks)} chunks of {options.max_length} tokens, but needs two: add text")
    num_dev = num_dev_chunks(len(chunks), dev_num, wanted)
    return {"train": chunks[num_dev:][:train_num], "valid": chunks[:num_dev]}


def write_split(prefix: Path, chunks: list[np.ndarray], dtype: np.dtype) -> dict[str, int]:
    """Write the store of one split; return its counts."""
    with IndexedDatasetWriter(prefix, dtype) as store:
        for chunk in chunks:
            store.add(chunk)
    return {"rows": len(chunks), "tokens": sum(map(len, chunks))}


def main() -> None:
    options = processing_parser(__doc__).parse_args()
    source = options.data_dir / "data.txt"
    tokenizer = tokenizer_of(options)
    dtype = token_dtype(vocabulary_size(tokenizer))
    with store_folder(options.processed_data_dir) as folder:
        splits = read_chunks(options, source, tokenizer, dtype)
        counts = {split: write_split(folder / f"{split}_0", chunks, dtype) for split, chunks in splits.items()}
        write_meta(folder, options, tokenizer, [source], counts)
    print(summary(counts, options.processed_data_dir))


if __name__ == "__main__":
    run_as_script(main)
