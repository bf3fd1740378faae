"""What makes two runs the same: their options, and the content of the files that these name, whatever the paths."""

import hashlib
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data_utils.errors import UserError
from distillm.distributed import World
from distillm.models.loading import split_checkpoint

RECORD = "args.json"  # a run's header (`distillm.run.header`), in the folder that it writes
STUDENT = ("model_path", "peft_path")
TEACHER = ("teacher_model_path", "teacher_peft_path")
BLOCK, BLOCKS = 1 << 20, 64  # how much a fingerprint reads of a file

# Of a processed store, and of response pairs.
STORE_FILES = ("*.bin", "*.idx", "*.jsonl", "train/*.arrow")
# Of a model, an adapter or a velocity field, tokenizer included; the records of its training are not its content.
MODEL_FILES = (
    *("*.safetensors", "*.bin", "*.index.json", "*config.json", "velocity_field.json", "projector.json"),
    *("tokenizer.json", "*.model", "*vocab*", "merges.txt", "*tokens*.json", "*.jinja"),
)


def matching(folder: str | Path, patterns: Sequence[str] = MODEL_FILES) -> dict[str, Path]:
    """Return the files of a folder that match one of the patterns, by name; none if it is not a folder."""
    paths = (path for pattern in patterns for path in sorted(Path(folder).glob(pattern)))
    return {path.name: path for path in paths if path.is_file()}


def model_files(folder: str) -> dict[str, Path]:
    """Return the files of a checkpoint, with those of the base model if it is an adapter; a hub id has none."""
    base, _ = split_checkpoint(folder)
    below = {} if base == folder else {f"base {name}": path for name, path in matching(base).items()}
    return matching(folder) | below


# For each option that names files: the files that a run reads there.
INPUTS: dict[str, Callable[[str], dict[str, Path]]] = {
    **dict.fromkeys(("data_dir", "lm_data_dir", "gt_data_dir"), partial(matching, patterns=STORE_FILES)),
    **dict.fromkeys(("model_path", "teacher_model_path"), model_files),
    **dict.fromkeys(("peft_path", "teacher_peft_path", "velocity_field_path", "projector_path"), matching),
}


def input_files(options: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
    """Return the files that a run reads, by the option that names them."""
    return {name: files(options[name]) for name, files in INPUTS.items() if options.get(name)}


def fingerprint(path: Path) -> str:
    """Return `<size>:<hash>` of the whole file up to 64 MiB, or of 64 evenly spaced blocks of a larger one."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    blocks = min(BLOCKS, -(-size // BLOCK))
    with open(path, "rb") as file:
        for index in range(blocks):
            file.seek(index * max(0, size - BLOCK) // max(1, blocks - 1))
            digest.update(file.read(BLOCK))
    return f"{size}:{digest.hexdigest()[:16]}"


def read_header(record: Path, advice: str) -> dict[str, Any]:
    """Return the header that a run has written.

    Raises:
        UserError: it is something else; the line ends with `advice`.
    """
    try:
        header = json.loads(record.read_bytes())
        is_header = all(isinstance(header[part], dict) for part in ("arguments", "inputs"))
        is_header &= "global_batch_size" in header
    except (ValueError, RecursionError, TypeError, KeyError):
        is_header = False
    if not is_header:
        raise UserError(f"{record} is broken: it holds no options of a run; {advice}")
    return header


def identity(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two headers of the same run share; options that name files are replaced by their content."""
    return {
        **header["arguments"],
        **header["inputs"],
        "global batch size": header["global_batch_size"],
        "computed precision": header.get("precision"),  # an evaluation has none
    }


def difference(before: Mapping[str, Any], now: Mapping[str, Any], matters: Callable[[str], bool]) -> str | None:
    """Say how an earlier run differs from this one ("lr 0.1, not 0.2"); None if in nothing that matters."""
    theirs, ours = identity(before), identity(now)
    for name in filter(matters, sorted(theirs.keys() | ours.keys())):
        if theirs.get(name) != ours.get(name):
            was, is_now = before["arguments"].get(name, theirs.get(name)), now["arguments"].get(name, ours.get(name))
            return f"{name} {was}, not {is_now}" if was != is_now else f"different content in {name} {is_now}"
    return None


def must_agree(header: Mapping[str, Any], free: Collection[str], finished: bool) -> Callable[[str], bool]:
    """Return which options must agree for a run to be finished or to resume: all except the `free` ones.

    A resumed run must keep its precision; a finished run with `auto` counts as finished on any machine.
    """
    ignored = {*free, "precision"}  # the option itself; the precision that it resolved to counts
    if finished and header["arguments"]["precision"] == "auto":
        ignored.add("computed precision")
    return lambda name: name not in ignored


def other_models(record: Path, header: Mapping[str, Any], names: Collection[str]) -> str | None:
    """Say which of these models something was made with, if not with this run's; without a record it is trusted."""
    if not record.exists():
        return None
    saved = read_header(record, "remove it if you know which models it should name")
    return difference(saved, header, names.__contains__)


def note_other_models(record: Path, header: Mapping[str, Any], names: Collection[str], world: World) -> None:
    """Tell the user, once, that something was made with models other than this run's, which may be intended."""
    other = other_models(record, header, names)
    if other and world.is_main:
        print(f"note: {record.parent} was made with {other}", file=sys.stderr)
