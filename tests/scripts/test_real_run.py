"""The gpt2 scripts run for real, on a CPU, on stand-in models and data: DeepSpeed, all stages, evaluation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.scripts.commands import REPOSITORY, bash

# 8 blocks, so that there are 6 pairs of layers.
MODEL_SHAPE = [f"--{role}-{name}" for role in ("teacher", "student") for name in ("layers=8", "width=16", "heads=2")]
FEW_ROWS = ["--train-num=24", "--teacher-train-num=24", "--dev-num=4", "--test-num=2", "--documents=400"]
SHORT = ["--max-length", "96", "--max-prompt-length", "64"]
TWO_STEPS = ["--total-iters", "2", "--dev-num", "2", "--batch-size", "2", *SHORT]


def make(tool: str, *options: str) -> None:
    subprocess.run([sys.executable, f"tools/{tool}", *options], cwd=REPOSITORY, check=True, capture_output=True)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> dict[str, str]:
    """Return the path variables that put stand-ins in the places of gpt2-xl, gpt2, Dolly and OpenWebText."""
    root = tmp_path_factory.mktemp("stand_ins")
    make("make_tiny_world.py", f"--output={root}/data", *FEW_ROWS)
    make("make_tiny_models.py", f"--world={root}/data", f"--output={root}/models", "--max-length=512", *MODEL_SHAPE)
    return {
        "TEACHER_BASE": f"{root}/models/teacher",
        "STUDENT_BASE": f"{root}/models/student",
        "RAW_DATA_DIR": f"{root}/data/dolly",
        "RAW_CORPUS_DIR": f"{root}/data/openwebtext",
        "DATA_DIR": f"{root}/dolly",
        "LM_DATA_DIR": f"{root}/corpus",
        "EVAL_DATA_DIR": f"{root}/data",
        "RESULTS_DIR": f"{root}/results",
        "VELOCITY_D_MODEL": "8",
        "EVAL_OPTIONS": " ".join(SHORT),
        "OMP_NUM_THREADS": "1",
    }


def assert_runs(script: str, *arguments: str, **variables: str) -> None:
    result = bash(script, *arguments, **variables)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


def assert_trained(folder: Path) -> None:
    """The save folder is a model that plain Transformers loads and that answers."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("### Instruction:\n", return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=4, do_sample=False).shape[1] > prompt.input_ids.shape[1]
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert max(steps) == 2


def test_the_whole_chain_and_every_single_script(stand_ins):
    train = Path(stand_ins["RESULTS_DIR"]) / "train"
    port = str(20000 + os.getpid() % 20000)
    assert_runs("runs/gpt2/distillm_contra.sh", ".", port, "1", *TWO_STEPS, **stand_ins)
    for name in ("sft/gpt2-xlarge", "init/gpt2-base", "contra/distillm/0.1B_1.5B"):
        assert_trained(train / name)
    metrics = Path(stand_ins["RESULTS_DIR"]).glob("eval_main/contra_distillm_0.1B_1.5B/*-96/*/metrics.json")
    assert len(list(metrics)) == 25

    others = [  # script, save folder, processes
        ("sft/sft_base.sh", "sft/gpt2-base", "1"),
        ("kd/kd_base.sh", "kd/base", "2"),
        ("kd/contra_base.sh", "contra/kd/base", "1"),
        ("distillm/train_0.1B_1.5B.sh", "distillm/0.1B_1.5B", "1"),
    ]
    for script, name, processes in others:
        assert_runs(f"scripts/gpt2/{script}", ".", port, processes, *TWO_STEPS, **stand_ins)
        assert_trained(train / name)
    answer = ["--data-names", "dolly", "--seeds", "10", *SHORT]
    assert_runs("scripts/gpt2/eval/eval_main_dolly.sh", ".", port, "1", "kd/base", *answer, **stand_ins)
    assert_runs("scripts/gpt2/eval/run_eval.sh", "0", str(train / "sft/gpt2-base"), *answer, **stand_ins)
    for name in ("kd_base", "sft_gpt2-base"):
        assert (Path(stand_ins["RESULTS_DIR"]) / f"eval_main/{name}/dolly-96/10/answers.jsonl").is_file()
