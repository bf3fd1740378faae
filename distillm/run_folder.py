"""The save folder of a run: fresh, to be resumed, or finished, and never that of another run."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_utils.errors import UserError
from data_utils.files import remove_leftovers, write_json

ARGUMENTS = "args.json"
FINISHED = "finished.json"  # written last: the result stands in the folder
# What may differ between a run and its continuation: nothing of the result depends on it.
FREE_OPTIONS = {
    "log_interval",
    "save_interval",
    "eval_batch_size",
    "resume",
    "dry_run",
    "report_to",
    "deepspeed_config",
}


def open_run_folder(save: str, header: Mapping[str, Any], resume: str, is_main: bool) -> bool:
    """Prepare a save folder and write `args.json`; return whether the run in it is finished already.

    Raises:
        UserError: the folder holds a run with other options.
    """
    folder = Path(save)
    if resume == "never":
        if is_main and folder.exists():
            _forget(folder)
    elif (folder / ARGUMENTS).exists():
        _check_same_run(folder, header)
    if is_main and not (folder / FINISHED).exists():
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        write_json(folder / ARGUMENTS, header)
    return resume == "auto" and (folder / FINISHED).exists()


def _forget(folder: Path) -> None:
    """Remove what an earlier run left for its own continuation."""
    for name in (FINISHED, ARGUMENTS, "log.jsonl", "training.log"):
        (folder / name).unlink(missing_ok=True)
    for name in ("checkpoints", "checkpoint", "best"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _check_same_run(folder: Path, header: Mapping[str, Any]) -> None:
    try:
        saved = json.loads((folder / ARGUMENTS).read_text(encoding="utf-8"))
        before: dict[str, Any] = saved["arguments"] | {"global batch size": saved["global_batch_size"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / ARGUMENTS} is broken; start again with --resume never") from error
    now = header["arguments"] | {"global batch size": header["global_batch_size"]}
    for name in sorted(now.keys() | before.keys()):
        if name not in FREE_OPTIONS and before.get(name) != now.get(name):
            raise UserError(
                f"{folder} holds a run with {name} {before.get(name)}, this one has {now.get(name)}; "
                "choose another --save, or start afresh with --resume never"
            )
