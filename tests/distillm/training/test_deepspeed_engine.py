"""DeepSpeed behind the engine's interface takes the same steps as plain torch: one process, on the CPU.

It runs in a process of its own, because it joins a process group."""

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from data_utils.errors import UserError
from distillm.arguments import TrainingArguments
from distillm.training.deepspeed_engine import load_config, refuse_pickled_code

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs" / "deepspeed"

SCRIPT = """
import sys, copy, json
from pathlib import Path
import torch
from torch import nn
from data_utils.errors import UserError
from distillm.arguments import TrainingArguments
from distillm.training.deepspeed_engine import DeepSpeedEngine, load_config
from distillm.distributed import World
from distillm.training.engine import NonFiniteError, TorchEngine

world = World(0, 1, torch.device("cpu"))
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2))

def options(path):
    batch = dict(batch_size=4, gradient_accumulation_steps=2)
    return TrainingArguments(save="x", deepspeed=True, deepspeed_config=path, **batch)

def make(path):
    if path is None:
        return TorchEngine(copy.deepcopy(model), 0.1, 1.0, "fp32", world)
    return DeepSpeedEngine(copy.deepcopy(model), 0.1, load_config(options(path), "fp32"), world)

def advance(engine, first, last, scale=1.0):
    norms = []
    for step in range(first, last):
        inputs = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(step))
        for half in inputs:
            engine.backward(scale * 100 * engine.module(half).square().sum() / 8)
        norms.append(float(engine.step(0.01 * (step + 1))))
    return norms

def weights(engine, folder):
    engine.module.save_pretrained = lambda folder: torch.save(engine.module.state_dict(), folder / "weights")
    folder.mkdir()
    engine.export(folder)
    return {name: p.flatten().tolist() for name, p in torch.load(folder / "weights", weights_only=True).items()}

def report(path, folder):
    engine = make(path)
    result = {"norms": advance(engine, 0, 3)}
    folder.mkdir()
    engine.save_state(folder)
    result["weights"] = weights(engine, folder / "saved")
    advance(engine, 3, 5)
    again = make(path)
    again.load_state(folder)
    advance(again, 3, 5)
    result |= {"uninterrupted": weights(engine, folder / "end"), "resumed": weights(again, folder / "again")}
    try:
        advance(engine, 5, 6, scale=float("nan"))
    except NonFiniteError as error:
        result |= {"refusal": str(error), "after the refusal": weights(engine, folder / "refused")}
    return result

def go_on(path, folder):
    try:
        make(path).load_state(folder)
    except UserError as error:
        return str(error)

folder, paths = Path(sys.argv[1]), sys.argv[2:]
reports = [report(path or None, folder / str(index)) for index, path in enumerate(["", *paths])]
reports[1]["elsewhere"] = [go_on(path, folder / "1") for path in paths]
print(json.dumps(reports))
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What plain torch, the shipped configurations and ZeRO 0 did, by name; ZeRO 3 shards even the smallest weight."""
    folder = tmp_path_factory.mktemp("engines")
    configs = {path.name: json.loads(path.read_text()) for path in sorted(CONFIGS.glob("*.json"))}
    configs["ZeRO 0"] = {**configs["ds_config.json"], "zero_optimization": {"stage": 0}}
    configs["ds_config_zero3.json"]["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    for name, config in configs.items():
        (folder / f"{name}.config").write_text(json.dumps(config))
    paths = [str(folder / f"{name}.config") for name in configs]
    command = [sys.executable, "-c", SCRIPT, str(folder), *paths]
    with socket.socket() as other_run:
        other_run.bind(("127.0.0.1", 0))
        other_run.listen()
        port = str(other_run.getsockname()[1])
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_PORT": port}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return dict(zip(["torch", *configs], json.loads(result.stdout.strip().splitlines()[-1]), strict=True))


def test_bug_a_run_in_one_process_needed_the_port_that_another_run_had(reports):
    assert reports["ds_config.json"]["norms"]


EVERY_STAGE = ["ZeRO 0", "ds_config.json", "ds_config_zero2.json", "ds_config_zero3.json"]


@pytest.mark.parametrize("name", EVERY_STAGE)
def test_deepspeed_takes_the_steps_of_plain_torch_and_resumes_exactly(name, reports):
    """Bug: ZeRO 3 kept only the last micro-batch of a step, and ZeRO 0 reported a gradient norm of 0."""
    plain, deep = reports["torch"], reports[name]
    assert deep["norms"] == pytest.approx(plain["norms"], rel=1e-5)
    for parameter, values in plain["weights"].items():
        assert deep["weights"][parameter] == pytest.approx(values, rel=1e-5, abs=1e-6)
    assert deep["resumed"] == deep["uninterrupted"]
    assert deep["resumed"] != deep["weights"]


def test_bug_a_checkpoint_of_another_stage_was_refused_without_saying_why(reports):
    stages = dict(zip(list(reports)[1:], reports["ds_config.json"]["elsewhere"], strict=True))
    assert stages["ds_config.json"] is None and stages["ds_config_zero2.json"] is None
    for name, stage in (("ds_config_zero3.json", 3), ("ZeRO 0", 0)):
        assert f"saved with ZeRO 1, but --deepspeed_config asks for ZeRO {stage}: continue with ZeRO 1" in stages[name]


@pytest.mark.parametrize("name", EVERY_STAGE)
def test_a_gradient_that_is_not_finite_is_an_error_at_every_stage_and_changes_no_weight(name, reports):
    assert reports[name]["refusal"] == reports["torch"]["refusal"] == "the gradient is not finite"
    assert reports[name]["after the refusal"] == reports[name]["uninterrupted"]


def with_config(path: Path, **options) -> TrainingArguments:
    batch = {"batch_size": 4, "gradient_accumulation_steps": 2}
    return TrainingArguments(save="x", deepspeed=True, deepspeed_config=str(path), **batch, **options)


def test_every_auto_is_filled_in_from_the_options():
    config = load_config(with_config(CONFIGS / "ds_config.json", clip_grad=0.5), "bf16")
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (4, 2)
    assert config["gradient_clipping"] == 0.5
    assert (config["bf16"]["enabled"], config["fp16"]["enabled"]) == (True, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not JSON"), ('{"optimizer": {}}', "sets an optimizer"), ('{"gradient_clipping": 3}', "make them agree")],
)
def test_a_configuration_that_contradicts_the_options_is_refused(text, words, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        load_config(with_config(path), "fp32")


def test_bug_python_before_3_11_4_wrote_checkpoints_that_the_safe_reader_refused(monkeypatch):
    """It pickles an enumeration as a call of `getattr`; Debian 12 has such a Python."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    from deepspeed.runtime.zero.config import ZeroStageEnum

    old_python = lambda stage, protocol: (getattr, (ZeroStageEnum, stage.name))  # noqa: E731
    monkeypatch.setattr(ZeroStageEnum, "__reduce_ex__", old_python)
    stage = ZeroStageEnum.gradients
    assert b"getattr" in pickle.dumps(stage)
    refuse_pickled_code()
    assert b"getattr" not in pickle.dumps(stage)
    assert pickle.loads(pickle.dumps(stage)) is stage
