"""What only a GPU can show of training: CUDA, fp16, bf16, NCCL, and DeepSpeed's own kernels and optimisers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.entry.curves import SAME_CURVE, curve_deviation, steady_run, tensor_deviation
from tests.gpu.conftest import ROOT

CONFIGS = ["ds_config.json", "ds_config_zero2.json", "ds_config_zero3.json"]
MANY = ["adaptive-srkl-contra", "srkl-fdd", "distillm2-v2-contra", "adaptive-srkl with LoRA"]
STEPS = ["--total-iters", 6]
# Largest deviation of a loss from fp32's; 8 and 11 bits of mantissa over a few steps.
ROUNDED = {"bf16": 5e-2, "fp16": 1e-2}


@pytest.fixture
def train(world, pairs, launch, read_log, tmp_path):
    """Train a method with 2 micro-batches per step; return its log and its save folder."""

    def run(title, name, gpus, *more):
        save = tmp_path / title
        options = steady_run(world, pairs, name, save, max(1, gpus), 2, [*STEPS, *more])
        launch("finetune.py", options, gpus)
        return read_log(save), save

    return run


@pytest.fixture
def config(tmp_path):
    """Return the options for a shipped configuration; ZeRO 3 shards even the smallest weight."""

    def write(name):
        settings = json.loads((ROOT / "configs" / "deepspeed" / name).read_text())
        if settings["zero_optimization"]["stage"] == 3:
            settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        path = tmp_path / name
        path.write_text(json.dumps(settings))
        return ["--deepspeed", "--deepspeed_config", path]

    return write


def losses(log):
    return torch.tensor([record["loss"] for record in log if "loss" in record])


def weights(save):
    (path,) = [*save.glob("model.safetensors"), *save.glob("adapter_model.safetensors")]
    return load_file(path)


@pytest.mark.parametrize("name", MANY)
def test_a_gpu_in_fp32_has_the_curve_of_the_cpu(name, train):
    """Only off-policy steps are compared to the end: a generated token may differ where two logits tie."""
    on_cpu, on_gpu = (losses(train(str(gpus), name, gpus)[0]) for gpus in (0, 1))
    same = slice(0, 1) if name.startswith(("adaptive", "distillm2")) else slice(None)
    torch.testing.assert_close(on_gpu[same], on_cpu[same], rtol=SAME_CURVE, atol=0)


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("name", ["srkl-fdd", "kd"])
def test_low_precision_follows_fp32(name, precision, train):
    full, low = (losses(train(word, name, 1, "--precision", word)[0]) for word in ("fp32", precision))
    torch.testing.assert_close(low, full, rtol=ROUNDED[precision], atol=0)


@pytest.mark.parametrize("precision", ["fp32", *ROUNDED])
@pytest.mark.parametrize("name", CONFIGS)
def test_deepspeed_has_the_curve_of_plain_torch(name, precision, train, config):
    """In fp16 DeepSpeed may skip its first steps while its loss scale settles."""
    plain, _ = train("plain", "srkl-fdd", 1, "--precision", precision)
    deep, save = train("deep", "srkl-fdd", 1, "--precision", precision, *config(name))
    tolerance = ROUNDED.get(precision, SAME_CURVE)
    torch.testing.assert_close(losses(deep), losses(plain), rtol=tolerance, atol=0)
    assert all(tensor.isfinite().all() for tensor in weights(save).values())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("engine", [None, *CONFIGS])
def test_two_gpus_have_the_curve_of_one(engine, name, train, config):
    more = config(engine) if engine else []
    (one, first), (two, second) = (train(str(gpus), name, gpus, *more) for gpus in (1, 2))
    assert curve_deviation(one, two) < SAME_CURVE
    assert tensor_deviation(weights(first), weights(second)) < SAME_CURVE
