"""Plain-text corpora: `data.txt` holds one document per line, with runs of newlines written `<@x(x!>`."""

import re
from collections.abc import Iterator
from pathlib import Path

from data_utils.errors import UserError

NEWLINES = "<@x(x!>"


def document_line(document: str) -> str:
    """Return a document as one line of `data.txt`, line end included; "" for a blank document."""
    line = re.sub(r"[\r\n]+", NEWLINES, document.strip())
    return f"{line}\n" if line else ""


def read_documents(path: Path) -> Iterator[str]:
    """Yield the documents of a corpus file, newlines restored; blank lines are skipped."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: run tools/get_openwebtext.py, or put one document per line there")
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                document = line.decode().strip()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number} is not UTF-8 ({error.reason}): convert the file") from error
            if document:
                yield document.replace(NEWLINES, "\n")
