"""Guarantees of distillm/run/header.py."""

import json
import shutil
import subprocess

import pytest

from data_utils.errors import PROJECT
from distillm.run.header import git_commit, run_header
from distillm.run.identity import fingerprint


def test_the_header_is_json_and_complete(tmp_path):
    data = tmp_path / "train_0.bin"
    data.write_bytes(b"1234")
    options = {"lr": 5e-4, "save": "results", "data_names": ["dolly"], "peft": None}
    inputs = {"data_dir": {"train_0.bin": data}, "model_path": {}}
    header = run_header(options, seed=10, global_batch_size=16, inputs=inputs)
    assert json.loads(json.dumps(header)) == header
    assert (header["arguments"], header["seed"], header["global_batch_size"]) == (options, 10, 16)
    assert header["inputs"] == {"data_dir": {"train_0.bin": fingerprint(data)}}
    assert {"python", "torch", "transformers"} <= header["versions"].keys()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_folder_with_changes_and_none_outside_git_or_in_a_foreign_repository(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, "-C", str(tmp_path), *words], check=True)

    assert git_commit(tmp_path) is git_commit(tmp_path / "absent") is None
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "x")
    commit = git_commit(tmp_path)
    assert commit is not None and len(commit) == 40
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == commit + "+changes"
    (tmp_path / "inner").mkdir()
    assert git_commit(tmp_path / "inner") is None


@pytest.mark.skipif(shutil.which("git") is None or not (PROJECT / ".git").exists(), reason="no repository")
def test_bug_a_run_recorded_no_commit():
    """It asked git about a folder within the project."""
    assert git_commit() is not None
