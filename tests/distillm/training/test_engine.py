import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from distillm.arguments import DECAY_STYLES
from distillm.distributed import World
from distillm.models.adapters import add_lora
from distillm.models.precision import autocast, resolve_precision
from distillm.training.engine import MAX_SKIPPED, NonFiniteError, TorchEngine, parameter_groups
from distillm.training.schedule import learning_rate
from tests.distillm.tiny import ALONE, make_batch, make_llama, make_rows

CPU = torch.device("cpu")


def make_engine(model=None, decay=0.0, clip=0.0, precision="fp32", world=ALONE, seed=0) -> TorchEngine:
    torch.manual_seed(seed)
    return TorchEngine(model or nn.Linear(3, 2), decay, clip, precision, world)


def take_steps(engine: TorchEngine, count: int, seed: int = 5) -> None:
    for step in range(count):
        torch.manual_seed(seed + step)
        engine.backward(engine.module(torch.randn(4, 3)).square().mean())
        engine.step(0.01)


def state_of(engine: TorchEngine) -> dict[str, torch.Tensor]:
    """Return copies of all weights and of the optimiser's state."""
    states = engine.optimizer.state_dict()["state"].items()
    optimizer = {f"{index}.{name}": tensor for index, state in states for name, tensor in state.items()}
    return {name: tensor.clone() for name, tensor in {**engine.module.state_dict(), **optimizer}.items()}


