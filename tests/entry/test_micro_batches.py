"""How a step is split into micro-batches changes neither its gradient nor the curve."""

import pytest

import finetune
from distillm.distributed import World
from tests.entry.curves import SAME_CURVE, SAME_GRADIENT, curve_deviation, steady_run, tensor_deviation
from tests.entry.every_method import METHODS, make_pairs

SPLITS = (1, 2, 4)


@pytest.fixture(scope="module")
def pairs(world, tmp_path_factory, call_script):
    return make_pairs(world, tmp_path_factory.mktemp("pairs"), call_script)


@pytest.fixture
def compare(world, pairs, call_script, read_log, tmp_path, record_property, monkeypatch):
    """Train a method with 1, 2 and 4 micro-batches a step, its 8 rows being the same."""
    gradients = []

    def keep(self, parameters):
        gradients.append({str(index): p.grad.clone() for index, p in enumerate(parameters) if p.grad is not None})

    monkeypatch.setattr(World, "sum_gradients", keep)  # of one process there is nothing to sum

    def run_all(name, steps):
        first_gradients, logs = [], []
        for accumulation in SPLITS:
            gradients.clear()
            save = tmp_path / str(accumulation)
            options = steady_run(world, pairs, name, save, 1, accumulation, ["--total-iters", steps])
            assert call_script(finetune.main, options) == 0
            first_gradients.append(gradients[0])
            logs.append(read_log(save))
        gradient = max(tensor_deviation(first_gradients[0], other) for other in first_gradients[1:])
        curve = max(curve_deviation(logs[0], other) for other in logs[1:])
        record_property("deviations", f"gradient {gradient:.1e}, curve {curve:.1e}")
        assert gradient < SAME_GRADIENT and curve < SAME_CURVE

    return run_all


@pytest.mark.parametrize("name", ["adaptive-srkl-contra", "srkl-fdd", "lm with LoRA"])
def test_one_two_and_four_micro_batches_give_the_same_gradient_and_losses(name, compare):
    compare(name, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_one_two_and_four_micro_batches_have_the_same_curve_over_20_steps(name, compare):
    compare(name, 20)
