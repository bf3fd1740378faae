"""What a run in bf16 promises (docs/guarantees.md), on CPUs that compute it."""

import finetune
from distillm.distributed import World
from distillm.models.generation import ResponseGenerator
from distillm.training.trainer import Trainer
from tests.entry.curves import curve_deviation, steady_run, tensor_deviation
from tests.precision import needs_bf16
from tools import generate_responses

pytestmark = needs_bf16
BF16 = ["--precision", "bf16"]
GRADIENT, LOSS = 1e-2, 2e-3  # relative; largest measured, over all methods: 4e-3 and 5e-4


def test_a_killed_run_that_is_run_again_ends_bitwise_like_an_uninterrupted_one(
    world, call_script, run_killed, contents, tmp_path
):
    def options(save):
        return world.training(save, *BF16, "--total-iters", 10, "--save-interval", 4, type="adaptive-srkl-contra")

    def result(save):
        return {name: data for name, data in contents(save).items() if name not in ("args.json", "training.log")}

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call_script(finetune.main, options(whole)) == 0
    run_killed(finetune.main, options(killed), Trainer, "_train_step", 10)
    assert call_script(finetune.main, options(killed)) == 0
    assert result(killed) == result(whole)


def test_bug_responses_of_a_run_killed_while_it_wrote_differed_from_those_of_an_uninterrupted_one(
    world, call_script, run_killed, tmp_path
):
    """The rows after the torn one came into other batches."""

    def options(output):
        words = ["--data", world.data / "dolly" / "train.jsonl", "--model-path", world.student, "--output", output]
        return [*words, *BF16, "--eval-batch-size", 2, "--max-prompt-length", 48, "--max-new-tokens", 16]

    whole, killed, partial = (tmp_path / name for name in ("whole", "killed", "killed.partial"))
    assert call_script(generate_responses.main, options(whole)) == 0
    run_killed(generate_responses.main, options(killed), ResponseGenerator, "respond", 3)
    partial.write_bytes(partial.read_bytes()[:-9])
    assert call_script(generate_responses.main, options(killed)) == 0
    assert killed.read_bytes() == whole.read_bytes()


def test_without_generated_rows_another_split_of_a_step_agrees_to_the_rounding_of_bf16(
    world, call_script, run_on_two, read_log, monkeypatch, tmp_path
):
    gradients, sum_gradients = [], World.sum_gradients

    def keep(self, parameters):
        sum_gradients(self, parameters)
        gradients.append({str(index): p.grad.clone() for index, p in enumerate(parameters) if p.grad is not None})

    def losses(save):
        return [{key: value for key, value in record.items() if key.endswith("loss")} for record in read_log(save)]

    monkeypatch.setattr(World, "sum_gradients", keep)
    firsts = []
    for processes, accumulation in ((1, 1), (1, 4), (2, 1)):
        save = tmp_path / f"{processes} {accumulation}"
        more = [*BF16, "--total-iters", 4]
        options = steady_run(world, tmp_path, "rkl-contra-fdd", save, processes, accumulation, more)
        gradients.clear()
        if processes == 1:
            assert call_script(finetune.main, options) == 0
            firsts.append(gradients[0])
        else:
            run_on_two(finetune.main, options)
        assert curve_deviation(losses(tmp_path / "1 1"), losses(save)) < LOSS
    assert 0 < tensor_deviation(*firsts) < GRADIENT