def assert_bitwise(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_weight_matrices_decay_and_biases_and_norm_weights_do_not(student_model):
    """Decided by the module that holds a parameter: every Linear, Conv1D and Embedding weight decays."""
    decays, stays = (set(map(id, group["params"])) for group in parameter_groups(student_model, 0.01))
    rates = [group["weight_decay"] for group in parameter_groups(student_model, 0.01)]
    assert rates == [0.01, 0.0]
    for module in student_model.modules():
        is_norm = "Norm" in type(module).__name__
        for name, parameter in module.named_parameters(recurse=False):
            assert (id(parameter) in (stays if is_norm or name == "bias" else decays)) and parameter.requires_grad
    assert decays and stays and not decays & stays
    assert decays | stays == set(map(id, student_model.parameters()))


def test_only_trainable_parameters_are_optimised():
    model = add_lora(make_llama(16, 2), 4, 16, 0.0)
    matrices, vectors = parameter_groups(model, 0.01)
    assert len(matrices["params"]) == 2 * 2 * 2 and not vectors["params"]


def test_a_step_is_that_of_adamw():
    engine, reference = make_engine(decay=0.1), make_engine()
    reference_weight = reference.module.weight.detach().double().requires_grad_()
    optimizer = torch.optim.AdamW([reference_weight], lr=0.01, weight_decay=0.1, fused=False)
    for seed in range(3):
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        (inputs.double() @ reference_weight.T).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        engine.backward((inputs @ engine.module.weight.T).square().sum())
        engine.step(0.01)
    torch.testing.assert_close(engine.module.weight.double(), reference_weight, rtol=1e-5, atol=1e-6)


def test_weight_decay_shrinks_the_matrix_and_not_the_bias():
    engine = make_engine(decay=0.5)
    weight, bias = engine.module.weight.clone(), engine.module.bias.clone()
    engine.backward(0.0 * (engine.module.weight.sum() + engine.module.bias.sum()))
    engine.step(0.1)
    torch.testing.assert_close(engine.module.weight, weight * (1 - 0.1 * 0.5))
    assert torch.equal(engine.module.bias, bias)


def test_each_step_uses_the_learning_rate_it_is_given():
    engine = make_engine()
    for rate in (0.01, 0.002):
        before = engine.module.bias.clone()
        engine.backward(engine.module.bias.sum())
        engine.step(rate)
        torch.testing.assert_close(before - engine.module.bias, torch.full((2,), rate))
        assert {group["lr"] for group in engine.optimizer.param_groups} == {rate}


@pytest.mark.parametrize(("clip", "expected"), [(1.0, 1.0), (100.0, 50.0), (0.0, 50.0)])
def test_the_gradient_is_clipped_to_its_norm_and_the_norm_before_is_returned(clip, expected, monkeypatch):
    engine = make_engine(clip=clip)
    seen = {}
    monkeypatch.setattr(
        engine.optimizer, "step", lambda: seen.update(grad=[p.grad.clone() for p in engine.module.parameters()])
    )
    direction = torch.tensor([30.0, 40.0])
    engine.backward(engine.module.bias @ direction + 0 * engine.module.weight.sum())
    assert engine.step(0.01).item() == pytest.approx(50.0)
    weight, bias = seen["grad"]
    torch.testing.assert_close(bias, direction * expected / 50, rtol=1e-4, atol=0)
    assert weight.eq(0).all()


def test_the_gradients_of_micro_batches_are_summed_and_gone_after_the_step():
    engine = make_engine()
    for factor in (1.0, 2.0):
        engine.backward(factor * engine.module.bias.sum())
    assert engine.module.bias.grad.tolist() == [3.0, 3.0]
    engine.step(0.01)
    assert all(parameter.grad is None for parameter in engine.module.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_raises_before_anything_changes(value):
    engine = make_engine(clip=1.0)
    take_steps(engine, 1)
    before = state_of(engine)
    engine.backward(engine.module.weight.sum() + engine.module.bias[0] * value)
    with pytest.raises(NonFiniteError):
        engine.step(0.01)
    assert_bitwise(state_of(engine), before)


def test_gradients_are_summed_over_ranks_and_a_missing_one_counts_as_zero(on_ranks):
    alone = make_engine()
    models = [copy.deepcopy(alone.module) for _ in range(2)]

    def as_rank(world: World):
        engine = TorchEngine(models[world.rank], 0.0, 0.0, "fp32", world)
        engine.backward(engine.module.bias.sum() if world.rank else (2 * engine.module.weight).sum())
        norm = engine.step(0.01)
        return norm.item(), engine.module.weight.tolist(), engine.module.bias.tolist()

    alone.backward(alone.module.bias.sum() + (2 * alone.module.weight).sum())
    expected = alone.step(0.01).item(), alone.module.weight.tolist(), alone.module.bias.tolist()
    assert on_ranks(2, as_rank) == [expected, expected]


@pytest.mark.parametrize("steps", [0, 3])
def test_a_restored_engine_goes_on_bitwise(steps, tmp_path):
    engine, restored = make_engine(clip=1.0, decay=0.1), make_engine(clip=1.0, decay=0.1, seed=9)
    take_steps(engine, steps)
    engine.save_state(tmp_path)
    take_steps(restored, 1)
    restored.load_state(tmp_path)
    for one in (engine, restored):
        take_steps(one, 4, seed=50)
    assert_bitwise(state_of(restored), state_of(engine))


def test_a_restored_model_with_tied_weights_goes_on_bitwise(student_model, tmp_path):
    batch = make_batch(make_rows(4))

    def train(engine, steps):
        for _ in range(steps):
            engine.backward(engine.module(input_ids=batch.input_ids).logits.square().mean())
            engine.step(0.01)

    engine = make_engine(student_model, decay=0.1)
    train(engine, 2)
    engine.save_state(tmp_path)
    train(engine, 2)
    expected = state_of(engine)
    engine.load_state(tmp_path)
    train(engine, 2)
    assert_bitwise(state_of(engine), expected)


def test_only_what_trains_is_saved(tmp_path):
    engine = make_engine(add_lora(make_llama(16, 2), 4, 16, 0.0))
    engine.save_state(tmp_path)
    assert all("lora_" in name for name in load_file(tmp_path / "weights.safetensors"))


def test_the_state_of_another_model_is_refused(tmp_path):
    make_engine().save_state(tmp_path)
    with pytest.raises(ValueError, match="another model"):
        make_engine(nn.Sequential(nn.Linear(3, 2))).load_state(tmp_path)


def test_the_loss_scaler_is_part_of_the_state(tmp_path):
    make_engine(precision="fp16").save_state(tmp_path)
    assert json.loads((tmp_path / "scaler.json").read_text())["scale"] == 65536.0


def test_an_exported_model_loads_by_itself(student_model, tmp_path):
    make_engine(student_model).export(tmp_path)
    loaded = type(student_model).from_pretrained(tmp_path)
    assert_bitwise(loaded.state_dict(), student_model.state_dict())


def test_precision_follows_the_hardware(monkeypatch):
    def resolved(precision, device=CPU, avx=False, amx=False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        return resolve_precision(precision, device)

    assert resolved("auto") == "fp32"
    assert resolved("auto", avx=True) == resolved("auto", amx=True) == "bf16"
    assert resolved("bf16") == "bf16" and resolved("fp32", avx=True) == "fp32"
    assert resolved("fp16") == "fp32"  # which no CPU supports
    cuda = torch.device("cuda", 0)
    for capability, expected in (((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, value=capability: value)
        assert resolved("auto", cuda) == expected
    assert resolved("fp16", cuda) == "fp16"


def test_autocast_is_off_in_fp32_and_on_in_bf16():
    with autocast("fp32", CPU):
        assert not torch.is_autocast_enabled("cpu")
    with autocast("bf16", CPU):
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


PEAK, MINIMUM, TOTAL, WARMUP = 1e-3, 1e-5, 110, 10
REMAINING = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "noam": lambda done: (1 - done) ** 0.5,
}


@pytest.mark.parametrize("style", DECAY_STYLES)
@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_the_learning_rate_of_every_step_follows_the_formula(style, warmup):
    for step in range(1, TOTAL + 1):
        found = learning_rate(step, TOTAL, PEAK, MINIMUM, warmup, style)
        if step <= warmup:
            assert found == pytest.approx(PEAK * step / warmup)
        else:
            done = (step - 1 - warmup) / (TOTAL - warmup)
            assert found == pytest.approx(MINIMUM + (PEAK - MINIMUM) * REMAINING[style](done))


@pytest.mark.parametrize("style", DECAY_STYLES)
def test_a_schedule_shorter_than_its_warmup_only_rises(style):
    rates = [learning_rate(step, 5, PEAK, MINIMUM, 10, style) for step in range(1, 6)]
    assert rates == sorted(rates) and rates[-1] == pytest.approx(PEAK / 2)


def test_the_published_schedule_starts_at_the_peak_and_ends_near_the_minimum():
    assert learning_rate(1, 1000, 5e-4, 1e-7, 0, "cosine") == 5e-4
    assert learning_rate(501, 1000, 5e-4, 1e-7, 0, "cosine") == pytest.approx((5e-4 + 1e-7) / 2)
    assert learning_rate(1000, 1000, 5e-4, 1e-7, 0, "cosine") == pytest.approx(1e-7, rel=0.02)


def test_fp16_skips_single_overflows_and_stops_a_run_that_only_overflows():
    engine = make_engine(precision="fp16")
    before = {name: tensor.clone() for name, tensor in engine.module.state_dict().items()}
    for _ in range(2):
        for _ in range(MAX_SKIPPED):
            engine.backward(engine.module(torch.ones(1, 3)).sum() * math.inf)
            engine.step(0.01)
        assert_bitwise(engine.module.state_dict(), before)
        take_steps(engine, 1)  # a good step resets the count
        before = {name: tensor.clone() for name, tensor in engine.module.state_dict().items()}
    with pytest.raises(NonFiniteError):
        for _ in range(MAX_SKIPPED + 1):
            engine.backward(engine.module(torch.ones(1, 3)).sum() * math.inf)
            engine.step(0.01)
