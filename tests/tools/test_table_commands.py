"""The table and plot commands in README and docstrings run unchanged, on folders that runs write."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.scripts.commands import REPOSITORY, dry_run
from tests.tools.test_results_table import write_job
from tools import make_results_table, plot_results

TOOLS = {"make_results_table": make_results_table, "plot_results": plot_results}
PAGES = ["README.md", "tools/make_results_table.py", "tools/plot_results.py"]


def shown_command(page: str) -> list[str]:
    """Return the words of the one command for a table or a plot that a page shows."""
    text = (REPOSITORY / page).read_text(encoding="utf-8").replace("\\\\\n", "\\\n").replace("\\\n", " ")
    (command,) = re.findall(r"^ *(python3 tools/(?:make_results_table|plot_results)\.py .*)$", text, re.MULTILINE)
    return shlex.split(command)


def folders_of(words: list[str], option: str) -> list[str]:
    """Return the folders that follow an option, each `[NAME=]FOLDER`."""
    text = " ".join(words)
    groups = re.findall(rf"--{option} ((?:[^- ]\S* ?)+)", text)
    return [word.partition("=")[2] or word for group in groups for word in group.split()]


@pytest.mark.parametrize("page", PAGES)
def test_the_command_that_a_page_shows_runs_whatever_the_max_length(page, run, tmp_path, monkeypatch):
    words = shown_command(page)
    for number, folder in enumerate(folders_of(words, "row")):
        write_job(tmp_path / folder / "dolly-128" / "10", [1.0, 2.0 + number])
    for folder in folders_of(words, "run"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "log.jsonl").write_text(json.dumps({"step": 1, "dev_loss": 1.0}) + "\n")
    monkeypatch.chdir(tmp_path)
    run(TOOLS[Path(words[1]).stem], *words[2:])
    assert Path(words[words.index("--save") + 1]).stat().st_size > 100


@pytest.mark.parametrize("page", PAGES)
def test_the_folders_that_a_page_names_are_written_by_a_run(page):
    words = shown_command(page)
    family = words[words.index("--save") + 1].split("/")[1]
    commands = dry_run(f"runs/{family}/distillm_contra.sh", SEEDS="10 20")
    written = {path.removeprefix("./") for command in commands for path in command.options.get("save", [])}
    assert {*folders_of(words, "row"), *folders_of(words, "run")} <= written
