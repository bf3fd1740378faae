"""docs/hostile_input.md says what is tested; its numbers are those that the tests run."""

import importlib
import re
from pathlib import Path

from tests.hostile.cases import DECLARED

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "docs" / "hostile_input.md"


def cases_of_files() -> dict[str, int]:
    """Return the cases of each file, which every test counts while it runs."""
    for path in HERE.glob("test_*.py"):
        importlib.import_module(f"tests.hostile.{path.stem}")
    counts: dict[str, int] = {}
    for (file, _), count in DECLARED.items():
        counts[file] = counts.get(file, 0) + count
    return counts


def test_more_than_ten_thousand_cases_are_generated():
    assert sum(cases_of_files().values()) >= 10_000


def test_the_table_has_the_numbers_of_the_tests():
    text = TABLE.read_text(encoding="utf-8")
    rows = re.findall(r"`tests/hostile/(test_\w+\.py)` \| ([\d,]+) \|", text)
    assert {file: int(count.replace(",", "")) for file, count in rows} == cases_of_files()
    assert f"**{sum(cases_of_files().values()):,} generated cases**" in text
