"""A run writes into a folder of its own, and resumes only with the inputs that it began with."""

import os
import shutil

import pytest
import torch

import finetune
from distillm.training import launch
from tests.entry.conftest import error_line
from tests.entry.every_method import FIELDS, command_of
from tests.entry.outputs import contents, saved_step
from tests.entry.processes import at_call, call, in_child, in_step, run_killed, wait_for
from tests.entry.tiny_world import LENGTHS, exchange_weights
from tools import process_data_dolly

BOTH_STAGES = pytest.mark.parametrize("name", ["lm", FIELDS[0]])


@BOTH_STAGES
def test_another_runs_save_folder(name, world, pairs, run, refused, tmp_path):
    save = tmp_path / "save"
    main, options = command_of(world, pairs, name, save, "--total-iters", 1, "--lr", 5e-3)
    assert run(main, options).status == 0
    refused(main, [*options, "--lr", 1e-3], save, save, "lr", 5e-3, 1e-3, "--resume never")


def test_a_save_folder_that_is_a_file(world, refused, tmp_path):
    (tmp_path / "save").write_text("precious")
    refused(finetune.main, world.training(tmp_path / "save"), tmp_path / "save", tmp_path / "save")
    assert (tmp_path / "save").read_text() == "precious"


def test_a_mistake_that_is_put_right_does_not_block_the_save_folder(world, train, refused, tmp_path):
    save = tmp_path / "save"
    refused(finetune.main, world.training(save, "--data-dir", tmp_path / "nowhere"), save, "nowhere")
    assert train(save, "--total-iters", 1).status == 0


@pytest.mark.parametrize(
    ("name", "option", "source"),
    [
        ("kd", "--model-path", "student"),
        ("kd", "--teacher-model-path", "teacher"),
        ("kd", "--data-dir", "store"),
        (FIELDS[0], "--model-path", "student"),
    ],
)
def test_a_run_never_writes_into_what_it_reads(name, option, source, refused, world, pairs, tmp_path):
    folder = shutil.copytree(getattr(world, source), tmp_path / "folder")
    refused(*command_of(world, pairs, name, folder, option, folder), folder, f"is also {option}", folder)


def test_a_model_in_the_state_that_starting_afresh_removes_is_not_read(refused, world, tmp_path):
    best = shutil.copytree(world.student, tmp_path / "run" / "best")
    options = world.training(tmp_path / "run", "--resume", "never", student=best)
    refused(finetune.main, options, tmp_path / "run", "is also --model-path")


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json", "train_0.bin", "velocity_field.json"])
def test_a_run_never_writes_into_a_folder_with_a_model_of_someone_else(file, refused, world, tmp_path):
    (tmp_path / "save").mkdir()
    (tmp_path / "save" / file).touch()
    refused(finetune.main, world.training(tmp_path / "save"), tmp_path / "save", f"{file}, which no run of this script")


# ---- a run whose inputs have changed -------------------------------------------------------------------------------

INPUTS = {
    "--model-path": "student",
    "--teacher-model-path": "teacher",
    "--data-dir": "store",
    "--velocity-field-path": "field",
}


@pytest.fixture(scope="module")
def killed(world, tmp_path_factory):
    """A run that was killed, its options, and the copies of its inputs that belong to it."""
    root = tmp_path_factory.mktemp("killed")
    inputs = {option: shutil.copytree(getattr(world, name), root / name) for option, name in INPUTS.items()}
    words = [word for pair in inputs.items() for word in pair]
    options = world.training(root / "run", "--save-interval", 2, *words, type="kd-contra")
    run_killed(finetune.main, options, in_step(4))
    assert saved_step(root / "run") == 2
    return root / "run", options, inputs


def swap_rows(store):
    content = (store / "train_0.bin").read_bytes()
    (store / "train_0.bin").write_bytes(content[2:4] + content[:2] + content[4:])


def edit(file, old, new):
    def replace(folder):
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return replace


