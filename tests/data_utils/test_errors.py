"""Guarantees of data_utils/errors.py."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from data_utils.errors import Reading, UserError, run_as_script


@pytest.mark.parametrize("library", [json.loads, Tokenizer.from_str, load_file])
def test_what_a_library_raises_on_a_damaged_file_is_one_line(tmp_path, library):
    path = tmp_path / "file"
    path.write_text("{")
    given = path if library is load_file else path.read_text()

    def call_library():
        with Reading("the file", "; make it again"):
            exec(compile("library(given)", "/somewhere/library.py", "exec"), {"library": library, "given": given})

    with pytest.raises(UserError, match=r"cannot load the file: .*; make it again$") as error:
        call_library()
    assert "\n" not in str(error.value)


def raise_(error):
    raise error


@pytest.mark.parametrize(
    "bug",
    [
        lambda: None.name,  # type: ignore[attr-defined]
        lambda: {}["key"],
        lambda: len(3),  # type: ignore[arg-type]
        lambda: int("x"),
        lambda: raise_(AssertionError()),
        lambda: raise_(RuntimeError("ours")),
    ],
)
def test_a_bug_of_ours_is_not_called_a_broken_file(bug):
    """The line that raises is this project's, even if it calls a library."""
    with pytest.raises(Exception) as error, Reading("the file"):
        bug()
    assert not isinstance(error.value, UserError)


CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB")


@pytest.mark.parametrize(
    ("allocate", "size"),
    [
        (lambda: torch.empty(10**15), "4000000000000000 bytes"),
        (lambda: np.zeros(10**15), "7.11 PiB"),
        (lambda: bytearray(10**15), ""),
        (lambda: raise_(CUDA), "2.00 GiB"),
    ],
)
def test_a_lack_of_memory_is_one_line_with_its_size_and_what_to_lower(allocate, size, capsys):
    with pytest.raises(SystemExit) as end:
        run_as_script(allocate)
    said = capsys.readouterr().err
    assert end.value.code == 1 and len(said.splitlines()) == 1
    assert "error: out of memory" in said and size in said and "lower --batch-size" in said


def test_a_bug_of_ours_ends_a_script_with_a_traceback():
    with pytest.raises(RuntimeError, match="ours"):
        run_as_script(lambda: raise_(RuntimeError("ours")))
