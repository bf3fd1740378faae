"""The answers that an evaluation wrote, and the rows in which two evaluations differ."""

import json
from pathlib import Path


def answers(save: Path) -> dict[str, list[dict]]:
    """Return the lines of every set and seed, in order."""
    paths = sorted(save.rglob("answers.jsonl"))
    texts = {str(path.relative_to(save)): path.read_text(encoding="utf-8") for path in paths}
    return {name: [json.loads(line) for line in text.split("\n") if line] for name, text in texts.items()}


def differing_rows(one: dict[str, list[dict]], two: dict[str, list[dict]]) -> list[tuple[str, int, str, str]]:
    """List the rows whose text differs: (file, row, text, other text). Sets, order and count must be the same."""
    assert one.keys() == two.keys()
    rows = []
    for file, lines in one.items():
        assert [line["prompt"] for line in lines] == [line["prompt"] for line in two[file]]
        assert [line["references"] for line in lines] == [line["references"] for line in two[file]]
        pairs = enumerate(zip(lines, two[file], strict=True))
        rows += [(file, row, a["answer"], b["answer"]) for row, (a, b) in pairs if a["answer"] != b["answer"]]
    return rows
