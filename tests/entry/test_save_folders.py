"""A run writes into a folder of its own, and goes on only with what it began with."""

import os
import shutil
import signal
import time

import pytest

import finetune
import train_velocity_field
from distillm.training.trainer import Trainer
from tests.entry.conftest import call, exchange_weights, in_child, wait_for
from tools import process_data_dolly


def test_another_runs_save_folder(world, train, refused, tmp_path):
    save = tmp_path / "save"
    assert train(save).status == 0
    refused(finetune.main, world.training(save, "--lr", 1e-3), save, save, "lr", 5e-3, 1e-3, "--resume never")


def test_a_save_folder_that_is_a_file(world, refused, tmp_path):
    (tmp_path / "save").write_text("precious")
    refused(finetune.main, world.training(tmp_path / "save"), tmp_path / "save", tmp_path / "save")
    assert (tmp_path / "save").read_text() == "precious"


def test_a_mistake_that_is_put_right_does_not_block_the_save_folder(world, train, refused, tmp_path):
    save = tmp_path / "save"
    refused(finetune.main, world.training(save, "--data-dir", tmp_path / "nowhere"), save, "nowhere")
    assert train(save).status == 0


def test_a_run_never_writes_over_a_model_that_it_reads(refused, world, tmp_path):
    model = shutil.copytree(world.student, tmp_path / "model")
    for options in (
        world.training(model, student=model),
        [*world.training(model, type="kd"), "--teacher-model-path", str(model)],
    ):
        refused(finetune.main, options, model, "choose another folder", model)
    refused(train_velocity_field.main, world.stage_1(model, "--model-path", model), model, "choose another folder")


def test_a_run_never_writes_into_a_folder_with_a_model_of_someone_else(refused, world, tmp_path):
    model = shutil.copytree(world.teacher, tmp_path / "model")
    refused(finetune.main, world.training(model), model, "config.json, which no run of this script wrote")
    for name in ("adapter_config.json", "train_0.bin", "velocity_field.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
        refused(finetune.main, world.training(tmp_path / name), tmp_path / name, f"{name}, which no run")


def test_a_store_rebuilt_from_other_data_does_not_continue_an_old_run(refused, train, world, tmp_path):
    store, save = shutil.copytree(world.store, tmp_path / "store"), tmp_path / "run"
    assert train(save, "--data-dir", store, "--total-iters", 2).status == 0
    binary = store / "train_0.bin"
    swapped = bytearray(binary.read_bytes())
    swapped[0], swapped[2] = swapped[2], swapped[0]
    binary.write_bytes(bytes(swapped))
    options = world.training(save, "--data-dir", store, "--total-iters", 2)
    refused(finetune.main, options, save, "holds a run with another content of data_dir", store)


@pytest.mark.parametrize("name", ["model_path", "teacher_model_path", "velocity_field_path"])
def test_a_run_whose_model_or_field_was_exchanged_does_not_go_on(name, refused, train, world, tmp_path):
    folders = {"model_path": world.student, "teacher_model_path": world.teacher, "velocity_field_path": world.field}
    mine, save = shutil.copytree(folders[name], tmp_path / "mine"), tmp_path / "run"
    option = ["--" + name.replace("_", "-"), mine, "--total-iters", 1]
    assert train(save, *option, type="kd-contra").status == 0
    exchange_weights(mine)
    options = world.training(save, *option, type="kd-contra")
    refused(finetune.main, options, save, f"holds a run with another content of {name}", mine)


@pytest.mark.parametrize(
    ("option", "file", "old", "new"),
    [
        ("--model-path", "config.json", "gelu_new", "relu"),
        ("--model-path", "tokenizer.json", "red", "rod"),
        ("--data-dir", "valid.jsonl", "white", "black"),
        ("--velocity-field-path", "velocity_field.json", "0.1", "0.9"),
    ],
)
def test_bug_a_run_went_on_though_what_stands_beside_weights_and_rows_had_changed(
    option, file, old, new, refused, run_killed, world, tmp_path
):
    folders = {"--model-path": world.student, "--data-dir": world.store, "--velocity-field-path": world.field}
    mine, save = shutil.copytree(folders[option], tmp_path / "mine"), tmp_path / "run"
    options = world.training(save, "--save-interval", 2, option, mine, type="kd-contra")
    run_killed(finetune.main, options, Trainer, "_train_step", 4)
    text = (mine / file).read_text()
    assert old in text
    (mine / file).write_text(text.replace(old, new))
    refused(finetune.main, options, save, "holds a run with another content of", mine)


def test_bug_a_run_went_on_without_the_record_of_its_options(refused, run_killed, world, tmp_path):
    save = tmp_path / "run"
    options = world.training(save, "--save-interval", 2)
    run_killed(finetune.main, options, Trainer, "_train_step", 4)
    (save / "args.json").unlink()
    refused(finetune.main, [*options, "--lr", "1e-4"], save, "no args.json", "--resume never")


def test_a_run_does_not_go_on_in_another_precision_and_a_finished_one_does_not_mind(
    refused, run_killed, run, world, monkeypatch, tmp_path
):
    """`auto` is what the machine computes fastest."""
    save = tmp_path / "run"
    options = world.training(save, "--save-interval", 2, "--total-iters", 4, "--precision", "auto")
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "resolve_precision", lambda precision, device: "bf16")
        run_killed(finetune.main, options, Trainer, "_train_step", 4)
    monkeypatch.setattr(finetune, "resolve_precision", lambda precision, device: "fp32")
    refused(finetune.main, options, save, "computed precision bf16, not fp32")
    assert run(finetune.main, [*options, "--resume", "never"]).status == 0
    monkeypatch.setattr(finetune, "resolve_precision", lambda precision, device: "bf16")
    assert "nothing to do" in run(finetune.main, options).out


