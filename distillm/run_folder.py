"""The save folder of a run: fresh, to be resumed, or finished, and never that of another run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_utils.errors import UserError
from data_utils.files import Writing, remove_folder, remove_leftovers, write_json
from distillm.distributed import World
from distillm.run_identity import RECORD, difference

FINISHED = "finished.json"  # written last: the result stands in the folder
# What may differ between a run and its continuation: nothing of the result depends on it.
FREE_OPTIONS = {
    "save",
    "log_interval",
    "save_interval",
    "eval_batch_size",
    "resume",
    "dry_run",
    "report_to",
    "deepspeed_config",
}


def is_finished(save: str, header: Mapping[str, Any], resume: str, world: World) -> bool:
    """Say whether a save folder holds this run, finished; nothing is written, what its last moment left is removed.

    Raises:
        UserError: the folder holds a run with other options.
    """
    folder = Path(save)
    if (folder / "config.json").exists() and not (folder / RECORD).exists():
        raise UserError(f"{save} holds a model that is no run of this script; choose another --save")
    if resume == "never":
        return False
    if (folder / RECORD).exists():
        _check_same_run(folder, header)
    finished = (folder / FINISHED).exists()
    if finished and world.is_main:
        _remove_state(folder)
    return finished


def start_run(save: str, header: Mapping[str, Any], resume: str, world: World) -> None:
    """Make the save folder ready and write `args.json`, once everything a run needs is known to be there."""
    folder = Path(save)
    if world.is_main:
        with Writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if resume == "never":
                _forget(folder)
            remove_leftovers(folder)
            write_json(folder / RECORD, header)
    world.barrier()


def _forget(folder: Path) -> None:
    """Remove what an earlier run left for its own continuation; `args.json`, which says whose it is, is replaced."""
    _remove_state(folder)
    for name in (FINISHED, "log.jsonl", "training.log"):
        (folder / name).unlink(missing_ok=True)


def _remove_state(folder: Path) -> None:
    """Remove all that a run continues with."""
    remove_leftovers(folder)
    for name in ("checkpoints", "checkpoint", "best"):
        remove_folder(folder / name)


def _check_same_run(folder: Path, header: Mapping[str, Any]) -> None:
    try:
        saved = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        other = difference(saved, header, lambda name: name not in FREE_OPTIONS)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / RECORD} is broken; start again with --resume never") from error
    if other is not None:
        raise UserError(
            f"{folder} holds a run with {other}; choose another --save, or start afresh with --resume never"
        )
