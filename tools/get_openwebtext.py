"""Fetch the pretraining corpus from the Hugging Face hub into data/openwebtext/data.txt.

    python3 tools/get_openwebtext.py

fetches a sample of 100,000 documents, enough for the 22.87K chunks that the scripts use;
`--data-set Skylion007/openwebtext` is all of it. One document per line, with runs of newlines written `<@x(x!>`.
An existing file is left alone.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, reason, run_as_script

# isort: split

from tqdm import tqdm

from data_utils.corpus import document_line
from data_utils.files import atomic_file
from tools.command_line import ToolParser


def load_documents(data_set: str) -> Any:
    """Return the training split of a data set on the hub, whose rows have a `text`."""
    from datasets import load_dataset
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it reports its own retries; a final failure is still raised
    documents = load_dataset(data_set, split="train")
    if "text" not in documents.column_names:
        raise UserError(f"{data_set} has no column `text`, only {', '.join(documents.column_names)}")
    return documents


def main() -> None:
    parser = ToolParser(__doc__)
    parser.add_argument("--data-set", default="Elriggs/openwebtext-100k", help="data set id on the hub")
    parser.add_argument("--data-dir", type=Path, default=Path("data/openwebtext"), help="folder of data.txt")
    options = parser.parse_args()
    path = options.data_dir / "data.txt"
    if path.exists():
        print(f"{path} exists already")
        return
    try:
        documents = load_documents(options.data_set)
    except OSError as error:
        raise UserError(
            f"cannot fetch {options.data_set} ({reason(error)}); missing {path}: put it there by hand, "
            "one document per line, with runs of newlines written <@x(x!>"
        ) from error
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as lines:
        for document in tqdm(documents, unit="document", disable=None):
            lines.write(document_line(document["text"]))
    print(f"{len(documents):,} documents written to {path}")


if __name__ == "__main__":
    run_as_script(main)
