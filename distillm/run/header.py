"""The header of a run: what must be saved to repeat it."""

import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from data_utils.errors import PROJECT
from distillm.run.identity import fingerprint

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "peft", "deepspeed", "numpy", "rouge-score")


def run_header(
    options: Mapping[str, Any], *, seed: int, global_batch_size: int, inputs: Mapping[str, Mapping[str, Path]]
) -> dict[str, Any]:
    """Return what must be saved to repeat a run, as plain JSON values.

    Args:
        options: every option by name, with its value.
        seed: the run's seed.
        global_batch_size: rows of one optimiser step, over all ranks and micro-batches.
        inputs: the files the run reads, by the option that names them; each is recorded with its fingerprint.
    """
    return {
        "command": sys.argv,
        "arguments": dict(options),
        "seed": seed,
        "global_batch_size": global_batch_size,
        "inputs": {
            option: {name: fingerprint(path) for name, path in files.items()}
            for option, files in inputs.items()
            if files
        },
        "commit": git_commit(),
        "versions": package_versions(),
    }


def git_commit(folder: Path = PROJECT) -> str | None:
    """Return the commit checked out in `folder` (`+changes` when edited); None outside git or without git."""
    toplevel = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    # A copy of this project inside somebody's repository must not report that repository's commit.
    if not toplevel or not commit or Path(toplevel).resolve() != folder.resolve():
        return None
    return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that decide what a run computes."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
