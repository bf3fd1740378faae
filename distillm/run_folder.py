"""The save folder of a run: fresh, to be resumed, or finished, and never that of another run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_utils.errors import UserError
from data_utils.files import Writing, remove_folder, remove_leftovers, write_json
from distillm.distributed import World

ARGUMENTS = "args.json"
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
    if (folder / "config.json").exists() and not (folder / ARGUMENTS).exists():
        raise UserError(f"{save} holds a model that is no run of this script; choose another --save")
    if resume == "never":
        return False
    if (folder / ARGUMENTS).exists():
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
            write_json(folder / ARGUMENTS, header)
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
        saved = json.loads((folder / ARGUMENTS).read_text(encoding="utf-8"))
        before = _identity(saved)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / ARGUMENTS} is broken; start again with --resume never") from error
    now = _identity(header)
    for name in sorted(now.keys() | before.keys()):
        if name not in FREE_OPTIONS and before.get(name) != now.get(name):
            raise UserError(
                f"{folder} holds a run with {name} {before.get(name)}, this one has {now.get(name)}; "
                "choose another --save, or start afresh with --resume never"
            )


def _identity(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that makes two runs the same: options, batch over all ranks, and the data files' fingerprints."""
    return header["arguments"] | {"global batch size": header["global_batch_size"]} | header["data"]
