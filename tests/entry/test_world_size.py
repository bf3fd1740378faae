"""However a step is split over processes and micro-batches: the same rows, gradients, curves and answers."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

import evaluate
import finetune
from distillm.models.generation import KeyedSampling
from distillm.models.split_model import SplitModel
from tests.entry.answers import answers, differing_rows
from tests.entry.curves import (
    SAME_CURVE,
    SAME_GRADIENT,
    curve_deviation,
    end_responses_at_random,
    gradients_of,
    steady_command,
    steady_run,
    tensor_deviation,
    without_dropout,
)
from tests.entry.every_method import FIELDS, METHODS, PATHS
from tests.entry.outputs import read_log, rows_of, steps_with
from tests.entry.processes import STOPPED, at_call, call, in_step, run_killed, run_on, send

CONTRA, ON_ROWS = "adaptive-srkl-contra", FIELDS[0]
# Processes, and micro-batches per step on each of them; besides (2, 2), which every method is tested with.
MORE_SPLITS = {CONTRA: [(4, 1), (1, 4)], "srkl-fdd": [(1, 4)], "lm with LoRA": [(1, 4)]}
EVERY_SPLIT = [(1, 2), (1, 4), (2, 2), (4, 2)]


@pytest.fixture
def record(monkeypatch, tmp_path):
    """Write down the rows that each rank trains on in every step, generated ones included, and the first gradient."""
    forward, optimiser_step = SplitModel.forward, torch.optim.AdamW.step

    def start(name):
        steps, rows = [], []

        def forward_and_note(model, batch):
            if torch.is_grad_enabled():
                rows.extend(rows_of(batch))
            return forward(model, batch)

        def step_and_note(optimizer, *arguments, **keywords):
            rank = os.environ.get("RANK", "0")
            steps.append(sorted(rows))
            rows.clear()
            (tmp_path / f"{name} {rank}.json").write_text(json.dumps(steps))
            if (rank, len(steps)) == ("0", 1):
                save_file(gradients_of(optimizer), tmp_path / f"{name}.safetensors")
            return optimiser_step(optimizer, *arguments, **keywords)

        monkeypatch.setattr(SplitModel, "forward", forward_and_note)
        monkeypatch.setattr(torch.optim.AdamW, "step", step_and_note)

    return start


@pytest.fixture
def compare(world, pairs, record, tmp_path, record_property, monkeypatch):
    """Train in one micro-batch on one process, then split: rows, first gradient and curve must be the same."""
    end_responses_at_random(monkeypatch)
    without_dropout(monkeypatch)

    def train(name, processes, accumulation, more):
        title = f"{processes} x {accumulation}"
        record(title)
        command = steady_command(world, pairs, name, tmp_path / title, processes, accumulation, more)
        assert call(*command) == 0 if processes == 1 else run_on(processes, *command) is None
        shares = [json.loads((tmp_path / f"{title} {rank}.json").read_text()) for rank in range(processes)]
        rows = [sorted(row for share in step for row in share) for step in zip(*shares, strict=True)]
        return rows, load_file(tmp_path / f"{title}.safetensors"), read_log(tmp_path / title)

    def train_all(name, splits, *more):
        rows, gradients, log = train(name, 1, 1, more)
        for split in splits:
            its_rows, its_gradients, its_log = train(name, *split, more)
            assert its_rows == rows
            gradient, curve = tensor_deviation(gradients, its_gradients), curve_deviation(log, its_log)
            record_property(str(split), f"gradient {gradient:.1e}, curve {curve:.1e}")
            assert gradient < SAME_GRADIENT and curve < SAME_CURVE
        assert_everything_occurred(name, log)
        return log

    return train_all


def assert_everything_occurred(name, log):
    """What the method does must have happened, or the comparison would say little."""
    last = [entry for entry in log if "loss" in entry][-1]
    if name.startswith("adaptive"):
        assert last["dataset_share"] > 0 and last["generated_share"] > 0 and last["replayed_share"] > 0
    if name.startswith("mixed"):
        assert last["dataset_share"] > 0 and last["mixed_share"] > 0
    assert bool(steps_with(log, "velocity_field_loss")) == ("contra" in name)
    assert bool(steps_with(log, "mean_rejected_length")) == name.startswith("distillm2")


@pytest.mark.parametrize("name", [*PATHS, ON_ROWS])
def test_another_split_of_a_step_trains_on_the_same_rows_to_the_same_gradient_and_losses(name, compare):
    compare(name, [(2, 2), *MORE_SPLITS.get(name, [])], "--total-iters", 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, *FIELDS])
def test_every_split_of_a_step_has_the_same_curve_over_20_steps(name, compare):
    log = compare(name, EVERY_SPLIT, "--total-iters", 20, *([] if name in FIELDS else ["--eval-gen"]))
    assert log[-1]["step"] == 20


# ---- a run that goes on with other processes -----------------------------------------------------------------------

# Processes, micro-batches on each, and in which of them a signal stops the run; 8 rows per step, 3 steps per epoch.
RELAY = [(1, 2, 1), (2, 2, 1), (4, 1, 2), (1, 1, None)]


@pytest.mark.parametrize("name", [CONTRA, "adaptive-srkl with LoRA", ON_ROWS])
def test_a_run_goes_on_with_another_number_of_processes_as_long_as_its_global_batch_is_the_same(
    name, world, pairs, tmp_path, monkeypatch
):
    end_responses_at_random(monkeypatch)
    without_dropout(monkeypatch)
    whole, save = tmp_path / "whole", tmp_path / "relay"
    more = ["--log-interval", 5] if name == ON_ROWS else []
    assert call(*steady_command(world, pairs, name, whole, 1, 1, more)) == 0
    for processes, accumulation, stop in RELAY:
        with at_call(*in_step(stop or 0), send(signal.SIGTERM)):
            command = steady_command(world, pairs, name, save, processes, accumulation, more)
            run_on(processes, *command, STOPPED if stop else 0)
    assert curve_deviation(read_log(whole), read_log(save)) < SAME_CURVE
    for path in whole.glob("*.safetensors"):
        assert tensor_deviation(load_file(path), load_file(save / path.name)) < SAME_CURVE


def test_a_run_with_another_global_batch_is_refused(world, pairs, refused, tmp_path):
    save, more = tmp_path / "run", ["--save-interval", 1]
    run_killed(finetune.main, steady_run(world, pairs, "lm", save, 1, 1, more), in_step(3))
    doubled = steady_run(world, pairs, "lm", save, 1, 1, [*more, "--gradient-accumulation-steps", 2])
    refused(finetune.main, doubled, save, "holds a run with global batch size 8, not 16")


# ---- evaluation --------------------------------------------------------------------------------------------------

KINDS = {"sampled": ["--do-sample", "true"], "greedy": ["--do-sample", "false"]}
EVERY_BATCH = [(batch_size, processes) for batch_size in (1, 3, 64) for processes in (1, 2, 4)]


@pytest.fixture
def evaluate_split(world, tmp_path):
    def run_split(kind, batch_size, processes):
        save = tmp_path / f"{batch_size} {processes}"
        more = [*KINDS[kind], "--precision", "fp32", "--eval-batch-size", batch_size]
        run_on(processes, evaluate.main, world.evaluation(save, *more))
        return answers(save)

    return run_split


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "splits", [[(1, 2), (3, 4)], pytest.param(EVERY_BATCH, marks=pytest.mark.slow)], ids=["two splits", "every split"]
)
def test_evaluation_gives_the_same_answers_on_any_number_of_processes_in_batches_of_any_size(
    splits, kind, evaluate_split, record_property
):
    """Only a tie, up to rounding, could change a text. These models have none, so no row may be listed."""
    whole = evaluate_split(kind, 32, 1)
    assert [len(lines) for lines in whole.values()] == [6] * 4  # 2 sets, 2 seeds
    assert len({line["answer"] for lines in whole.values() for line in lines}) > 4
    for split in splits:
        ties = differing_rows(whole, evaluate_split(kind, *split))
        record_property(str(split), str(ties))
        assert not ties


def test_a_row_whose_text_differs_is_listed(evaluate_split, monkeypatch):
    """The list above is not empty in general: here the other split draws other numbers."""
    whole = evaluate_split("sampled", 64, 1)
    choose = KeyedSampling.__call__

    def other_numbers(self, input_ids, scores):
        self.uniforms = 1 - self.uniforms
        return choose(self, input_ids, scores)

    monkeypatch.setattr(KeyedSampling, "__call__", other_numbers)
    ties = differing_rows(whole, evaluate_split("sampled", 3, 2))
    assert ties and all(text != other for _, _, text, other in ties)
