"""Guarantees of data_utils/corpus.py."""

import pytest

from data_utils.corpus import document_line, read_documents
from data_utils.errors import UserError


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ("a\n\n\nb", "a<@x(x!>b\n"),
        (" a\r\nb\n", "a<@x(x!>b\n"),
        ("\n \n", ""),
        ("naïve 🙂\u2028x", "naïve 🙂\u2028x\n"),
    ],
)
def test_a_document_is_one_line_and_a_blank_one_none(tmp_path, document, line):
    assert document_line(document) == line
    (tmp_path / "data.txt").write_text(line, encoding="utf-8", newline="\n")
    assert list(read_documents(tmp_path / "data.txt")) == [line.strip().replace("<@x(x!>", "\n")] * bool(line)


def test_a_corpus_that_is_not_there_or_not_utf8_is_named(tmp_path):
    with pytest.raises(UserError, match=r"data.txt does not exist"):
        list(read_documents(tmp_path / "data.txt"))
    (tmp_path / "data.txt").write_bytes(b"good\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"data.txt:2 is not UTF-8"):
        list(read_documents(tmp_path / "data.txt"))
