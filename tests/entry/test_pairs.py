"""DistiLLM-2: training on response pairs, and a velocity field on them."""

import shutil

import pytest

import finetune
import train_velocity_field
from contra.training import FieldTrainer
from distillm.training.trainer import Trainer
from tests.entry.every_method import make_pairs

STEPS_PER_EPOCH = 6  # 26 pairs in steps of 4


@pytest.fixture(scope="session")
def pairs(world, tmp_path_factory, call_script):
    return make_pairs(world, tmp_path_factory.mktemp("pairs"), call_script)


@pytest.fixture(scope="session")
def pair_options(world, pairs):
    """Return the options of DistiLLM-2 + CONTRA with everything that happens after an epoch."""

    def options(save, *more, type="distillm2-v2-contra"):
        words = ["--data-dir", pairs, "--gt-data-dir", world.store, "--epochs", 2, "--gradual-beta", *more]
        return world.training(save, *words, type=type)

    return options


@pytest.fixture
def seen_rows(monkeypatch):
    """Record the rows of every step: {step: {row id: ids}}."""
    original, steps = Trainer.prepare, {}

    def prepare(trainer, step):
        micro_batches = original(trainer, step)
        (batch,) = (micro_batch["instruction"] for micro_batch in micro_batches)
        lengths = batch.attention_mask.sum(1).tolist()
        rows = zip(batch.row_ids.tolist(), batch.input_ids.tolist(), lengths, strict=True)
        steps[step] = {row_id: ids[:length] for row_id, ids, length in rows}
        return micro_batches

    monkeypatch.setattr(Trainer, "prepare", prepare)
    return steps


def rows_of_epoch(steps, epoch, side):
    """Return the rows of an epoch (from 1), side 0 the chosen and 1 the rejected ones."""
    epochs = [rows for step, rows in steps.items() if (step - 1) // STEPS_PER_EPOCH + 1 == epoch]
    return {row_id: ids for rows in epochs for row_id, ids in rows.items() if row_id % 2 == side}


def differing(steps, first, second, side):
    """Return the share of the rows in both epochs that differ."""
    before, after = rows_of_epoch(steps, first, side), rows_of_epoch(steps, second, side)
    common = before.keys() & after.keys()
    assert len(common) > 15
    return sum(before[row_id] != after[row_id] for row_id in common) / len(common)


def test_a_run_on_pairs_writes_its_rejected_responses_and_its_field_anew(
    pair_options, run, seen_rows, read_log, tmp_path
):
    save = tmp_path / "save"
    assert run(finetune.main, pair_options(save)).status == 0
    log = read_log(save)
    for event in ("mean_rejected_length", "velocity_field_loss"):
        assert [record["step"] for record in log if event in record] == [STEPS_PER_EPOCH]  # not after the last
    assert [record["step"] for record in log if "dev_loss" in record] == [0, 6, 12]
    losses = [record for record in log if "loss" in record]
    terms = "distillm2", "contra", "corpus"
    assert all(record["loss"] == pytest.approx(sum(record[name] for name in terms)) for record in losses)
    assert differing(seen_rows, 1, 2, side=0) == 0
    assert differing(seen_rows, 1, 2, side=1) > 0.8
    assert (save / "model.safetensors").exists() and (save / "velocity_field.json").exists()


def test_the_interval_says_after_which_epochs_responses_are_written_anew(
    pair_options, run, seen_rows, read_log, tmp_path
):
    options = pair_options(tmp_path / "save", "--generate-sgo-interval", 2, "--epochs", 3, type="distillm2-v1")
    assert run(finetune.main, options).status == 0
    events = [record["step"] for record in read_log(tmp_path / "save") if "mean_rejected_length" in record]
    assert events == [2 * STEPS_PER_EPOCH]
    assert differing(seen_rows, 1, 2, side=1) == 0
    assert differing(seen_rows, 2, 3, side=1) > 0.8


def test_a_killed_run_on_pairs_ends_bitwise_like_an_uninterrupted_one(
    pair_options, run_killed, call_script, contents, tmp_path
):
    def result(save):
        return {name: data for name, data in contents(save).items() if name not in ("args.json", "training.log")}

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call_script(finetune.main, pair_options(whole)) == 0
    run_killed(finetune.main, pair_options(killed), Trainer, "_train_step", STEPS_PER_EPOCH + 3)
    assert (killed / "checkpoints" / "latest").read_text() == "step-00000006\n"
    assert call_script(finetune.main, pair_options(killed)) == 0
    assert result(killed) == result(whole)


def test_two_processes_write_the_same_rejected_responses_and_losses(
    pair_options, world, call_script, run_on_two, read_log, tmp_path
):
    def options(save, batch_size):
        student = ["--model-path", world.steady_student]
        more = ["--precision", "fp32", "--batch-size", batch_size, "--lr", 1e-3]
        return pair_options(save, *student, *more, type="distillm2-v2")

    assert call_script(finetune.main, options(tmp_path / "one", 4)) == 0
    run_on_two(finetune.main, options(tmp_path / "two", 2))
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert [record.keys() for record in one] == [record.keys() for record in two]
    for ours, theirs in zip(one, two, strict=True):
        assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=1e-4)


