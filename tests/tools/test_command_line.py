"""Guarantees of tools/command_line.py: a mistake on the command line of any tool is one clear line."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from data_utils.errors import UserError
from tools import make_tiny_world

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py") if "def main()" in path.read_text())


@pytest.mark.parametrize("name", TOOLS)
def test_an_unknown_option_is_one_line(run, name):
    with pytest.raises(UserError) as error:
        run(importlib.import_module(f"tools.{name}"), "--oops")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "", "9" * 30])
def test_a_number_that_is_no_count_is_one_line_and_writes_nothing(run, tmp_path, number):
    with pytest.raises(UserError, match=r"--test-num: [^\n]+$"):
        run(make_tiny_world, "--output", tmp_path / "out", f"--test-num={number}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("abbreviation", ["--test-n=5", "--tes=5"])
def test_an_abbreviated_option_is_refused(run, abbreviation):
    with pytest.raises(UserError, match=f"unrecognized arguments: {abbreviation}"):
        run(make_tiny_world, abbreviation)


def test_a_script_ends_a_mistake_with_one_line_and_status_1():
    command = [sys.executable, "tools/get_openwebtext.py", "--oops"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("get_openwebtext.py: error: unrecognized arguments: --oops")
