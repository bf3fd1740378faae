"""Join teacher and student responses row by row into DistiLLM-2's pairs.

    python3 tools/build_response_pairs.py --responses data/distillm2/gpt2 --output data/distillm2/gpt2/formatted

Reads `generated_{train,dev}_{teacher,student}.jsonl` of `tools/generate_responses.py`, writes a Hugging Face data set
with the splits train and dev and the columns prompt, chosen (the teacher's) and rejected (the student's), and
`models.json`, which names both models.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

from data_utils.files import atomic_folder, write_json
from data_utils.response_pairs import PAIR_MODELS, is_pair_folder
from distillm.run.identity import STUDENT, read_header
from tools.command_line import ToolParser, require_replaceable

SPLITS = ("train", "dev")


def main() -> None:
    parser = ToolParser(__doc__)
    parser.add_argument("--responses", type=Path, required=True, help="folder with the generated responses")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    require_replaceable("--output", arguments.output, is_pair_folder(arguments.output), "pairs")
    pairs = {split: join(arguments.responses, split) for split in SPLITS}

    from datasets import Dataset, DatasetDict  # seconds to import

    tables = DatasetDict({split: Dataset.from_list(rows) for split, rows in pairs.items()})
    record = models_of(arguments.responses)
    with atomic_folder(arguments.output) as temporary:
        tables.save_to_disk(str(temporary))
        if record is not None:
            write_json(temporary / PAIR_MODELS, record)
    counts = ", ".join(f"{split}: {len(rows):,} pairs" for split, rows in pairs.items())
    print(f"{counts}; written to {arguments.output}")


def join(folder: Path, split: str) -> list[dict[str, str]]:
    """Return the pairs of one split; raise if the two files answer different prompts."""
    paths = [folder / f"generated_{split}_{side}.jsonl" for side in ("teacher", "student")]
    teacher, student = (read_responses(path) for path in paths)
    if len(teacher) != len(student):
        raise UserError(f"{paths[0]} has {len(teacher)} rows, {paths[1]} {len(student)}; generate both from one file")
    pairs = []
    for line, (chosen, rejected) in enumerate(zip(teacher, student, strict=True), start=1):
        if chosen["prompt"] != rejected["prompt"]:
            raise UserError(f"line {line} of {paths[0]} and of {paths[1]} answer different prompts")
        texts = {"chosen": chosen["generated_text"], "rejected": rejected["generated_text"]}
        pairs.append({"prompt": chosen["prompt"], **texts})
    return pairs


def models_of(folder: Path) -> dict[str, Any] | None:
    """Return which models wrote the training responses, named as in training; None without their records."""
    record: dict[str, Any] = {"arguments": {}, "inputs": {}, "global_batch_size": None}
    for side, prefix in (("teacher", "teacher_"), ("student", "")):
        path = folder / f"generated_train_{side}.jsonl.args.json"
        if not path.exists():
            return None
        saved = read_header(path, f"generate {path.name.removesuffix('.args.json')} again")
        for part in ("arguments", "inputs"):
            record[part] |= {prefix + name: saved[part][name] for name in STUDENT if name in saved.get(part, {})}
    return record


def read_responses(path: Path) -> list[dict[str, str]]:
    """Return the lines of a file of responses."""
    if not path.is_file() or not path.stat().st_size:
        raise UserError(f"{path} does not exist or is empty; make it with tools/generate_responses.py")
    rows: list[dict[str, str]] = []
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            row = json.loads(line)
            rows.append({name: row[name] for name in ("prompt", "generated_text")})
            "".join(rows[-1].values()).encode()  # text without lone surrogates, or an error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path}:{number} is not a response with `prompt` and `generated_text`") from error
    return rows


if __name__ == "__main__":
    run_as_script(main)