def test_stage_1_stacks_the_chosen_and_the_rejected_rows(pairs, train_field, read_log, monkeypatch, tmp_path):
    original, batches = FieldTrainer._sum, []

    def record(trainer, batch):
        batches.append(batch.row_ids.tolist())
        return original(trainer, batch)

    monkeypatch.setattr(FieldTrainer, "_sum", record)
    assert train_field(tmp_path / "field", "--data-dir", pairs).status == 0
    assert len(batches) == 2 * STEPS_PER_EPOCH
    for ids in batches:
        chosen, rejected = ids[:4], ids[4:]
        assert all(row_id % 2 == 0 for row_id in chosen) and rejected == [row_id + 1 for row_id in chosen]
    assert max(record["step"] for record in read_log(tmp_path / "field")) == 2 * STEPS_PER_EPOCH


def test_pairs_built_of_other_responses_do_not_continue_an_old_run(pair_options, pairs, run, refused, world, tmp_path):
    save, folder = tmp_path / "save", shutil.copytree(pairs, tmp_path / "pairs")
    options = pair_options(save, "--data-dir", folder, "--total-iters", 1, type="distillm2-v2")
    assert run(finetune.main, options).status == 0
    (arrow,) = folder.glob("train/*.arrow")
    arrow.write_bytes(arrow.read_bytes().replace(b"Say red.", b"Say tan."))
    refused(finetune.main, options, save, "holds a run with another content of data_dir", folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gt-data-dir", None], ["--gt-data-dir", "distillm2-v2"]),
        (["--kd-ratio", 0.5], ["--kd-ratio must be 1", "0.5", "distillm2-v2"]),
        (["--data-dir", "the store"], ["the store", "holds no response pairs", "tools/build_response_pairs.py"]),
        (["--do-valid", None, "--max-length", 128], ["--max-length 128", "64"]),
        (["--generate-sgo-interval", 0], ["--generate-sgo-interval", "0"]),
    ],
    ids=lambda value: str(value[0]),
)
def test_a_bad_option_of_training_on_pairs_is_one_line(options, words, pair_options, world, refused, tmp_path):
    command = pair_options(tmp_path / "save", type="distillm2-v2")
    for name, value in zip(options[::2], options[1::2], strict=True):
        if value is None:
            at = command.index(name)
            del command[at : at + (1 if name == "--do-valid" else 2)]
        else:
            command += [name, str(world.store) if value == "the store" else str(value)]
    words = [world.store if word == "the store" else word for word in words]
    refused(finetune.main, command, tmp_path, *words)


def test_stage_1_on_pairs_refuses_rows_longer_than_the_model_knows(pairs, world, refused, tmp_path):
    options = world.stage_1(tmp_path / "save", "--data-dir", pairs, "--max-length", 128)
    refused(train_velocity_field.main, options, tmp_path, "--max-length 128", "64")
