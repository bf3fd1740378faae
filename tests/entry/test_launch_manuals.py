"""Every command in a script's docstring runs, with the folders that the tiny family really writes."""

import argparse
import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest

import evaluate
import finetune
import train_velocity_field
from tests.entry.processes import ROOT, call
from tests.entry.tiny_world import LENGTHS

ENTRY_SCRIPTS = {"finetune.py": finetune, "train_velocity_field.py": train_velocity_field, "evaluate.py": evaluate}
TINY = re.compile(r"(?:results|data|checkpoints|processed_data)/\S*tiny\S*")


def commands_of(path: Path) -> list[list[str]]:
    """Return the commands of a script's docstring as words, continued lines joined, trailing remarks dropped."""
    manual = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    manual = re.sub(r" *\\\n +", " ", manual)
    lines = re.findall(r"^(?: {4})?((?:python3|bash|pip) .*)$", manual, re.M)
    pieces = [piece for line in lines for piece in line.split(" && ")]
    return [shlex.split(re.split(r" {4,}", piece)[0]) for piece in pieces if not piece.startswith("pip")]


COMMANDS = [words for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("tools/*.py")]) for words in commands_of(path)]


def each(commands: list[list[str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("words", commands, ids=lambda words: " ".join(words)[:60])


def dry_run(*command: str) -> str:
    environment = {**os.environ, "DRY_RUN": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def tiny_run() -> str:
    """Return all commands of the tiny family's run."""
    return dry_run("bash", "runs/tiny/all.sh").replace(" ./", " ")


class Parsed(Exception):
    """A script has read its command line."""


def test_every_script_with_a_manual_is_looked_at():
    assert {Path(words[1]).name for words in COMMANDS} >= {*ENTRY_SCRIPTS, "generate_responses.py", "import_gguf.py"}


@each([words for words in COMMANDS if words[0] == "python3"])
def test_a_script_takes_the_command_of_its_manual(words):
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(self, *arguments):
        _, unknown = parse(self, *arguments)
        assert not unknown
        raise Parsed

    module = importlib.import_module(words[1].removesuffix(".py").replace("/", "."))
    with (
        mock.patch.object(sys, "argv", words[1:]),
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", parse_and_stop),
        pytest.raises(Parsed),
    ):
        module.main()


@each([words for words in COMMANDS if words[0] == "bash"])
def test_the_script_of_a_manual_starts(words):
    dry_run(*words)


# Rows of tables and plots may be of runs with other seeds, in folders that the user chooses.
@each([words for words in COMMANDS if TINY.search(" ".join(words)) and "--row" not in words])
def test_the_folders_of_a_manual_are_those_that_the_tiny_family_writes(words):
    written = set(re.findall(r"--(?:save|output|processed-data-dir) (\S+)", tiny_run()))
    written |= {f"{folder}/{side}" for folder in written for side in ("teacher", "student")}
    written = {folder.rstrip("/") for folder in written}
    for option, place in pairwise(words):
        found = TINY.search(place)
        if found and option not in ("--save", "--output"):
            assert found[0] in written, place


@pytest.mark.parametrize("name", ENTRY_SCRIPTS)
def test_the_smallest_command_of_an_entry_script_runs(name, world, tmp_path):
    """On the tests' models, which have 64 positions; the lengths in the docstring are the tiny family's."""
    words = commands_of(ROOT / name)[0][2:]
    assert f"--max-length {words[words.index('--max-length') + 1]} --max-prompt-length 64" in tiny_run()
    folders = {
        "--model-path": world.student,
        "--teacher-model-path": world.teacher,
        "--data-dir": world.data if name == "evaluate.py" else world.store,
        "--save": tmp_path / "save",
    }
    for option, folder in folders.items():
        if option in words:
            words[words.index(option) + 1] = str(folder)
    assert call(ENTRY_SCRIPTS[name].main, [*words, *LENGTHS]) == 0
    assert list((tmp_path / "save").iterdir())
