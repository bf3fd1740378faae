"""A mistake of the user's ends as one clear line and a non-zero exit, with nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate
import finetune
import train_velocity_field
from tests.entry.conftest import assert_one_line, exchange_weights
from tests.entry.every_method import make_pairs, options_of
from tools import process_data_dolly

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def damaged_store(world, tmp_path):
    """A copy of the store, to be damaged."""
    return shutil.copytree(world.store, tmp_path / "damaged")


# ---- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lerning-rate", 1], ["--lerning-rate"]),
        (["--save-inter", 1], ["--save-inter"]),
        (["--type", "kdd"], ["'kdd'", "valid are"]),
        (["--type", "lm-contra"], ["'lm-contra'", "valid are"]),
        (["--type", "adaptive-lm"], ["'adaptive-lm'", "valid are"]),
        (["--lr", "fast"], ["--lr", "'fast'"]),
        (["--epochs", 1.5], ["--epochs", "'1.5'"]),
        (["--epochs", 0], ["--epochs", "0"]),
        (["--batch-size", 0], ["--batch-size", "0"]),
        (["--lr", 1e-9], ["--lr 1e-09", "--lr-min 1e-07"]),
        (["--max-prompt-length", 64], ["--max-prompt-length 64", "--max-length 64"]),
        (["--max-prompt-length", 65], ["--max-prompt-length 65", "--max-length 64"]),
        (["--precision", "fp8"], ["--precision", "fp8"]),
        (["--save-interval", 0], ["--save-interval", "0"]),
        (["--train-num", 0], ["--train-num", "0"]),
        (["--dev-num", -2], ["--dev-num", "-2"]),
        (["--seed", -1], ["--seed", "-1"]),
        (["--weight-decay", -1], ["--weight-decay", "-1"]),
        (["--clip-grad", -1], ["--clip-grad", "-1"]),
        (["--warmup-iters", -1], ["--warmup-iters", "-1"]),
        (["--lr", "nan"], ["--lr", "nan"]),
        (["--top-k", -1], ["--top-k", "-1"]),
        (["--top-p", 0], ["--top-p", "0"]),
        (["--no-repeat-ngram-size", -1], ["--no-repeat-ngram-size", "-1"]),
        (["--repetition-penalty", 0], ["--repetition-penalty", "0"]),
        (["--temperature", 0], ["--temperature", "0"]),
        (["--deepspeed"], ["--deepspeed", "--deepspeed_config"]),
        (["--report-to", "wandb"], ["wandb", "not installed"]),
        (["--report-to", "carrier-pigeon"], ["carrier-pigeon"]),
        (["--model-type", "llama"], ["--model-type", "llama", "gpt2"]),
        (["--peft", "lora"], ["q_proj"]),
        (["--max-length", 128], ["--max-length 128", "64"]),
    ],
    ids=lambda value: "=".join(map(str, value)) if isinstance(value, list) and str(value[0]).startswith("--") else "",
)
def test_a_bad_option_of_training(options, words, world, refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused(finetune.main, world.training(tmp_path / "save", *options), tmp_path / "save", *words)


@pytest.mark.parametrize(
    ("type", "options", "words"),
    [
        ("kd", ["--kd-ratio", 2], ["--kd-ratio", "2"]),
        ("kd", ["--lm-coef", -1], ["--lm-coef", "-1"]),
        ("kd-contra", ["--contra-weight", -1], ["--contra-weight", "-1"]),
        ("kd-contra", ["--curriculum", "slow"], ["--curriculum", "slow"]),
        ("kd-contra", ["--num-distill-layers", 5], ["--num-distill-layers", "5"]),
        ("kd-contra", ["--velocity-update-interval", 0], ["--velocity-update-interval", "0"]),
        ("adaptive-srkl", ["--capacity", 0], ["--capacity", "0"]),
        ("adaptive-srkl", ["--replay-ratio", "often"], ["--replay-ratio", "often"]),
    ],
)
def test_a_bad_option_of_distillation(type, options, words, world, refused, tmp_path):
    save = tmp_path / "save"
    refused(finetune.main, world.training(save, *options, type=type), save, *words)


@pytest.mark.parametrize(
    ("type", "missing"),
    [("kd", "--teacher-model-path"), ("kd-contra", "--velocity-field-path"), ("adaptive-srkl", "--do-valid")],
)
def test_an_option_that_a_method_needs(type, missing, world, refused, tmp_path):
    options = world.training(tmp_path / "save", type=type)
    at = options.index(missing)
    del options[at : at + (1 if missing == "--do-valid" else 2)]
    refused(finetune.main, options, tmp_path / "save", missing, type)


@pytest.mark.parametrize("name", ["--model-path", "--data-dir", "--save"])
def test_an_option_that_every_run_needs(name, world, refused, tmp_path):
    options = world.training(tmp_path / "save")
    at = options.index(name)
    refused(finetune.main, options[:at] + options[at + 2 :], tmp_path / "save", name)


def test_options_that_a_method_ignores_are_one_warning_that_names_them(train, tmp_path):
    outcome = train(tmp_path / "save", "--skew-alpha", 0.2, "--capacity", 7, "--curriculum", "step", "--dry-run")
    warnings = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert warnings == ["warning: --type lm ignores --skew-alpha, --capacity, --curriculum"]
    assert outcome.status == 0


def test_options_that_stage_1_ignores_are_one_warning_that_names_them(train_field, tmp_path):
    options = [
        "--eval-interval",
        3,
        "--contra-weight",
        2,
        "--type",
        "srkl-contra",
        "--dry-run",
    ]  # a run's own, and extra
    outcome = train_field(tmp_path / "save", *options)
    warnings = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert warnings == ["warning: stage 1 of CONTRA ignores --contra-weight, --type"]
    assert outcome.status == 0


def test_an_option_given_with_underscores_is_the_same_option(train, tmp_path):
    outcome = train(tmp_path / "save", "--skew_alpha", 0.2, "--dry_run")
    assert "warning: --type lm ignores --skew-alpha\n" in outcome.err


# ---- data --------------------------------------------------------------------------------------------------------


def test_missing_data(world, refused, tmp_path):
    options = world.training(tmp_path / "save", "--data-dir", tmp_path / "nowhere")
    refused(finetune.main, options, tmp_path / "save", tmp_path / "nowhere", "does not exist", "process the data")


def test_a_missing_validation_split(world, refused, damaged_store, tmp_path):
    (damaged_store / "valid_0.bin").unlink()
    options = world.training(tmp_path / "save", "--data-dir", damaged_store)
    refused(finetune.main, options, tmp_path / "save", "valid_0.bin does not exist")


def test_a_missing_corpus(world, refused, tmp_path):
    options = world.training(tmp_path / "save", "--lm-data-dir", tmp_path / "nowhere", type="kd")
    refused(finetune.main, options, tmp_path / "save", tmp_path / "nowhere", "does not exist")


@pytest.mark.parametrize("kind", ["lm", "kd-contra", "velocity field"])
def test_a_truncated_store(kind, world, refused, damaged_store, tmp_path):
    path = damaged_store / "train_0.bin"
    path.write_bytes(path.read_bytes()[:-2])
    main, save = finetune.main, tmp_path / "save"
    options = world.training(save, "--data-dir", damaged_store, type=kind) if kind != "velocity field" else None
    if options is None:
        main, options = train_velocity_field.main, world.stage_1(save, "--data-dir", damaged_store)
    refused(main, options, save, path, "bytes", "process the data again")


def test_a_store_of_a_larger_vocabulary(world, refused, damaged_store, tmp_path):
    path = damaged_store / "train_0.bin"
    (damaged_store / "meta.json").unlink(missing_ok=True)
    path.write_bytes((60_000).to_bytes(2, "little") + path.read_bytes()[2:])
    options = world.training(tmp_path / "save", "--data-dir", damaged_store)
    refused(finetune.main, options, tmp_path / "save", damaged_store, "60000", "vocabulary")


def test_validation_by_generation_without_references(world, refused, tmp_path):
    options = world.training(tmp_path / "save", "--data-dir", world.corpus, "--eval-gen")
    refused(finetune.main, options, tmp_path / "save", "valid.jsonl", "no references")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{oops", ["train.jsonl:2", "not JSON"]),
        ('["a list"]', ["train.jsonl:2", "list"]),
        ('{"output": "red"}', ["train.jsonl:2", "`instruction`"]),
        ('{"instruction": "Say red."}', ["train.jsonl:2", "`output`"]),
        ('{"instruction": "Say red.", "output": []}', ["train.jsonl:2", "`output`"]),
    ],
)
def test_a_bad_line_of_raw_data(line, words, world, refused, tmp_path):
    raw = shutil.copytree(world.data / "dolly", tmp_path / "raw")
    lines = (raw / "train.jsonl").read_text().splitlines()
    (raw / "train.jsonl").write_text("\n".join([lines[0], line, *lines[1:]]))
    save = tmp_path / "store"
    options = ["--data-dir", raw, "--processed-data-dir", save, "--model-path", world.student]
    refused(process_data_dolly.main, [*options, "--data-process-workers", 1], save, *words)


# ---- models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--model-path", "--teacher-model-path"])
def test_a_checkpoint_folder_that_is_none(option, world, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    options = world.training(tmp_path / "save", option, tmp_path / "empty", type="kd")
    refused(finetune.main, options, tmp_path / "save", tmp_path / "empty", "is no checkpoint", "config.json")


def test_a_checkpoint_folder_that_does_not_exist(world, refused, tmp_path):
    options = world.training(tmp_path / "save", "--model-path", tmp_path / "nowhere")
    refused(finetune.main, options, tmp_path / "save", tmp_path / "nowhere", "does not exist")


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_checkpoint_without_usable_weights(damage, world, refused, tmp_path):
    folder = shutil.copytree(world.student, tmp_path / "student")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    if damage == "truncated":
        weights.write_bytes(whole[:-100])
    options = world.training(tmp_path / "save", "--model-path", folder)
    refused(finetune.main, options, tmp_path / "save", folder, "cannot load")


def test_a_checkpoint_without_tokenizer(world, refused, tmp_path):
    folder = shutil.copytree(world.student, tmp_path / "student")
    for path in folder.glob("token*"):
        path.unlink()
    options = world.training(tmp_path / "save", "--model-path", folder)
    refused(finetune.main, options, tmp_path / "save", folder, "tokenizer")


@pytest.mark.parametrize("stage", [1, 2])
def test_teacher_and_student_of_different_vocabularies(stage, world, refused, tmp_path):
    save = tmp_path / "save"
    extra = ["--model-path", world.foreign_teacher, "--teacher-model-path", world.teacher]
    size = json.loads((world.student / "config.json").read_text())["vocab_size"]
    main, options = finetune.main, world.training(save, *extra, type="kd")
    if stage == 1:
        main, options = train_velocity_field.main, world.stage_1(save, *extra)
    refused(main, options, save, "vocabulary", size + 8, size)


def test_a_missing_velocity_field(world, refused, tmp_path):
    options = world.training(tmp_path / "save", "--velocity-field-path", world.student, type="kd-contra")
    refused(finetune.main, options, tmp_path / "save", "velocity_field.json is missing", "train_velocity_field.py")


def test_a_velocity_field_for_other_widths(world, refused, tmp_path, field_maker):
    field_maker(tmp_path / "field", dropout=0.1, student_width=32)
    options = world.training(tmp_path / "save", "--velocity-field-path", tmp_path / "field", type="kd-contra")
    refused(finetune.main, options, tmp_path / "save", tmp_path / "field", "32", "16", "student's hidden size")


def test_a_velocity_field_towards_another_teacher_is_refused_and_from_another_student_noted(
    world, train_field, train, refused, tmp_path
):
    field, save, more = tmp_path / "field", tmp_path / "save", ["--total-iters", 1]
    assert train_field(field, *more).status == 0
    teacher, student = (shutil.copytree(model, tmp_path / model.name) for model in (world.teacher, world.student))
    copy = shutil.copytree(world.student, tmp_path / "copy")
    exchange_weights(teacher)
    exchange_weights(student)
    more += ["--velocity-field-path", field]
    options = world.training(save, *more, "--teacher-model-path", teacher, type="kd-contra")
    words = f"{field} was trained with teacher_model_path {world.teacher}, not {teacher}", "train the velocity field"
    refused(finetune.main, options, save, *words)
    outcome = train(save, *more, type="kd-contra", student=copy)
    assert (outcome.status, outcome.err.count("note: ")) == (0, 0), "the same model"
    outcome = train(tmp_path / "other", *more, type="kd-contra", student=student)
    said = f"note: {field} was made with model_path {world.student}, not {student}"
    assert (outcome.status, outcome.err.count(said)) == (0, 1)


def test_pairs_that_another_teacher_wrote_are_noted(world, call_script, run, tmp_path):
    pairs = make_pairs(world, tmp_path, call_script)
    models = {"arguments": {"teacher_model_path": "another"}, "inputs": {}, "global_batch_size": None}
    options = options_of(world, pairs, "distillm2-v1", tmp_path / "save", "--total-iters", 1)
    for known in (False, True):
        if known:
            (pairs / "models.json").write_text(json.dumps(models))
        outcome = run(finetune.main, [*options, "--resume", "never"])
        note = f"note: {pairs} was made with model_path None, not {world.student}"
        assert (outcome.status, outcome.err.count("note:"), outcome.err.count(note)) == (0, known, known)


def test_a_velocity_field_for_another_number_of_pairs(world, refused, tmp_path):
    options = world.training(tmp_path / "save", "--num-distill-layers", 2, type="kd-contra")
    refused(finetune.main, options, tmp_path / "save", world.field, "3", "2", "--num-distill-layers")


# ---- evaluation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data-names", "dolly", "alpaca"], ["--data-names", "alpaca", "self_inst"]),
        (["--seeds", "ten"], ["--seeds", "'ten'"]),
        (["--seeds", -1], ["--seeds", "-1"]),
        (["--num-rows", 0], ["--num-rows", "0"]),
        (["--eval-batch-size", 0], ["--eval-batch-size", "0"]),
        (["--max-prompt-length", 64], ["--max-prompt-length 64", "--max-length 64"]),
        (["--max-length", 128], ["--max-length 128", "64"]),
        (["--no-repeat-ngram", 3], ["--no-repeat-ngram"]),
    ],
    ids=lambda value: "=".join(map(str, value)) if isinstance(value, list) and str(value[0]).startswith("--") else "",
)
def test_a_bad_option_of_evaluation(options, words, world, refused, tmp_path):
    refused(evaluate.main, world.evaluation(tmp_path / "save", *options), tmp_path / "save", *words)


def test_a_missing_test_set(world, refused, tmp_path):
    data = shutil.copytree(world.data, tmp_path / "data")
    (data / "vicuna" / "valid.jsonl").unlink()
    options = world.evaluation(tmp_path / "save", "--data-dir", data)
    refused(evaluate.main, options, tmp_path / "save", data / "vicuna" / "valid.jsonl", "does not exist")


def test_an_evaluated_folder_that_is_no_checkpoint(world, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    options = world.evaluation(tmp_path / "save", "--model-path", tmp_path / "empty")
    refused(evaluate.main, options, tmp_path / "save", tmp_path / "empty", "is no checkpoint")


def test_an_adapter_that_is_none(world, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    options = world.evaluation(tmp_path / "save", "--peft-path", tmp_path / "empty")
    refused(evaluate.main, options, tmp_path / "save", tmp_path / "empty", "adapter_config.json")


# ---- as a user starts them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["finetune.py", "evaluate.py"])
def test_a_real_process_says_one_line(script, world, tmp_path):
    save = tmp_path / "save"
    words = {
        "finetune.py": world.training(save, "--model-path", world.foreign_teacher, type="kd"),
        "evaluate.py": world.evaluation(save, "--data-dir", tmp_path / "nowhere"),
    }[script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, script, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100
    )
    assert_one_line(ended.returncode, ended.stderr)
    assert not save.exists()


def test_a_teacher_whose_tokenizer_means_other_tokens_is_refused(refused, world, tmp_path):
    teacher, save = shutil.copytree(world.teacher, tmp_path / "teacher"), tmp_path / "run"
    text = (teacher / "tokenizer.json").read_text()
    tokenizer = json.loads(text)
    vocabulary = tokenizer["model"]["vocab"]
    first, second = sorted(vocabulary)[100:102]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(
        finetune.main, world.training(save, "--teacher-model-path", teacher, type="kd"), save, "tokenizers", teacher
    )
