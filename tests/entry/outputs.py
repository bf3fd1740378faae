"""What a run left: its files, its log, its newest checkpoint."""

import json
from pathlib import Path

from data_utils.batching import TokenBatch


def contents(folder: Path) -> dict[str, bytes]:
    """Return everything below a folder, files with their bytes; nothing for a folder that does not exist."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in paths}


def result(save: Path) -> dict[str, bytes]:
    """Return every file of a run except those that name its folder or record its interruptions."""
    return {name: data for name, data in contents(save).items() if not name.endswith(("args.json", "training.log"))}


def read_log(save: Path) -> list[dict]:
    """Return the records of a run's `log.jsonl`."""
    return [json.loads(line) for line in (save / "log.jsonl").read_text().splitlines()]


def steps_with(log: list[dict], name: str) -> list[int]:
    """Return the steps whose record in a log has this number."""
    return [record["step"] for record in log if name in record]


def checkpoint_of(save: Path) -> Path | None:
    """Return a run's newest checkpoint."""
    latest = save / "checkpoints" / "latest"
    return save / "checkpoints" / latest.read_text().strip() if latest.exists() else None


def saved_step(save: Path) -> int | None:
    """Return the step of a run's newest checkpoint; None if there is none."""
    folder = checkpoint_of(save)
    return None if folder is None else int(folder.name.split("-")[1])


def rows_of(batch: TokenBatch) -> list[tuple[int, list[int]]]:
    """Return the id of each row of a batch, and the token ids that it feeds to a model."""
    tokens = batch.input_ids.flatten()[batch.token_positions].split(batch.token_counts.tolist())
    return [(row_id, ids.tolist()) for row_id, ids in zip(batch.row_ids.tolist(), tokens, strict=True)]
