"""Rows that are odd, empty, a megabyte or 10,000 tokens long, in oddly named folders, from raw file to table."""

import json
import shutil

import pytest

import evaluate
import finetune
from data_utils.indexed_dataset import IndexedDataset
from data_utils.instructions import read_jsonl
from data_utils.prompts import format_prompt
from tests.entry.tiny_world import LENGTHS, write_lines
from tools import build_response_pairs, generate_responses, make_results_table, process_data_dolly

LONG = " ".join(f"word{i}" for i in range(10_000))  # more tokens than words
MEGABYTE = "Zürich 👩‍👩‍👧 \u2028" * (2**20 // 32)
SHORTER = [
    {"instruction": "Say red.", "input": "", "output": "red"},
    {"instruction": "", "input": "", "output": ""},
    {"instruction": "👩‍👩‍👧", "input": "שלום", "output": ["🏳️‍🌈", ""]},
    {"instruction": "a\u2028b\x85c\x00d", "input": "\ufeff", "output": "\u2029"},
    {"instruction": LONG, "input": "", "output": "short"},
    {"instruction": "### Response:\n{instruction}", "input": "### Instruction:", "output": "### Response:\n"},
]
ROWS = [*SHORTER, {"instruction": "Repeat it.", "input": MEGABYTE, "output": "no"}]
# "x" times a million: nowhere to split it
TRAINING_ROWS = [*ROWS, {"instruction": "x" * 2**20, "output": "y"}, {"instruction": "z", "output": MEGABYTE}]


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """A folder whose name has spaces, quotes, emoji and more, with everything that a run reads in it."""
    root = tmp_path_factory.mktemp("odd") / "my  runs' “日本” 👩‍👩‍👧 $HOME; # %s {x}"
    for name in ("student", "teacher"):
        shutil.copytree(getattr(world, name), root / "the models" / name)
    files = {"raw/train.jsonl": TRAINING_ROWS, "raw/dev.jsonl": SHORTER, "sets/dolly/valid.jsonl": ROWS}
    for path, rows in files.items():
        write_lines(root / path, rows)
    return root


def succeeds(run, main, options):
    outcome = run(main, options)
    assert outcome.status == 0, outcome.err
    assert "Traceback" not in outcome.err
    return outcome


def test_odd_rows_in_odd_folders_go_the_whole_way(run, folder):
    student, teacher, store = folder / "the models" / "student", folder / "the models" / "teacher", folder / "the store"
    words = ["--data-dir", folder / "raw", "--processed-data-dir", store, "--model-path", student]
    succeeds(run, process_data_dolly.main, [*words, *LENGTHS, "--data-process-workers", 2])
    sidecar = read_jsonl(store / "train.jsonl")
    assert [row["prompt"] for row in sidecar] == [format_prompt(row) for row in TRAINING_ROWS]
    assert [row["output"] for row in sidecar] == [row["output"] for row in TRAINING_ROWS]
    items = IndexedDataset(store / "train_0")
    assert len(items) == len(TRAINING_ROWS) and max(items.sizes) == 64 + 1, (
        "rows are cut to --max-length, the separator apart"
    )

    trained = folder / "a trained model"
    words = ["--type", "srkl", "--model-path", student, "--teacher-model-path", teacher, "--data-dir", store]
    words += ["--save", trained, "--do-train", "--do-valid", "--eval-gen", "--batch-size", 8, "--total-iters", 1]
    succeeds(run, finetune.main, [*words, *LENGTHS])
    assert (trained / "model.safetensors").exists()

    words = ["--model-path", trained, "--data-dir", folder / "sets", "--data-names", "dolly", "--seeds", 1]
    succeeds(run, evaluate.main, [*words, "--save", folder / "the results", *LENGTHS])
    answers = (folder / "the results" / "dolly-64" / "1" / "answers.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["prompt"] for line in answers] == [format_prompt(row) for row in ROWS]

    words = ["--row", f"My model | 1={folder / 'the results'}", "--max-length", 64, "--save", folder / "table.md"]
    assert "My model" in succeeds(run, make_results_table.main, words).out


def test_odd_prompts_are_answered_and_paired_row_by_row(run, folder):
    responses = folder / "the responses"
    for split in ("train", "dev"):
        for side in ("teacher", "student"):
            words = ["--data", folder / "raw" / "dev.jsonl", "--model-path", folder / "the models" / side]
            words += ["--output", responses / f"generated_{split}_{side}.jsonl", "--max-prompt-length", 48]
            succeeds(run, generate_responses.main, [*words, "--max-new-tokens", 4])
    outcome = succeeds(run, build_response_pairs.main, ["--responses", responses, "--output", folder / "the pairs"])
    assert f"train: {len(SHORTER)} pairs, dev: {len(SHORTER)} pairs" in outcome.out
    words = ["--type", "distillm2-v2", "--model-path", folder / "the models" / "student", "--save", folder / "run 2"]
    words += ["--teacher-model-path", folder / "the models" / "teacher", "--data-dir", folder / "the pairs"]
    succeeds(run, finetune.main, [*words, "--do-train", "--batch-size", len(SHORTER), "--total-iters", 1, *LENGTHS])
    assert (folder / "run 2" / "model.safetensors").exists()
