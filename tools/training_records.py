"""Say how models were trained, according to the records in their save folders."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_utils.errors import UserError
from distillm.run.identity import RECORD


def how_trained(record: Path) -> str:
    """Return commit, precision and number of processes of one training."""
    try:
        header = json.loads(record.read_bytes())
        arguments = header["arguments"]
        rows = arguments["batch_size"] * arguments["gradient_accumulation_steps"]
        processes = header["global_batch_size"] // rows
        commit, precision = header["commit"] or "unknown", header["precision"]
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        raise UserError(f"{record} is no record of a training; train again") from None
    return f"at commit {commit} in {precision} on {processes} process{'es' if processes > 1 else ''}"


def training_lines(runs: Mapping[str, Sequence[Path]]) -> list[str]:
    """Return one line for all models that were trained alike; those without a record come from elsewhere."""
    alike: dict[str, list[str]] = {}
    for name, folders in runs.items():
        records = [folder / RECORD for folder in folders]
        for how in dict.fromkeys(how_trained(record) for record in records if record.exists()):
            alike.setdefault(how, []).append(name)
    return [f"{how}: {', '.join(names)}" for how, names in alike.items()]
