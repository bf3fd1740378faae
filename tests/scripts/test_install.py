"""Guarantees of install.sh and of the scripts' own set-up, with a Python that only records what it is asked."""

import os
import shutil
import subprocess

import pytest

from tests.scripts.commands import REPOSITORY

# Answers what install.sh asks; FAKE_* say what goes wrong.
FAKE_PYTHON = """#!/bin/bash
echo "$(basename "$(dirname "$(dirname "$0")")") $*" >>"$FAKE_LOG"
case "$*" in
  --version) echo "Python ${FAKE_VERSION:-3.12.1}" ;;
  *version_info*) [[ -z "${FAKE_VERSION:-}" ]] ;;
  *ensurepip*) [[ -z "${FAKE_NO_VENV:-}" ]] ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python3" ;;
  "-m pip install"*) exit "${FAKE_PIP_STATUS:-0}" ;;
  *check_install.py*) exit "${FAKE_CHECK_STATUS:-0}" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A copy of what install.sh needs, and a Python at tmp_path/python/bin."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("install.sh", "requirements.txt"):
        shutil.copy(REPOSITORY / name, clone)
    shutil.copytree(REPOSITORY / "scripts", clone / "scripts")
    (tmp_path / "python" / "bin").mkdir(parents=True)
    python = tmp_path / "python" / "bin" / "python3"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return clone


def run(clone, *command, **variables):
    """Run a command with only a PATH and `variables` in the environment; return its result and the log."""
    log = clone.parent / "log"
    log.write_text("")
    path = f"{clone.parent}/python/bin:{os.defpath}"
    result = subprocess.run(
        ["bash", *command],
        cwd=clone,
        env={"PATH": path, "FAKE_LOG": str(log), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return result, log.read_text().splitlines()


def pip_calls(log):
    return [line.split()[0] for line in log if "-m pip install" in line]


def test_the_first_run_makes_an_environment_and_the_second_has_nothing_to_do(clone):
    result, log = run(clone, "install.sh")
    assert result.returncode == 0, result.stderr
    assert pip_calls(log) == [".venv"]
    result, log = run(clone, "install.sh")
    assert "up to date" in result.stdout
    assert pip_calls(log) == [] and "check_install.py" in log[-1]


def test_changed_requirements_are_installed_again(clone):
    run(clone, "install.sh")
    with open(clone / "requirements.txt", "a") as file:
        file.write("another==1.0\n")
    assert pip_calls(run(clone, "install.sh")[1]) == [".venv"]


def test_an_interrupted_installation_is_done_again(clone):
    result, _ = run(clone, "install.sh", FAKE_PIP_STATUS="1")
    assert result.returncode != 0
    assert pip_calls(run(clone, "install.sh")[1]) == [".venv"]


@pytest.mark.parametrize("name", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_active_environment_is_used(clone, name):
    result, log = run(clone, "install.sh", **{name: str(clone.parent / "python")})
    assert result.returncode == 0, result.stderr
    assert pip_calls(log) == ["python"]
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"FAKE_VERSION": "3.9.2"}, "'python3' is Python 3.9.2, but 3.11 or newer is needed"),
        ({"FAKE_NO_VENV": "1"}, "'python3' cannot make an environment"),
        ({"PYTHON": "python9"}, "there is no 'python9'"),
    ],
)
def test_an_unfit_python_is_one_clear_line(clone, variables, message):
    result, _ = run(clone, "install.sh", **variables)
    assert result.returncode != 0
    (line,) = result.stderr.splitlines()
    assert message in line
    assert not (clone / ".venv").exists()


def test_a_script_installs_what_it_needs_before_its_first_command(clone):
    (clone / "data" / "store").mkdir(parents=True)
    variables = {"CKPT": "gpt2", "DATA_DIR": "data/store"}
    result, log = run(clone, "scripts/gpt2/sft/sft_base.sh", **variables)
    assert result.returncode == 0, result.stderr
    assert pip_calls(log) == [".venv"]
    assert log[-1].startswith(".venv ./finetune.py --model-path gpt2")
    assert pip_calls(run(clone, "scripts/gpt2/sft/sft_base.sh", **variables)[1]) == []


def test_a_script_never_changes_an_active_environment(clone):
    (clone / "data" / "store").mkdir(parents=True)
    variables = {"CKPT": "gpt2", "DATA_DIR": "data/store", "VIRTUAL_ENV": str(clone.parent / "python")}
    result, log = run(clone, "scripts/gpt2/sft/sft_base.sh", **variables)
    assert result.returncode == 0 and pip_calls(log) == []
    result, log = run(clone, "scripts/gpt2/sft/sft_base.sh", FAKE_CHECK_STATUS="1", **variables)
    assert result.returncode != 0 and pip_calls(log) == []
    assert "lacks packages: run 'bash install.sh'" in result.stderr
