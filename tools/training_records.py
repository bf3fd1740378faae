"""Say how models were trained, according to the records in their save folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from distillm.run.identity import RECORD, read_header


def how_trained(record: Path) -> str:
    """Return commit, precision and number of processes of one training run."""
    header = read_header(record, "train again")
    arguments = header["arguments"]
    processes = header["global_batch_size"] // (arguments["batch_size"] * arguments["gradient_accumulation_steps"])
    where = f"{processes} process{'es' if processes > 1 else ''}"
    return f"at commit {header['commit'] or 'unknown'} in {header['precision']} on {where}"


def training_lines(runs: Mapping[str, Sequence[Path]]) -> list[str]:
    """Return one line for each group of models trained alike; those without a record come from elsewhere."""
    alike: dict[str, list[str]] = {}
    for name, folders in runs.items():
        records = [folder / RECORD for folder in folders]
        for how in dict.fromkeys(how_trained(record) for record in records if record.exists()):
            alike.setdefault(how, []).append(name)
    return [f"{how}: {', '.join(names)}" for how, names in alike.items()]
