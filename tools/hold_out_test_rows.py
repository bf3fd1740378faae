"""Give an instruction set without test rows a test set: the last rows of its dev set.

    python3 tools/hold_out_test_rows.py --data-dir data/dolly --output data/smollm2/dolly --test-num 100

reads {train,dev}.jsonl and writes {train,dev,valid}.jsonl, where valid.jsonl is the test set (the names of the raw
format). When the data come with a valid.jsonl, its first --test-num rows are the test set and dev.jsonl stays whole.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

from data_utils.files import atomic_folder
from tools.command_line import ToolParser, positive, require_replaceable


def read_lines(path: Path) -> list[str]:
    """Return the lines of a jsonl file as they are, blank ones left out."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: the folder must hold train.jsonl and dev.jsonl")
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def hold_out(data_dir: Path, num_test: int) -> dict[str, list[str]]:
    """Return the lines of the new train, dev and valid files."""
    train, dev = read_lines(data_dir / "train.jsonl"), read_lines(data_dir / "dev.jsonl")
    if (data_dir / "valid.jsonl").exists():
        return {"train": train, "dev": dev, "valid": read_lines(data_dir / "valid.jsonl")[:num_test]}
    if num_test >= len(dev):
        raise UserError(f"--test-num {num_test} leaves none of the {len(dev)} rows of {data_dir / 'dev.jsonl'}")
    return {"train": train, "dev": dev[:-num_test], "valid": dev[-num_test:]}


def main() -> None:
    parser = ToolParser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with train.jsonl and dev.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, replaced as a whole")
    parser.add_argument("--test-num", type=positive, default=100, help="rows of the test set")
    options = parser.parse_args()
    if options.output.resolve() == options.data_dir.resolve():
        raise UserError(
            f"--output {options.output} is --data-dir, whose raw data it would replace: choose another folder"
        )
    splits = hold_out(options.data_dir, options.test_num)
    ours = {path.name for path in options.output.glob("*")} <= {f"{split}.jsonl" for split in splits}
    require_replaceable("--output", options.output, ours, "such splits")
    with atomic_folder(options.output) as folder:
        for split, lines in splits.items():
            (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    counts = ", ".join(f"{split} {len(lines):,}" for split, lines in splits.items())
    print(f"rows: {counts}; written to {options.output}")


if __name__ == "__main__":
    run_as_script(main)
