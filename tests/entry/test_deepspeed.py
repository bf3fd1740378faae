"""DeepSpeed at every stage of ZeRO, on one process and two: the curve of plain torch, resumed, exported whole."""

import json
import os
from unittest import mock

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import finetune
from distillm import token_losses
from tests.entry.curves import SAME_CURVE, curve_deviation, end_responses_at_random, steady_run, tensor_deviation
from tests.entry.every_method import METHODS
from tests.entry.outputs import read_log, saved_step
from tests.entry.processes import ROOT, at_call, call, run_on

CONFIGS = ROOT / "configs" / "deepspeed"
SHIPPED = {0: "ds_config.json", 1: "ds_config.json", 2: "ds_config_zero2.json", 3: "ds_config_zero3.json"}
# A checkpoint is written in the second epoch, after everything that happens between epochs.
SAVED, STEPS = 4, 5
LENGTH = ["--total-iters", STEPS, "--save-interval", SAVED, "--eval-interval", STEPS]


@pytest.fixture(scope="module", autouse=True)
def deepspeed_imported():
    """Import it once: the tests run in forks of this process, and the import takes seconds."""
    with mock.patch.dict(os.environ, {"DS_ACCELERATOR": "cpu"}):
        import deepspeed

        yield deepspeed


@pytest.fixture
def config(tmp_path):
    """Return the options for a stage: the shipped file, but ZeRO 3 shards even the smallest weight."""

    def write(stage):
        settings = json.loads((CONFIGS / SHIPPED[stage]).read_text())
        assert settings["zero_optimization"]["stage"] == max(stage, 1)
        settings["zero_optimization"]["stage"] = stage
        if stage == 3:
            settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        path = tmp_path / f"zero_{stage}.json"
        path.write_text(json.dumps(settings))
        return ["--deepspeed", "--deepspeed_config", path]

    return write


def run_until(micro_batch, processes, options):
    """Run `finetune.py` until a micro-batch; no process gets a chance to clean up."""
    with at_call(torch.Tensor, "backward", micro_batch, lambda: os._exit(0)):
        run_on(processes, finetune.main, options)


def final_weights(save):
    (path,) = [*save.glob("model.safetensors"), *save.glob("adapter_model.safetensors")]
    return load_file(path)


def assert_loads(world, save):
    """Load the result as a user would, nothing missing and nothing of another shape."""
    if (save / "adapter_config.json").exists():
        base = AutoModelForCausalLM.from_pretrained(world.llama)
        parameters = PeftModel.from_pretrained(base, save).get_base_model().named_parameters()
        adapted = {name: p for name, p in parameters if "lora_" in name}
        assert adapted and all(p.numel() and float(p.detach().norm()) > 0 for p in adapted.values())
        return
    _, report = AutoModelForCausalLM.from_pretrained(save, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"] and not report["unexpected_keys"]


@pytest.fixture
def compare(world, pairs, config, tmp_path, record_property, monkeypatch):
    """Train plain, then with DeepSpeed, cut off and resumed; the curves and weights must be the same."""

    def run_both(name, stage, processes, more=(), resume=True):
        # So few tokens per chunk that one rank needs more chunks than the other.
        monkeypatch.setattr(token_losses, "CHUNK_ELEMENTS", 12 * 400)
        end_responses_at_random(monkeypatch)
        plain, deep, options = tmp_path / "plain", tmp_path / "deep", [*LENGTH, *more]
        assert call(finetune.main, steady_run(world, pairs, name, plain, 1, 2, options)) == 0
        with_deepspeed = steady_run(world, pairs, name, deep, processes, 2, [*options, *config(stage)])
        if resume:
            refreshed = 2 * 3 if "contra" in name else 0  # micro-batches of the field, after the first epoch
            run_until(2 * SAVED + refreshed + 1, processes, with_deepspeed)
            assert saved_step(deep) == SAVED
        run_on(processes, finetune.main, with_deepspeed)
        curve = curve_deviation(read_log(plain), read_log(deep))
        weights = tensor_deviation(final_weights(plain), final_weights(deep))
        record_property("deviations", f"curve {curve:.1e}, weights {weights:.1e}")
        assert curve < SAME_CURVE and weights < SAME_CURVE
        assert_loads(world, deep)

    return run_both


@pytest.mark.parametrize(("name", "stage", "processes"), [("lm with LoRA", 1, 2), ("kd", 2, 2), ("lm with LoRA", 3, 1)])
def test_a_resumed_run_has_the_curve_and_the_weights_of_plain_torch(name, stage, processes, compare):
    compare(name, stage, processes)


def test_two_processes_generate_and_refresh_under_zero_3_as_one_does(compare):
    more = ["--total-iters", 4, "--eval-interval", 4, "--max-prompt-length", 54, "--eval-gen", "--dev-num", 2]
    compare("adaptive-srkl-contra", 3, 2, more, resume=False)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", SHIPPED)
@pytest.mark.parametrize("name", ["adaptive-srkl-contra", "lm with LoRA", "adaptive-srkl with LoRA"])
def test_every_stage_has_the_curve_and_the_weights_of_plain_torch(name, stage, processes, compare):
    compare(name, stage, processes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, ["--eval-gen"]) for name in METHODS),
        *((name, ["--gradient-checkpointing"]) for name in ("lm", "adaptive-srkl with LoRA")),
    ],
)
def test_every_method_has_the_curve_and_the_weights_of_plain_torch_under_zero_3(name, more, compare):
    compare(name, 3, 2, more)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_run_goes_on_with_another_number_of_processes_unless_its_optimiser_lies_in_shards(
    stage, world, pairs, config, capfd, tmp_path
):
    plain, deep, more = tmp_path / "plain", tmp_path / "deep", ["--total-iters", 2, "--save-interval", 1]
    alone = steady_run(world, pairs, "kd", deep, 1, 1, [*more, *config(stage)])
    run_until(2, 2, steady_run(world, pairs, "kd", deep, 2, 1, [*more, *config(stage)]))
    if stage == 0:
        run_on(1, finetune.main, alone)
        assert call(finetune.main, steady_run(world, pairs, "kd", plain, 1, 1, more)) == 0
        assert curve_deviation(read_log(plain), read_log(deep)) < SAME_CURVE
        return
    run_on(1, finetune.main, alone, status=1)
    assert "was saved by 2 processes, but this run has 1: with ZeRO 1" in capfd.readouterr().err


def test_bug_a_configuration_that_deepspeed_refuses_ended_in_a_traceback(world, pairs, capfd, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 9}}))
    config = ["--deepspeed", "--deepspeed_config", path]
    run_on(1, finetune.main, steady_run(world, pairs, "lm", tmp_path / "run", 1, 1, config), status=1)
    said = capfd.readouterr().err
    assert "the DeepSpeed configuration: " in said and "stage Input should be 0, 1, 2" in said
    assert "Traceback" not in said and not (tmp_path / "run").exists()


def test_zero_3_refuses_to_log_the_gradients_that_it_scatters(world, pairs, config, capfd, tmp_path):
    options = steady_run(world, pairs, "kd", tmp_path / "run", 1, 1, [*config(3), "--log-term-gradients"])
    run_on(1, finetune.main, options, status=1)
    assert "--log-term-gradients needs whole gradients" in capfd.readouterr().err
