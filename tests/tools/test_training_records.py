"""Guarantees of tools/training_records.py: what a table says about the training runs behind it."""

import json
from pathlib import Path

import pytest

from data_utils.errors import UserError
from tests.tools.test_results_table import write_job
from tools import make_results_table
from tools.training_records import training_lines


def trained(folder: Path, processes: int = 1, commit: str | None = "abc+changes", precision: str = "fp32") -> Path:
    folder.mkdir()
    arguments = {"batch_size": 4, "gradient_accumulation_steps": 2}
    header = {"arguments": arguments, "inputs": {}, "global_batch_size": 8 * processes}
    header |= {"commit": commit, "precision": precision}
    (folder / "args.json").write_text(json.dumps(header))
    return folder


def test_trainings_that_were_run_alike_share_a_line(tmp_path):
    one, two = trained(tmp_path / "one"), trained(tmp_path / "two")
    other = trained(tmp_path / "other", processes=4, commit=None, precision="bf16")
    assert training_lines({"SFT": [one], "KD": [two, other], "Teacher": [tmp_path]}) == [
        "at commit abc+changes in fp32 on 1 process: SFT, KD",
        "at commit unknown in bf16 on 4 processes: KD",
    ]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"arguments": {"batch_size": "x"}}'])
def test_a_damaged_record_is_one_clear_line(tmp_path, content):
    (tmp_path / "args.json").write_text(content)
    with pytest.raises(UserError, match=r"args\.json is broken: .*; train again"):
        training_lines({"SFT": [tmp_path]})


def test_bug_a_table_did_not_say_commit_precision_and_processes(run, tmp_path):
    write_job(tmp_path / "results" / "dolly-512" / "10", [1.0, 2.0])
    folder = trained(tmp_path / "run", processes=2)
    options = ("--row", f"SFT={tmp_path / 'results'}", "--run", f"SFT={folder}", "--command", "X=1 bash x.sh . 2012 2")
    run(make_results_table, *options, "--save", tmp_path / "t.md")
    made = (tmp_path / "t.md").read_text().partition("Made at commit ")[2]
    assert "```bash\nX=1 bash x.sh . 2012 2\n```" in made
    assert made.endswith("Trained:\n\n- at commit abc+changes in fp32 on 2 processes: SFT\n")
