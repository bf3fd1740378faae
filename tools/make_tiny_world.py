"""Write the data of the `tiny` family: an instruction set, five test sets and a corpus, all invented.

    python3 tools/make_tiny_world.py --output data/tiny

writes <output>/dolly/{train,dev,valid}.jsonl, <output>/{self-inst,vicuna}/valid.jsonl,
<output>/{sinst,uinst}/11_/valid.jsonl and <output>/openwebtext/data.txt in the formats of the real data, and
<output>/teacher/{train,dev}.jsonl: more rows of the same kind for the teacher, the student's among them.
Needs no network; the same options give the same bytes.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

from data_utils.files import atomic_file
from data_utils.instructions import EVALUATION_SETS
from data_utils.prompts import format_prompt
from data_utils.randomness import keyed_generator
from tools.command_line import ToolParser, positive
from tools.tiny_tasks import CLOSED, DOCUMENTS, EVERY, OPEN, WITH_INPUT, Example, Task
from tools.tiny_world import Draw, World, make_people

MOST_TRIES = 50  # for a row whose prompt is not taken yet, before the world counts as exhausted
MOST_REFERENCES = 12

# test set: its tasks, and whether its combinations of wording and topic are unseen elsewhere
TEST_SETS: dict[str, tuple[Sequence[Task], bool]] = {
    "dolly": (EVERY, False),
    "self_inst": (EVERY, True),
    "vicuna": (OPEN[:3], False),
    "sinst": (WITH_INPUT, False),
    "uinst": (CLOSED + WITH_INPUT, False),
}


class Author:
    """Writes rows about one world; a prompt in `reserved` is never used again."""

    def __init__(self, world: World, seed: int):
        self.world = world
        self.seed = seed
        self.reserved: set[tuple[str, str]] = set()  # instruction and input

    def rows(self, name: str, count: int, tasks: Sequence[Task], unseen: bool = False) -> list[Example]:
        """Return `count` rows of a set, the tasks in turn."""
        return [self.fresh_row(name, index, tasks, unseen) for index in range(count)]

    def reserved_rows(self, name: str, count: int, tasks: Sequence[Task], unseen: bool = False) -> list[Example]:
        """Return `count` rows with distinct prompts, which occur in no set that is made later."""
        rows = []
        for index in range(count):
            rows.append(self.fresh_row(name, index, tasks, unseen))
            self.reserved.add((rows[-1].instruction, rows[-1].input))
        return rows

    def fresh_row(self, name: str, index: int, tasks: Sequence[Task], unseen: bool) -> Example:
        draw = Draw(keyed_generator(self.seed, f"tiny world {name}", index), unseen)
        for attempt in range(MOST_TRIES):
            example = tasks[(index + attempt) % len(tasks)](self.world, draw)
            if (example.instruction, example.input) not in self.reserved:
                return Example(example.instruction, example.input, draw.some(example.outputs, MOST_REFERENCES))
        raise UserError(f"set '{name}': no new prompt after {index} rows; ask for at most {index} rows")


def write_rows(path: Path, rows: Iterable[Example], with_references: bool) -> None:
    """Write one JSON object per line; training rows have one answer, the others every reference."""
    records = (
        {
            "instruction": row.instruction,
            "input": row.input,
            "output": row.outputs if with_references else row.outputs[0],
        }
        for row in rows
    )
    write_lines(path, (json.dumps({**record, "prompt": format_prompt(record)}) for record in records))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def documents(world: World, seed: int, count: int) -> Iterator[str]:
    for index in range(count):
        draw = Draw(keyed_generator(seed, "tiny documents", index))
        yield DOCUMENTS[index % len(DOCUMENTS)](world, draw)


def main() -> None:
    parser = ToolParser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("data/tiny"), help="folder to write to")
    parser.add_argument("--train-num", type=positive, default=600, help="training rows of the student")
    parser.add_argument("--teacher-train-num", type=positive, default=8000, help="training rows of the teacher")
    parser.add_argument("--dev-num", type=positive, default=100, help="rows of the dev set")
    parser.add_argument("--test-num", type=positive, default=100, help="rows of each of the five test sets")
    parser.add_argument("--documents", type=positive, default=8000, help="documents of the corpus")
    parser.add_argument("--seed", type=int, default=10)
    options = parser.parse_args()
    if options.train_num > options.teacher_train_num:
        raise UserError(
            f"--train-num {options.train_num} exceeds --teacher-train-num {options.teacher_train_num}: "
            "the student's rows are the first of the teacher's"
        )
    write_world(options)
    print(f"wrote the tiny world to {options.output}")


def write_world(options: argparse.Namespace) -> None:
    """Make all rows first, so that nothing is written when there are too few prompts."""
    world = make_people(keyed_generator(options.seed, "tiny people"))
    author = Author(world, options.seed)
    tests = {name: author.reserved_rows(name, options.test_num, *kind) for name, kind in TEST_SETS.items()}
    dev = author.reserved_rows("dev", options.dev_num, EVERY)
    train = author.rows("train", options.teacher_train_num, EVERY)
    for name, rows in tests.items():
        write_rows(options.output / EVALUATION_SETS[name][0], rows, with_references=True)
    for folder, count in (("dolly", options.train_num), ("teacher", options.teacher_train_num)):
        write_rows(options.output / folder / "train.jsonl", train[:count], with_references=False)
        write_rows(options.output / folder / "dev.jsonl", dev, with_references=True)
    write_lines(options.output / "openwebtext" / "data.txt", documents(world, options.seed, options.documents))


if __name__ == "__main__":
    run_as_script(main)
