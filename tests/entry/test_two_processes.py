"""Two processes do what one does: the same rows, the same losses, the same answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate
import finetune
import train_velocity_field
from data_utils.files import write_json

ROOT = Path(__file__).resolve().parents[2]
ALL_STEPS = 24


@pytest.fixture(scope="module")
def options(world):
    """24 steps of 8 rows each without dropout; the batch size of a process is left to say."""

    def options_of(save, batch_size):
        extra = [
            "--velocity-field-path",
            world.steady_field,
            "--log-interval",
            1,
            "--epochs",
            8,
            "--eval-gen",
            "--dev-num",
            4,
        ]
        extra += ["--batch-size", batch_size, "--gradient-accumulation-steps", 2, "--lr", 1e-3, "--capacity", 20]
        extra += ["--velocity-update-interval", 3]
        return world.training(save, *extra, type="adaptive-srkl-contra", student=world.steady_student)

    return options_of


def assert_same_log(one, two, steps):
    """Compare every number of the first `steps` steps within 1e-4 relative."""
    first, second = ([record for record in log if record["step"] <= steps] for log in (one, two))
    assert [record.keys() for record in first] == [record.keys() for record in second]
    for ours, theirs in zip(first, second, strict=True):
        for name, value in ours.items():
            expected = pytest.approx(theirs[name], rel=1e-4, abs=1e-6) if isinstance(value, float) else theirs[name]
            assert value == expected, f"{name} of step {ours['step']}"


@pytest.fixture
def record_rows(monkeypatch, tmp_path):
    """Write down the rows of every step, generated ones included: one file a process."""
    original = finetune.Trainer.prepare

    def record(name):
        steps = []

        def prepare(trainer, step):
            micro_batches = original(trainer, step)
            rows = sorted(
                (row_id, tokens[: sum(mask)])
                for batch in micro_batches
                for row_id, tokens, mask in zip(
                    batch["instruction"].row_ids.tolist(),
                    batch["instruction"].input_ids.tolist(),
                    batch["instruction"].attention_mask.tolist(),
                    strict=True,
                )
            )
            steps.append(rows)
            write_json(tmp_path / f"{name}-{trainer.world.rank}.json", steps)
            return micro_batches

        monkeypatch.setattr(finetune.Trainer, "prepare", prepare)

    return record


def read_rows(*paths):
    """Return the rows of every step, over all processes."""
    shares = [json.loads(path.read_text()) for path in paths]
    return [sorted(row for rows in step for row in rows) for step in zip(*shares, strict=True)]


def test_two_processes_train_on_the_same_rows_to_the_same_losses(
    options, record_rows, run_on_two, call_script, read_log, tmp_path
):
    record_rows("one")
    assert call_script(finetune.main, options(tmp_path / "one", 4)) == 0
    record_rows("two")
    run_on_two(finetune.main, options(tmp_path / "two", 2))
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    last = [record for record in one if "loss" in record][-1]
    assert last["step"] == ALL_STEPS
    assert last["generated_share"] > 0 and last["replayed_share"] > 0 and last["dataset_share"] > 0
    assert sum("velocity_field_loss" in record for record in one) == 2
    assert_same_log(one, two, steps=20)
    rows_of_two = read_rows(tmp_path / "two-0.json", tmp_path / "two-1.json")
    assert rows_of_two[:20] == read_rows(tmp_path / "one-0.json")[:20]
    assert not list((tmp_path / "two").glob("checkpoints"))


def test_torchrun_starts_the_same_training(options, call_script, read_log, tmp_path):
    save, steps = tmp_path / "two", ["--total-iters", "3"]
    assert call_script(finetune.main, [*options(tmp_path / "one", 4), *steps]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, "finetune.py", *options(save, 2), *steps], cwd=ROOT, env=environment, check=True)
    assert_same_log(read_log(tmp_path / "one"), read_log(save), steps=3)
    assert (save / "finished.json").exists() and (save / "model.safetensors").exists()


def test_two_processes_train_the_same_velocity_field(world, run_on_two, call_script, read_log, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.nn.Dropout.forward", lambda self, x: x)  # a new field has dropout
    options = ["--epochs", 2, "--log-interval", 1]
    assert call_script(train_velocity_field.main, world.stage_1(tmp_path / "one", *options, "--batch-size", 4)) == 0
    run_on_two(train_velocity_field.main, world.stage_1(tmp_path / "two", *options, "--batch-size", 2))
    assert_same_log(read_log(tmp_path / "one"), read_log(tmp_path / "two"), steps=20)


def test_evaluation_gives_the_same_answers_on_two_processes_and_with_another_batch_size(
    world, run_on_two, score, tmp_path, contents
):
    results = {}
    for name, batch_size in (("whole", 64), ("small", 5)):
        assert score(tmp_path / name, "--eval-batch-size", batch_size).status == 0
        results[name] = answers(contents, tmp_path / name)
    run_on_two(evaluate.main, world.evaluation(tmp_path / "two", "--eval-batch-size", 4))
    assert len(results["whole"]) == 8
    assert results["whole"] == results["small"] == answers(contents, tmp_path / "two")


def answers(contents, save):
    files = contents(save)
    return {name: data for name, data in files.items() if name.endswith(("answers.jsonl", "metrics.json"))}
