"""One, two and four processes do the same: the same rows, gradients, curves and answers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import evaluate
import finetune
import train_velocity_field
from contra.training import FieldTrainer
from data_utils.files import write_json
from distillm.distributed import World
from distillm.models.generation import KeyedSampling
from tests.entry.answers import answers, differing_rows
from tests.entry.curves import (
    SAME_CURVE,
    SAME_GRADIENT,
    STEPS_PER_EPOCH,
    curve_deviation,
    end_responses_at_random,
    steady_run,
    tensor_deviation,
)
from tests.entry.every_method import METHODS, make_pairs

ROOT = Path(__file__).resolve().parents[2]
WITH_ANSWERS = ["--eval-gen"]


@pytest.fixture(scope="module")
def pairs(world, tmp_path_factory, call_script):
    return make_pairs(world, tmp_path_factory.mktemp("pairs"), call_script)


@pytest.fixture
def record(monkeypatch, tmp_path):
    """Write down the rows of every step, generated ones included, and the first gradient; files a name and rank."""
    prepare_rows, sum_gradients = finetune.Trainer.prepare, World.sum_gradients

    def start(name):
        steps = []

        def prepare(trainer, step):
            micro_batches = prepare_rows(trainer, step)
            steps.append(sorted(row for micro_batch in micro_batches for row in rows_of(micro_batch)))
            write_json(tmp_path / f"{name}-{trainer.world.rank}.json", steps)
            return micro_batches

        def sum_and_keep(self, parameters):
            sum_gradients(self, parameters)
            path = tmp_path / f"{name}.safetensors"
            if self.is_main and not path.exists():
                save_file({str(index): p.grad for index, p in enumerate(parameters) if p.grad is not None}, path)

        monkeypatch.setattr(finetune.Trainer, "prepare", prepare)
        monkeypatch.setattr(World, "sum_gradients", sum_and_keep)

    return start


def rows_of(micro_batch):
    for source, batch in micro_batch.items():
        ids = zip(batch.row_ids.tolist(), batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True)
        yield from ([source, row_id, tokens[: sum(mask)]] for row_id, tokens, mask in ids)


def read_rows(folder, name, processes):
    """Return the rows of every step, over all processes."""
    shares = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(processes)]
    return [sorted(row for rows in step for row in rows) for step in zip(*shares, strict=True)]


@pytest.fixture
def compare(world, pairs, record, run_on, call_script, read_log, tmp_path, record_property, monkeypatch):
    """Train a method on one process, then on several: rows, first gradient and curve must be the same."""

    end_responses_at_random(monkeypatch)

    def run_all(name, counts, more):
        record("1")
        options = steady_run(world, pairs, name, tmp_path / "run 1", 1, 2, more)
        assert call_script(finetune.main, options) == 0
        log, rows = read_log(tmp_path / "run 1"), read_rows(tmp_path, "1", 1)
        for count in counts:
            record(str(count))
            run_on(count, finetune.main, steady_run(world, pairs, name, tmp_path / f"run {count}", count, 2, more))
            assert read_rows(tmp_path, str(count), count) == rows
            gradients = [load_file(tmp_path / f"{number}.safetensors") for number in (1, count)]
            gradient = tensor_deviation(*gradients)
            curve = curve_deviation(log, read_log(tmp_path / f"run {count}"))
            record_property(f"{count} processes", f"gradient {gradient:.1e}, curve {curve:.1e}")
            assert gradient < SAME_GRADIENT and curve < SAME_CURVE
        return log

    return run_all


def assert_everything_occurred(name, log):
    """What the method does must have happened, else its comparison says little."""
    method, last = METHODS[name][0], [entry for entry in log if "loss" in entry][-1]
    if method.startswith("adaptive"):
        assert last["dataset_share"] > 0 and last["generated_share"] > 0 and last["replayed_share"] > 0
    if method.startswith("mixed"):
        assert last["dataset_share"] > 0 and last["mixed_share"] > 0
    assert any("velocity_field_loss" in entry for entry in log) == ("contra" in method)
    assert any("mean_rejected_length" in entry for entry in log) == method.startswith("distillm2")


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_on_the_same_rows_to_the_same_gradient_and_losses(name, compare):
    log = compare(name, [2], ["--total-iters", 4])
    assert_everything_occurred(name, log)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_one_two_and_four_processes_have_the_same_curve_over_20_steps(name, compare):
    log = compare(name, [2, 4], ["--total-iters", 20, *WITH_ANSWERS])
    assert log[-1]["step"] == 20
    assert_everything_occurred(name, log)


def test_four_processes_do_what_one_does(compare):
    assert_everything_occurred("adaptive-srkl-contra", compare("adaptive-srkl-contra", [4], ["--total-iters", 4]))


@pytest.mark.slow  # the test of two nodes starts it, too
def test_torchrun_starts_the_same_training(world, pairs, call_script, read_log, tmp_path):
    save, more = tmp_path / "two", ["--total-iters", STEPS_PER_EPOCH]
    assert call_script(finetune.main, steady_run(world, pairs, "adaptive-srkl", tmp_path / "one", 1, 2, more)) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [*launcher, "finetune.py", *steady_run(world, pairs, "adaptive-srkl", save, 2, 2, more)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    assert curve_deviation(read_log(tmp_path / "one"), read_log(save)) < SAME_CURVE
    assert (save / "finished.json").exists() and (save / "model.safetensors").exists()


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_train_the_same_velocity_field(
    processes, world, run_on, call_script, read_log, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.nn.Dropout.forward", lambda self, x: x)  # a new field has dropout
    for count in (1, processes):
        save = tmp_path / str(count)
        more = ["--precision", "fp32", "--epochs", 4, "--log-interval", 1]
        options = world.stage_1(save, *more, "--batch-size", 4 // count)
        if count == 1:
            assert call_script(train_velocity_field.main, options) == 0
        else:
            run_on(count, train_velocity_field.main, options)
    logs = [read_log(tmp_path / str(count))[:20] for count in (1, processes)]
    assert logs[0][-1]["step"] == 20 and curve_deviation(*logs) < SAME_CURVE


# ---- a run that goes on with other processes -----------------------------------------------------------------------

# Processes, micro-batches on each, and the step in which a signal stops them; 8 rows a step.
RELAY = [(1, 2, 1), (2, 2, 2), (4, 1, 4), (1, 1, None)]


@pytest.mark.parametrize("name", ["adaptive-srkl-contra", "adaptive-srkl with LoRA"])
def test_a_run_goes_on_with_another_number_of_processes_as_long_as_its_global_batch_is_the_same(
    name, world, pairs, run_on, call_script, read_log, tmp_path, monkeypatch
):
    end_responses_at_random(monkeypatch)
    whole, save, train_step = tmp_path / "whole", tmp_path / "relay", finetune.Trainer._train_step
    assert call_script(finetune.main, steady_run(world, pairs, name, whole, 1, 1)) == 0
    for processes, accumulation, stop in RELAY:

        def train_and_stop(trainer, step, stop=stop):
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return train_step(trainer, step)

        monkeypatch.setattr(finetune.Trainer, "_train_step", train_and_stop)
        options = steady_run(world, pairs, name, save, processes, accumulation)
        run_on(processes, finetune.main, options, 143 if stop else 0)
    assert curve_deviation(read_log(whole), read_log(save)) < SAME_CURVE
    (weights,) = [path.name for path in whole.glob("*model.safetensors")]
    assert tensor_deviation(load_file(whole / weights), load_file(save / weights)) < SAME_CURVE


def test_a_velocity_field_goes_on_with_another_number_of_processes(
    world, run_on, call_script, read_log, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.nn.Dropout.forward", lambda self, x: x)  # a new field has dropout
    whole, save, train_step = tmp_path / "whole", tmp_path / "relay", FieldTrainer.train_step
    steady = ["--precision", "fp32", "--log-interval", 5]
    assert call_script(train_velocity_field.main, world.stage_1(whole, *steady)) == 0
    for processes, accumulation, stop in RELAY:

        def train_and_stop(trainer, *arguments, stop=stop):
            if trainer.step + 1 == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return train_step(trainer, *arguments)

        monkeypatch.setattr(FieldTrainer, "train_step", train_and_stop)
        split = ["--batch-size", 4 // processes // accumulation, "--gradient-accumulation-steps", accumulation]
        options = world.stage_1(save, *steady, *split)
        run_on(processes, train_velocity_field.main, options, 143 if stop else 0)
    assert curve_deviation(read_log(whole), read_log(save)) < SAME_CURVE


def test_a_run_with_another_global_batch_is_refused(world, pairs, run_killed, refused, tmp_path):
    save = tmp_path / "run"
    options = steady_run(world, pairs, "lm", save, 1, 2, ["--save-interval", 1])
    run_killed(finetune.main, options, finetune.Trainer, "_train_step", 3)
    doubled = steady_run(world, pairs, "lm", save, 1, 1, ["--save-interval", 1, "--gradient-accumulation-steps", 2])
    refused(finetune.main, doubled, save, "holds a run with global batch size 8, not 16")


# ---- evaluation --------------------------------------------------------------------------------------------------

SAMPLED, GREEDY = ["--do-sample", "true"], ["--do-sample", "false"]
EVERY_SPLIT = [(batch_size, processes) for batch_size in (1, 3, 64) for processes in (1, 2, 4)]


@pytest.fixture
def evaluate_split(world, run_on, call_script, tmp_path):
    def run_split(kind, batch_size, processes):
        save = tmp_path / f"{batch_size} {processes}"
        options = world.evaluation(save, *kind, "--precision", "fp32", "--eval-batch-size", batch_size)
        if processes == 1:
            assert call_script(evaluate.main, options) == 0
        else:
            run_on(processes, evaluate.main, options)
        return answers(save)

    return run_split


@pytest.mark.parametrize("kind", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
@pytest.mark.parametrize(
    "splits", [[(1, 2), (3, 4)], pytest.param(EVERY_SPLIT, marks=pytest.mark.slow)], ids=["two splits", "every split"]
)
def test_evaluation_gives_the_same_answers_on_any_number_of_processes_in_batches_of_any_size(
    splits, kind, evaluate_split, record_property
):
    """Only a tie, up to rounding, could change a text. These models have none, so no row may be listed."""
    whole = evaluate_split(kind, 64, 1)
    assert [len(lines) for lines in whole.values()] == [6] * 4  # 2 sets, 2 seeds
    texts = {line["answer"] for lines in whole.values() for line in lines}
    assert len(texts) > 4
    for batch_size, processes in splits:
        if (batch_size, processes) != (64, 1):
            ties = differing_rows(whole, evaluate_split(kind, batch_size, processes))
            record_property(f"batch {batch_size}, {processes} processes", str(ties))
            assert not ties


def test_a_row_whose_text_differs_is_listed(evaluate_split, monkeypatch):
    """The list above would name a row, were there one: here the other split draws other numbers."""
    whole = evaluate_split(SAMPLED, 64, 1)
    choose = KeyedSampling.__call__

    def other_numbers(self, input_ids, scores):
        self.uniforms = 1 - self.uniforms
        return choose(self, input_ids, scores)

    monkeypatch.setattr(KeyedSampling, "__call__", other_numbers)
    ties = differing_rows(whole, evaluate_split(SAMPLED, 3, 2))
    assert ties and all(text != other for _, _, text, other in ties)
