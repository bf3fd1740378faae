"""The same seed gives the same bytes, in any process; and every method follows its loss curve in `tests/assets`.

After a change that is meant to change them (say so in its message):

    WRITE_GOLDEN_CURVES=1 python3 -m pytest tests/entry/test_determinism.py -k golden
"""

import importlib
import inspect
import json
import os
import subprocess
import sys

import pytest
import torch

from tests import precision
from tests.entry.every_method import FIELDS, METHODS, command_of
from tests.entry.outputs import contents, read_log
from tests.entry.processes import ROOT, call, in_child, wait_for

GOLDEN = ROOT / "tests" / "assets" / "golden_curves.json"
WRITE = os.environ.get("WRITE_GOLDEN_CURVES") == "1"
# In fp32 and without dropout, whose masks are another library's on another kind of processor. 8 steps: one epoch of 6,
# what happens after it (a refresh, new responses), and two steps with that.
STEADY = ["--precision", "fp32", "--log-interval", 1, "--total-iters", 8, "--lr", 3e-4]


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}


@pytest.fixture
def curves(world, pairs, tmp_path):
    """Train a method without dropout; return every loss of its log as a list: `{"loss": [...], "dev_loss": [...]}`.

    The gradient's norm is left out: between kinds of processors it differs by more than the losses do.
    """

    def train(name, *more):
        words = ["--velocity-field-path", world.steady_field] if "contra" in name else []
        words += ["--peft-lora-dropout", 0] if "LoRA" in name else []
        options = *STEADY, *words, *more
        assert call(*command_of(world, pairs, name, tmp_path / "run", *options, student=world.steady_student)) == 0
        curves = {}
        for record in read_log(tmp_path / "run"):
            for part, value in record.items():
                if part not in ("step", "epoch", "lr", "warning", "gradient_norm"):
                    curves.setdefault(part, []).append(float(f"{value:.9g}"))
        return curves

    return train


@pytest.mark.parametrize("name", [*METHODS, *FIELDS])
def test_every_method_trains_along_its_golden_curve(name, curves, golden):
    assert torch.get_num_threads() == 1 or not WRITE, "golden curves are of one thread"
    found = curves(name)
    assert len(found["loss"]) == 8
    if WRITE:
        golden[name] = found
        lines = [f"{json.dumps(method)}: {json.dumps(golden[method])}" for method in sorted(golden)]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return
    assert found.keys() == golden[name].keys()
    for part, expected in golden[name].items():
        assert found[part] == pytest.approx(expected, rel=1e-5), part


def test_there_is_a_golden_curve_of_each_method_and_of_nothing_else(golden):
    assert golden.keys() == {*METHODS, *FIELDS}


@pytest.mark.parametrize("name", ["adaptive-srkl", "distillm2-v1", FIELDS[0]])
def test_another_seed_gives_another_curve(name, curves, golden):
    found = curves(name, "--seed", 11, "--total-iters", 3)
    for ours, golden_loss in zip(found["loss"], golden[name]["loss"], strict=False):
        assert ours != pytest.approx(golden_loss, rel=1e-4)


# ---- the same seed, the same bytes -------------------------------------------------------------------------------

# What makes data, models and a student from nothing; folders are relative to one that each process has for itself.
LENGTHS = "--max-length 256 --max-prompt-length 128"
STUDENT = "--model-path models/student"
SIZES = "--train-num 8 --teacher-train-num 10 --dev-num 4 --test-num 1 --documents 60"
SHAPES = " ".join(f"--{side}-layers 2 --{side}-width 32 --{side}-heads 2" for side in ("teacher", "student"))
PRECISION = f"--precision {precision.CHOSEN}"  # a fresh process knows only this CPU's
CHAIN = [
    f"tools.make_tiny_world --output world {SIZES}",
    f"tools.make_tiny_models --world world --output models --vocabulary 400 {SHAPES}",
    f"tools.process_data_dolly --data-dir world/dolly --processed-data-dir store {STUDENT} {LENGTHS}",
    f"tools.process_data_pretrain --data-dir world/openwebtext --processed-data-dir corpus {STUDENT} --max-length 256",
    *(
        f"tools.generate_responses --data world/dolly/{split}.jsonl --model-path models/{side} "
        f"--output responses/generated_{split}_{side}.jsonl --max-prompt-length 128 --max-new-tokens 4 {PRECISION}"
        for split in ("train", "dev")
        for side in ("teacher", "student")
    ),
    "tools.build_response_pairs --responses responses --output pairs",
    f"finetune --type adaptive-srkl {STUDENT} --teacher-model-path models/teacher --data-dir store "
    f"--lm-data-dir corpus --save student {LENGTHS} --batch-size 4 --total-iters 2 --init-threshold 0.7 "
    f"--do-train --do-valid --dev-num 4 {PRECISION}",
]


def run_chain(chain):
    for command in chain:
        sys.argv = command.split()
        importlib.import_module(sys.argv[0]).main()
    return 0


def test_two_processes_with_the_same_seeds_make_the_same_bytes_from_data_to_student(tmp_path):
    """Even if the hashes of strings, and so the order of sets, differ."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    code = f"import importlib, json, sys\n{inspect.getsource(run_chain)}\nrun_chain(json.loads(sys.argv[1]))"
    command = [sys.executable, "-c", code, json.dumps(CHAIN)]
    done = subprocess.run(command, cwd=tmp_path / "one", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    here = in_child(lambda: os.chdir(tmp_path / "two") or run_chain(CHAIN))
    assert wait_for(here) == 0
    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    assert {"pairs/train/state.json", "store/train_0.bin", "student/model.safetensors"} <= one.keys()
    tells_how_long_it_took = {"student/training.log"}
    assert {name for name in one if one[name] != two.get(name)} <= tells_how_long_it_took
    assert one.keys() == two.keys()


@pytest.mark.parametrize("name", ["lm with LoRA", FIELDS[0]])
def test_bug_the_seed_decides_the_first_weights_of_an_adapter(name, world, pairs, tmp_path):
    """They came from whatever random numbers the process had drawn before."""

    def weights(save, *more):
        torch.manual_seed(len(list(tmp_path.iterdir())))
        assert call(*command_of(world, pairs, name, tmp_path / save, "--total-iters", 1, *more)) == 0
        return {file: data for file, data in contents(tmp_path / save).items() if file.endswith(".safetensors")}

    first = weights("first")
    assert weights("second") == first
    assert weights("other", "--seed", 11) != first
