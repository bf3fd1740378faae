"""DeepSpeed behind the engine's interface takes the same steps as plain torch: one process, on the CPU.

It runs in a process of its own, because it joins a process group."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from data_utils.errors import UserError
from distillm.deepspeed_engine import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "deepspeed"

SCRIPT = """
import sys, copy, json
from pathlib import Path
import torch
from torch import nn
from distillm.deepspeed_engine import DeepSpeedEngine, load_config
from distillm.distributed import World
from distillm.engine import TorchEngine

folder = Path(sys.argv[1])
world = World(0, 1, torch.device("cpu"))
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2))
config = load_config(sys.argv[2], 4, 2, 1.0, "fp32", world.size)
make = lambda name: (
    TorchEngine(copy.deepcopy(model), 0.1, 1.0, "fp32", world) if name == "torch"
    else DeepSpeedEngine(copy.deepcopy(model), 0.1, copy.deepcopy(config), world)
)

def advance(engine, first, last):
    norms = []
    for step in range(first, last):
        inputs = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(step))
        for half in inputs:
            engine.backward(100 * engine.module(half).square().sum() / 8)
        norms.append(float(engine.step(0.01 * (step + 1))))
    return norms

def weights(engine):
    return {name: p.detach().flatten().tolist() for name, p in engine.module.named_parameters()}

plain, deep = make("torch"), make("deepspeed")
report = {"plain_norms": advance(plain, 0, 3), "deep_norms": advance(deep, 0, 3)}
deep.save_state(folder)
report |= {"plain": weights(plain), "deep": weights(deep)}
advance(deep, 3, 5)
again = make("deepspeed")
again.load_state(folder)
advance(again, 3, 5)
report |= {"uninterrupted": weights(deep), "resumed": weights(again)}
print(json.dumps(report))
"""


@pytest.mark.parametrize("name", ["ds_config.json", "ds_config_zero2.json"])
def test_deepspeed_takes_the_steps_of_plain_torch_and_resumes_exactly(name, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(CONFIGS / name)]
    result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout.strip().splitlines()[-1])
    assert report["deep_norms"] == pytest.approx(report["plain_norms"], rel=1e-5)
    for parameter, values in report["plain"].items():
        assert report["deep"][parameter] == pytest.approx(values, rel=1e-5, abs=1e-6)
    assert report["resumed"] == report["uninterrupted"]
    assert report["resumed"] != report["deep"]


def environment() -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}


def test_every_auto_is_filled_in_from_the_options():
    config = load_config(str(CONFIGS / "ds_config.json"), 4, 2, 0.5, "bf16", 1)
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (4, 2)
    assert config["gradient_clipping"] == 0.5
    assert (config["bf16"]["enabled"], config["fp16"]["enabled"]) == (True, False)


def test_zero_3_on_several_processes_is_refused_because_generation_would_hang():
    path = str(CONFIGS / "ds_config_zero3.json")
    load_config(path, 4, 1, 1.0, "fp32", 1)
    with pytest.raises(UserError, match="ZeRO 3 on 2 processes"):
        load_config(path, 4, 1, 1.0, "fp32", 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not JSON"), ('{"optimizer": {}}', "sets an optimizer"), ('{"gradient_clipping": 3}', "make them agree")],
)
def test_a_configuration_that_contradicts_the_options_is_refused(text, words, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        load_config(str(path), 4, 1, 1.0, "fp32", 1)
