"""The same seed gives the same bytes, in any process; and the loss curves of all methods stand in `tests/assets`.

After a change that is meant to change them (say so in its message):

    WRITE_GOLDEN_CURVES=1 python3 -m pytest tests/entry/test_determinism.py -k golden
"""

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import finetune
import train_velocity_field
from tests import precision
from tests.entry.conftest import in_child, wait_for
from tests.entry.every_method import METHODS, make_pairs, options_of

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "assets" / "golden_curves.json"
WRITE = os.environ.get("WRITE_GOLDEN_CURVES") == "1"
FIELDS = ["velocity field on rows", "velocity field on pairs"]
# In fp32 and without dropout, whose masks are another library's on another kind of processor. 8 steps: one epoch of 6,
# what happens after it (a refresh, new responses), and two steps with that.
STEADY = ["--precision", "fp32", "--log-interval", 1, "--total-iters", 8, "--lr", 3e-4]


@pytest.fixture(scope="module")
def pairs(world, tmp_path_factory, call_script):
    return make_pairs(world, tmp_path_factory.mktemp("pairs"), call_script)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}


def curves_of(log):
    """Return every loss of a log, as lists: `{"loss": [...], "dev_loss": [...], ...}`.

    The gradient's norm is left out: between kinds of processors it differs by more than the losses do.
    """
    curves = {}
    for record in log:
        for name, value in record.items():
            if name not in ("step", "epoch", "lr", "warning", "gradient_norm"):
                curves.setdefault(name, []).append(float(f"{value:.9g}"))
    return curves


def steady_run(name, world, pairs, save, train_field, run):
    if name in FIELDS:
        data = pairs if "pairs" in name else world.store
        return train_field(save, *STEADY, "--model-path", world.steady_student, "--data-dir", data)
    more = ["--velocity-field-path", world.steady_field] if "contra" in METHODS[name][0] else []
    more += ["--peft-lora-dropout", 0] if "LoRA" in name else []
    return run(finetune.main, options_of(world, pairs, name, save, *STEADY, *more, student=world.steady_student))


@pytest.mark.parametrize("name", [*METHODS, *FIELDS])
def test_every_method_trains_along_its_golden_curve(name, world, pairs, golden, train_field, run, read_log, tmp_path):
    assert torch.get_num_threads() == 1 or WRITE is False, "golden curves are of one thread"
    assert steady_run(name, world, pairs, tmp_path / "run", train_field, run).status == 0
    curves = curves_of(read_log(tmp_path / "run"))
    assert len(curves["loss"]) == 8
    if WRITE:
        GOLDEN.parent.mkdir(exist_ok=True)
        golden[name] = curves
        lines = [f"{json.dumps(method)}: {json.dumps(golden[method])}" for method in sorted(golden)]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return
    assert curves.keys() == golden[name].keys()
    for part, expected in golden[name].items():
        assert curves[part] == pytest.approx(expected, rel=1e-5), part


def test_there_is_a_golden_curve_of_each_method_and_of_nothing_else(golden):
    assert golden.keys() == {*METHODS, *FIELDS}


# ---- the same seed, the same bytes -------------------------------------------------------------------------------

# What makes data, models and a student out of nothing; folders are relative to one that each process has of its own.
LENGTHS = "--max-length 256 --max-prompt-length 128"
STUDENT = "--model-path models/student"
SIZES = "--train-num 20 --teacher-train-num 30 --dev-num 8 --test-num 3 --documents 60"
SHAPES = " ".join(f"--{side}-layers 2 --{side}-width 32 --{side}-heads 2" for side in ("teacher", "student"))
PRECISION = f"--precision {precision.CHOSEN}"  # the fresh process knows no other than this CPU's
CHAIN = [
    f"tools.make_tiny_world --output world {SIZES}",
    f"tools.make_tiny_models --world world --output models --vocabulary 400 {SHAPES}",
    f"tools.process_data_dolly --data-dir world/dolly --processed-data-dir store {STUDENT} {LENGTHS}",
    f"tools.process_data_pretrain --data-dir world/openwebtext --processed-data-dir corpus {STUDENT} --max-length 256",
    *(
        f"tools.generate_responses --data world/dolly/{split}.jsonl --model-path models/{side} "
        f"--output responses/generated_{split}_{side}.jsonl --max-prompt-length 128 --max-new-tokens 8 {PRECISION}"
        for split in ("train", "dev")
        for side in ("teacher", "student")
    ),
    "tools.build_response_pairs --responses responses --output pairs",
    f"finetune --type adaptive-srkl {STUDENT} --teacher-model-path models/teacher --data-dir store "
    f"--lm-data-dir corpus --save student {LENGTHS} --batch-size 4 --total-iters 4 --init-threshold 0.7 "
    f"--do-train --do-valid --dev-num 4 {PRECISION}",
]


def run_chain(chain):
    for command in chain:
        sys.argv = command.split()
        importlib.import_module(sys.argv[0]).main()
    return 0


def test_two_processes_with_the_same_seeds_make_the_same_bytes_from_data_to_student(contents, tmp_path):
    """Also where the hashes of strings, and so the order of sets, differ."""
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


@pytest.mark.parametrize("name", ["lm", "adaptive-srkl", "distillm2-v1", *FIELDS[:1]])
def test_another_seed_gives_another_curve(name, world, pairs, run, train_field, read_log, golden, tmp_path):
    more = ["--seed", 11, *STEADY, "--total-iters", 3]
    if name in FIELDS:
        assert train_field(tmp_path / "run", *more, "--model-path", world.steady_student).status == 0
    else:
        options = options_of(world, pairs, name, tmp_path / "run", *more, student=world.steady_student)
        assert run(finetune.main, options).status == 0
    for ours, golden_loss in zip(curves_of(read_log(tmp_path / "run"))["loss"], golden[name]["loss"], strict=False):
        assert ours != pytest.approx(golden_loss, rel=1e-4)


def test_bug_the_seed_decides_the_first_weights_of_an_adapter(world, pairs, call_script, tmp_path):
    """They came from whatever random numbers the process had drawn before."""

    def adapter(save, *more):
        options = options_of(world, pairs, "lm with LoRA", save, "--total-iters", 1, *more)
        assert call_script(finetune.main, options) == 0
        return (save / "adapter_model.safetensors").read_bytes()

    torch.manual_seed(1)
    first = adapter(tmp_path / "first")
    torch.manual_seed(2)
    assert adapter(tmp_path / "second") == first
    assert adapter(tmp_path / "other", "--seed", 11) != first


def test_a_velocity_field_starts_from_its_seed_alone(world, call_script, contents, tmp_path):
    def field(save):
        options = world.stage_1(save, "--total-iters", 1)
        assert call_script(train_velocity_field.main, options) == 0
        return {name: data for name, data in contents(save).items() if name.endswith(".safetensors")}

    torch.manual_seed(1)
    first = field(tmp_path / "first")
    torch.manual_seed(2)
    assert field(tmp_path / "second") == first