BESIDE = "bug_a_run_went_on_though_what_stands_beside_weights_and_rows_had_changed: "
CHANGES = {
    "rows": ("--data-dir", swap_rows),
    "student": ("--model-path", exchange_weights),
    "teacher": ("--teacher-model-path", exchange_weights),
    "field": ("--velocity-field-path", exchange_weights),
    f"{BESIDE}configuration": ("--model-path", edit("config.json", "gelu_new", "relu")),
    f"{BESIDE}tokenizer": ("--model-path", edit("tokenizer.json", "red", "rod")),
    f"{BESIDE}validation": ("--data-dir", edit("valid.jsonl", "white", "black")),
    f"{BESIDE}field": ("--velocity-field-path", edit("velocity_field.json", "0.1", "0.9")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_whose_data_model_or_field_was_exchanged_does_not_go_on(change, killed, refused):
    save, options, inputs = killed
    option, act = CHANGES[change]
    before = contents(inputs[option])
    act(inputs[option])
    name = option[2:].replace("-", "_")
    refused(finetune.main, options, save, f"holds a run with different content in {name}", inputs[option])
    for file, content in before.items():
        (inputs[option] / file).write_bytes(content)


def test_bug_a_run_went_on_without_the_record_of_its_options(killed, refused, tmp_path):
    save = shutil.copytree(killed[0], tmp_path / "run")
    (save / "args.json").unlink()
    refused(finetune.main, [*killed[1], "--save", save, "--lr", "1e-4"], save, "no args.json", "--resume never")


def test_a_run_goes_on_when_its_paths_are_written_otherwise_or_have_moved(train, world, tmp_path):
    save, more = tmp_path / "run", ["--total-iters", 1]
    assert train(save, *more).status == 0
    store, student = world.store / ".." / world.store.name, shutil.copytree(world.student, tmp_path / "moved")
    outcome = train(save, *more, "--data-dir", store, "--model-path", student)
    assert (outcome.status, "finished run: nothing to do" in outcome.out) == (0, True)


def test_a_run_does_not_go_on_in_another_precision_and_a_finished_one_does_not_mind(
    refused, run, world, monkeypatch, tmp_path
):
    """`auto` is what the machine computes fastest."""
    save = tmp_path / "run"
    options = world.training(save, "--save-interval", 2, "--total-iters", 4, "--precision", "auto")
    with monkeypatch.context() as patch:
        patch.setattr(launch, "resolve_precision", lambda precision, device: "bf16")
        run_killed(finetune.main, options, in_step(4))
    monkeypatch.setattr(launch, "resolve_precision", lambda precision, device: "fp32")
    refused(finetune.main, options, save, "computed precision bf16, not fp32")
    assert run(finetune.main, [*options, "--resume", "never"]).status == 0
    monkeypatch.setattr(launch, "resolve_precision", lambda precision, device: "bf16")
    assert "nothing to do" in run(finetune.main, options).out


# ---- two processes, one folder -------------------------------------------------------------------------------------


@BOTH_STAGES
def test_bug_two_runs_wrote_into_one_folder(name, refused, run, world, pairs, tmp_path):
    save, refusals = tmp_path / "run", []
    command = command_of(world, pairs, name, save, "--total-iters", 2)

    def run_second():
        refused(*command, save, "another process is writing to", save)
        refusals.append(True)

    with at_call(*in_step(2), run_second):
        assert run(*command).status == 0
    assert refusals


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([], "another process has just finished it"),
        (["--do-train", "false"], "it holds a run with do_train False, not True"),
    ],
)
def test_bug_a_run_overwrote_what_another_process_did_while_it_loaded_its_models(others, words, run, world, tmp_path):
    save, seen = tmp_path / "run", {}
    options = world.training(save, "--total-iters", 1)

    def run_other():
        assert wait_for(in_child(lambda: call(finetune.main, [*options, *others]))) == 0
        seen.update(contents(save))

    # The other one starts when this one is in the middle of loading, and loads nothing through this patch: it is a fork
    # in which the call has been counted.
    with at_call(finetune, "load_models", 1, run_other):
        outcome = run(finetune.main, options)
    assert words in error_line(outcome).replace(str(save), "it")
    assert contents(save) == seen != {}


def test_bug_what_starts_afresh_kept_the_model_of_another_kind(train, world, tmp_path):
    """An adapter and a whole model in one folder load as neither; and an unfinished run seemed to have a model."""
    mixed, fresh = tmp_path / "mixed", tmp_path / "fresh"
    whole = ["--model-type", "llama", "--total-iters", 2]
    assert train(mixed, *whole, "--peft", "lora", student=world.llama).status == 0
    never = world.training(mixed, *whole, "--resume", "never", student=world.llama)
    run_killed(finetune.main, never, in_step(2))
    assert not list(mixed.glob("*.safetensors")) and not list(mixed.glob("*config.json"))
    for save in (mixed, fresh):
        assert train(save, *whole, "--resume", "never", student=world.llama).status == 0
    (fresh / "README.md").touch()  # PEFT's, but it could be a person's
    assert contents(mixed).keys() == contents(fresh).keys()


# ---- a store that changes under a training -------------------------------------------------------------------------


def test_a_store_truncated_under_a_training_is_one_line_and_the_checkpoint_stays(run, world, tmp_path):
    store, save = shutil.copytree(world.store, tmp_path / "store"), tmp_path / "run"
    with at_call(torch.Tensor, "backward", 3, lambda: os.truncate(store / "train_0.bin", 0)):
        outcome = run(finetune.main, world.training(save, "--save-interval", 2, "--data-dir", store))
    assert f"{store / 'train_0.bin'} was changed while it was being read" in error_line(outcome)
    assert saved_step(save) == 2


def test_a_store_replaced_by_our_tool_under_a_training_changes_nothing(run, world, tmp_path):
    store = shutil.copytree(world.store, tmp_path / "store")
    raw = shutil.copytree(world.data / "dolly", tmp_path / "raw")
    (raw / "train.jsonl").write_text((raw / "dev.jsonl").read_text())
    words = ["--data-dir", raw, "--processed-data-dir", store, "--model-path", world.student]
    words += ["--data-process-workers", 1, *LENGTHS]
    options = ["--total-iters", 4, "--data-dir", store]
    assert run(finetune.main, world.training(tmp_path / "whole", *options)).status == 0
    before = (store / "train_0.bin").stat().st_size
    with at_call(*in_step(2), lambda: call(process_data_dolly.main, words)):
        assert run(finetune.main, world.training(tmp_path / "run", *options)).status == 0
    assert (store / "train_0.bin").stat().st_size != before
    models = (contents(tmp_path / name)["model.safetensors"] for name in ("run", "whole"))
    assert next(models) == next(models)