def test_bug_two_runs_wrote_into_one_folder(refused, run, world, tmp_path, monkeypatch):
    save, original, second = tmp_path / "run", Trainer._train_step, []
    options = world.training(save, "--total-iters", 4)

    def train_step(trainer, step):
        if step == 3 and not second:
            second.append(True)
            refused(finetune.main, options, save, "another process writes to", save)
        return original(trainer, step)

    monkeypatch.setattr(Trainer, "_train_step", train_step)
    assert run(finetune.main, options).status == 0 and second


def test_a_run_waits_for_no_process_that_still_writes_and_goes_on_when_that_has_been_killed(
    refused, run, world, contents, tmp_path, monkeypatch
):
    save, whole = tmp_path / "run", tmp_path / "whole"

    def options(save):
        return world.training(save, "--save-interval", 2, "--total-iters", 6)

    assert run(finetune.main, options(whole)).status == 0
    original = Trainer._train_step
    with monkeypatch.context() as patch:
        patch.setattr(
            Trainer, "_train_step", lambda trainer, step: time.sleep(60 * (step == 4)) or original(trainer, step)
        )
        child = in_child(lambda: call(finetune.main, options(save)))
    latest, ends = save / "checkpoints" / "latest", time.monotonic() + 60
    while not latest.exists() and time.monotonic() < ends:
        time.sleep(0.05)
    refused(finetune.main, options(save), save, "another process writes to")
    os.kill(child, signal.SIGKILL)
    assert wait_for(child) == -signal.SIGKILL
    assert run(finetune.main, options(save)).status == 0
    assert contents(save)["log.jsonl"] == contents(whole)["log.jsonl"]
    assert contents(save)["model.safetensors"] == contents(whole)["model.safetensors"]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([], "another process has just finished it"),
        (["--do-train", "false"], "it holds a run with do_train False, not True"),
    ],
)
def test_bug_a_run_overwrote_what_another_process_did_while_it_loaded_its_models(
    others, words, run, world, monkeypatch, tmp_path
):
    save, original = tmp_path / "run", finetune.setup
    options = world.training(save, "--total-iters", 1)

    def setup(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(finetune, "setup", original)
            assert wait_for(in_child(lambda: call(finetune.main, [*options, *others]))) == 0
        trainer = original(*arguments)
        seen.update(contents_of(save))
        return trainer

    def contents_of(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    seen = {}
    monkeypatch.setattr(finetune, "setup", setup)
    outcome = run(finetune.main, options)
    assert outcome.status == 1 and f".py: error: {words}" in outcome.err.replace(str(save), "it")
    assert contents_of(save) == seen != {}


def test_a_model_in_the_state_that_starting_afresh_removes_is_not_read(refused, world, tmp_path):
    best = shutil.copytree(world.student, tmp_path / "run" / "best")
    options = world.training(tmp_path / "run", "--resume", "never", student=best)
    refused(finetune.main, options, tmp_path / "run", "is also --model-path")


def test_bug_what_starts_afresh_kept_the_model_of_another_kind(train, run_killed, world, contents, tmp_path):
    """An adapter and a whole model in one folder load as neither; and a model stood for a run that had not ended."""
    mixed, fresh = tmp_path / "mixed", tmp_path / "fresh"
    whole = ["--model-type", "llama", "--total-iters", 2]
    lora = [*whole, "--peft", "lora"]
    assert train(mixed, *lora, student=world.llama).status == 0
    never = world.training(mixed, *whole, "--resume", "never", student=world.llama)
    run_killed(finetune.main, never, Trainer, "_train_step", 2)
    assert not list(mixed.glob("*.safetensors")) and not list(mixed.glob("*config.json"))
    for save in (mixed, fresh):
        assert train(save, *whole, "--resume", "never", student=world.llama).status == 0
    (fresh / "README.md").touch()  # PEFT's, which may be a person's
    assert contents(mixed).keys() == contents(fresh).keys()


def test_a_run_never_writes_into_the_data_that_it_reads(refused, world, tmp_path):
    store = shutil.copytree(world.store, tmp_path / "store")
    refused(finetune.main, world.training(store, "--data-dir", store), store, "is also --data-dir")


def test_a_run_goes_on_when_its_paths_are_written_otherwise_or_have_moved(train, world, tmp_path):
    save, more = tmp_path / "run", ["--total-iters", 1]
    assert train(save, *more).status == 0
    store, student = world.store / ".." / world.store.name, shutil.copytree(world.student, tmp_path / "moved")
    outcome = train(save, *more, "--data-dir", store, "--model-path", student)
    assert (outcome.status, "finished: nothing to do" in outcome.out) == (0, True)


def test_a_step_that_diverges_is_one_line_with_step_terms_and_rows(run, world, tmp_path):
    outcome = run(finetune.main, world.training(tmp_path / "run", "--lr", 1e30, "--clip-grad", 0, "--total-iters", 4))
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    (line,) = [line for line in outcome.err.splitlines() if "error:" in line]
    for words in ("was not taken: the loss is not finite", "cross_entropy", "rows ["):
        assert words in line


def test_a_store_truncated_under_a_training_is_one_line_and_the_checkpoint_stands(run, world, monkeypatch, tmp_path):
    store, save, original = shutil.copytree(world.store, tmp_path / "store"), tmp_path / "run", Trainer._train_step

    def train_step(trainer, step):
        if step == 4:
            os.truncate(store / "train_0.bin", 0)
        return original(trainer, step)

    monkeypatch.setattr(Trainer, "_train_step", train_step)
    outcome = run(finetune.main, world.training(save, "--save-interval", 2, "--data-dir", store))
    (line,) = [line for line in outcome.err.splitlines() if "error:" in line]
    assert outcome.status == 1 and f"{store / 'train_0.bin'} was changed while it is read" in line
    assert (save / "checkpoints" / "latest").exists()


def test_a_store_replaced_by_our_tool_under_a_training_changes_nothing(
    run, world, monkeypatch, contents, tmp_path, call_script
):
    store, original = shutil.copytree(world.store, tmp_path / "store"), Trainer._train_step
    raw = shutil.copytree(world.data / "dolly", tmp_path / "raw")
    (raw / "train.jsonl").write_text((raw / "dev.jsonl").read_text())
    folders = ["--data-dir", raw, "--processed-data-dir", store, "--model-path", world.student]

    def train_step(trainer, step):
        if step == 3:
            lengths = ["--max-length", 64, "--max-prompt-length", 48]
            assert call_script(process_data_dolly.main, [*folders, "--data-process-workers", 1, *lengths]) == 0
        return original(trainer, step)

    options = ["--total-iters", 8, "--data-dir", store]
    assert run(finetune.main, world.training(tmp_path / "whole", *options)).status == 0
    before = (store / "train_0.bin").stat().st_size
    monkeypatch.setattr(Trainer, "_train_step", train_step)
    assert run(finetune.main, world.training(tmp_path / "run", *options)).status == 0
    assert (store / "train_0.bin").stat().st_size != before
    assert contents(tmp_path / "run")["model.safetensors"] == contents(tmp_path / "whole")["model.safetensors"]
