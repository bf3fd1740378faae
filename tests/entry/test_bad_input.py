"""A user's mistake ends in one clear line and a non-zero exit, with nothing half-written."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import evaluate
import finetune
from tests.entry.conftest import assert_one_line
from tests.entry.every_method import FIELDS, command_of
from tests.entry.outputs import contents
from tests.entry.processes import ENVIRONMENT, ROOT
from tests.entry.tiny_world import exchange_weights, make_field
from tools import process_data_dolly

CONTRA, PAIRS = "adaptive-srkl-contra", "distillm2-v1"


def given(value):
    return " ".join(map(str, value)) if isinstance(value, list) else ""


# ---- options -----------------------------------------------------------------------------------------------------

LENGTHS_OPTIONS = [
    (["--max-prompt-length", 64], ["--max-prompt-length 64", "--max-length 64"]),
    (["--max-length", 128], ["--max-length 128", "64"]),
]
TRAINING_OPTIONS = [
    *LENGTHS_OPTIONS,
    (["--lerning-rate", 1], ["unknown option", "--lerning-rate"]),
    (["--save-inter", 1], ["unknown option", "--save-inter"]),
    (["--type", "kdd"], ["'kdd'", "valid are"]),
    (["--type", "lm-contra"], ["'lm-contra'", "valid are"]),
    (["--type", "adaptive-lm"], ["'adaptive-lm'", "valid are"]),
    (["--lr", 1e-9], ["--lr 1e-09", "--lr-min 1e-07"]),
    (["--report-to", "carrier-pigeon"], ["carrier-pigeon"]),
    (["--report-to", "wandb"], ["wandb", "not installed"]),
    (["--model-type", "llama"], ["--model-type", "llama", "gpt2"]),
    (["--peft", "lora"], ["q_proj"]),
    (["--deepspeed"], ["--deepspeed", "--deepspeed_config"]),
    (["--data-dir", "CORPUS", "--eval-gen"], ["valid.jsonl", "no references"]),
]
PAIR_OPTIONS = [
    (["--kd-ratio", 0.5], ["--kd-ratio must be 1", "0.5", PAIRS]),
    (["--data-dir", "STORE"], ["holds no response pairs", "tools/build_response_pairs.py"]),
    (["--do-valid", "false", "--max-length", 128], ["--max-length 128", "64"]),
]
# Values that are refused with their option's name.
BAD_VALUES = {
    "lm": "epochs=0 epochs=1.5 batch-size=0 save-interval=0 train-num=0 dev-num=-2 warmup-iters=-1 seed=-1 lr=fast "
    "lr=nan weight-decay=-1 clip-grad=-1 top-k=-1 top-p=0 temperature=0 no-repeat-ngram-size=-1 repetition-penalty=0 "
    "precision=fp8",
    "kd": "kd-ratio=2 lm-coef=-1",
    "adaptive-srkl": "capacity=0 replay-ratio=often",
    CONTRA: "contra-weight=-1 curriculum=slow num-distill-layers=5 velocity-update-interval=0",
    PAIRS: "generate-sgo-interval=0",
}
BAD_PAIRS = [(name, *pair.split("=")) for name, pairs in BAD_VALUES.items() for pair in pairs.split()]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        *(("lm", *case) for case in TRAINING_OPTIONS),
        *((PAIRS, *case) for case in PAIR_OPTIONS),
        *((name, [f"--{option}", value], [f"--{option}", value]) for name, option, value in BAD_PAIRS),
        (FIELDS[1], *LENGTHS_OPTIONS[1]),
        (CONTRA, ["--num-distill-layers", 2], ["3", "2", "--num-distill-layers"]),
    ],
    ids=given,
)
def test_a_bad_option_of_training(name, options, words, world, pairs, refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    options = [{"STORE": world.store, "CORPUS": world.corpus}.get(option, option) for option in options]
    refused(*command_of(world, pairs, name, tmp_path / "save", *options), tmp_path / "save", *words)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        *(("lm", option) for option in ("--model-path", "--data-dir", "--save")),
        *[("kd", "--teacher-model-path"), (CONTRA, "--velocity-field-path"), ("adaptive-srkl", "--do-valid")],
        (PAIRS, "--gt-data-dir"),
    ],
)
def test_an_option_that_a_run_needs(name, missing, world, pairs, refused, tmp_path):
    _, options = command_of(world, pairs, name, tmp_path / "save")
    at = options.index(missing)
    del options[at : at + (1 if missing == "--do-valid" else 2)]
    refused(finetune.main, options, tmp_path / "save", missing, *([name] if name != "lm" else []))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *LENGTHS_OPTIONS,
        (["--data-names", "dolly", "alpaca"], ["--data-names", "alpaca", "self_inst"]),
        (["--seeds", "ten"], ["--seeds", "'ten'"]),
        (["--seeds", -1], ["--seeds", "-1"]),
        (["--num-rows", 0], ["--num-rows", "0"]),
        (["--eval-batch-size", 0], ["--eval-batch-size", "0"]),
        (["--no-repeat-ngram", 3], ["--no-repeat-ngram"]),
    ],
    ids=given,
)
def test_a_bad_option_of_evaluation(options, words, world, refused, tmp_path):
    refused(evaluate.main, world.evaluation(tmp_path / "save", *options), tmp_path / "save", *words)


@pytest.mark.parametrize(
    ("name", "options", "warning"),
    [
        (
            "lm",
            ["--skew_alpha", 0.2, "--capacity", 7, "--curriculum", "step"],  # underscores or not: the same option
            "warning: --type lm ignores --capacity, --curriculum, --skew-alpha",
        ),
        (
            FIELDS[0],  # takes the options of a whole run
            ["--eval-interval", 3, "--contra-weight", 2, "--type", "srkl-contra", "--velocity-epochs", 3],
            "warning: stage 1 of CONTRA ignores --contra-weight, --type, --velocity-epochs",
        ),
    ],
    ids=given,
)
def test_options_that_are_ignored_are_one_warning_that_names_them(name, options, warning, world, pairs, run, tmp_path):
    outcome = run(*command_of(world, pairs, name, tmp_path / "save", *options, "--dry-run"))
    assert [line for line in outcome.err.splitlines() if line.startswith("warning: ")] == [warning]
    assert outcome.status == 0


# ---- folders -----------------------------------------------------------------------------------------------------


def remove(name):
    return lambda folder: (folder / name).unlink()


def truncate(name):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 2)


def insert_line(name, line):
    def insert(folder):
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join([lines[0], line, *lines[1:]]))

    return insert


def use_large_id(store):
    content = (store / "train_0.bin").read_bytes()
    (store / "train_0.bin").write_bytes((60_000).to_bytes(2, "little") + content[2:])
    (store / "meta.json").unlink()


def exchange_tokens(model):
    """Swap the meanings of two tokens."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = sorted(vocabulary)[100:102]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))


def use_other_width(field):
    shutil.rmtree(field)
    make_field(field, dropout=0.1, student_width=32)


NO_MODEL = "is not a checkpoint", "config.json"
WIDTHS = "32", "16", "student's hidden size"
# Which run, which of its folders, what is wrong with the folder (None: it does not exist), and what the line says.
DAMAGES = {
    "no data": ("lm", "--data-dir", None, ["does not exist", "process the data"]),
    "no corpus": ("kd", "--lm-data-dir", None, ["does not exist"]),
    "no model": ("lm", "--model-path", None, ["does not exist"]),
    "no test sets": ("evaluation", "--data-dir", None, ["does not exist"]),
    "a missing test set": ("evaluation", "--data-dir", remove("vicuna/valid.jsonl"), ["vicuna/valid.jsonl"]),
    "no validation": ("lm", "--data-dir", remove("valid_0.bin"), ["valid_0.bin does not exist"]),
    **{
        f"a truncated store for {name}": (name, "--data-dir", truncate("train_0.bin"), ["bytes", "process the data"])
        for name in ("lm", "adaptive-srkl-contra", FIELDS[0])
    },
    "a large id": ("lm", "--data-dir", use_large_id, ["60000", "vocabulary"]),
    "no configuration": ("lm", "--model-path", remove("config.json"), NO_MODEL),
    "no configuration of the teacher": ("kd", "--teacher-model-path", remove("config.json"), NO_MODEL),
    "no configuration to evaluate": ("evaluation", "--model-path", remove("config.json"), NO_MODEL),
    "no adapter": ("evaluation", "--peft-path", lambda folder: None, ["adapter_config.json"]),
    "no weights": ("lm", "--model-path", remove("model.safetensors"), ["cannot load"]),
    "truncated weights": ("lm", "--model-path", truncate("model.safetensors"), ["cannot load"]),
    "no tokenizer": ("lm", "--model-path", remove("tokenizer.json"), ["tokenizer"]),
    "a teacher of other tokens": ("kd", "--teacher-model-path", exchange_tokens, ["tokenizers"]),
    "no field": (CONTRA, "--velocity-field-path", remove("velocity_field.json"), ["train_velocity_field.py"]),
    "a field of other widths": (CONTRA, "--velocity-field-path", use_other_width, WIDTHS),
    "no JSON": ("processing", "--data-dir", insert_line("train.jsonl", "{oops"), ["train.jsonl:2", "not JSON"]),
    "no response": ("processing", "--data-dir", insert_line("train.jsonl", '{"instruction": "a"}'), ["`output`"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_missing_or_damaged(damage, world, pairs, refused, tmp_path):
    name, option, act, words = DAMAGES[damage]
    save, folder = tmp_path / "save", tmp_path / "folder"
    if name == "evaluation":
        main, options = evaluate.main, world.evaluation(save)
    elif name == "processing":
        options = ["--data-dir", str(world.data / "dolly"), "--processed-data-dir", save, "--model-path", world.student]
        main, options = process_data_dolly.main, [*options, "--data-process-workers", 1]
    else:
        main, options = command_of(world, pairs, name, save)
    if act is not None:
        sound = options[options.index(option) + 1] if option in options else world.student
        act(shutil.copytree(sound, folder))
    refused(main, [*options, option, folder], save, folder, *words)


@pytest.mark.parametrize("name", ["kd", FIELDS[0]])
def test_teacher_and_student_of_different_vocabularies(name, world, pairs, refused, tmp_path):
    size = json.loads((world.student / "config.json").read_text())["vocab_size"]
    command = command_of(world, pairs, name, tmp_path / "save", "--model-path", world.foreign_teacher)
    refused(*command, tmp_path / "save", "vocabulary", size + 8, size)


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
    options = world.training(save, *more, "--teacher-model-path", teacher, type=CONTRA)
    words = f"{field} was trained with teacher_model_path {world.teacher}, not {teacher}", "train the velocity field"
    refused(finetune.main, options, save, *words)
    outcome = train(save, *more, type=CONTRA, student=copy)
    assert (outcome.status, outcome.err.count("note: ")) == (0, 0), "the same model"
    outcome = train(tmp_path / "other", *more, type=CONTRA, student=student)
    said = f"note: {field} was made with model_path {world.student}, not {student}"
    assert (outcome.status, outcome.err.count(said)) == (0, 1)


@pytest.mark.parametrize("known", [False, True])
def test_pairs_that_another_teacher_wrote_are_noted(known, world, pairs, run, tmp_path):
    mine = shutil.copytree(pairs, tmp_path / "pairs")
    if known:
        models = {"arguments": {"teacher_model_path": "another"}, "inputs": {}, "global_batch_size": None}
        (mine / "models.json").write_text(json.dumps(models))
    outcome = run(*command_of(world, mine, "distillm2-v1", tmp_path / "save", "--total-iters", 1))
    note = f"note: {mine} was made with model_path None, not {world.student}"
    assert (outcome.status, outcome.err.count("note:"), outcome.err.count(note)) == (0, known, known)


# ---- as a user starts them ---------------------------------------------------------------------------------------


def test_a_real_process_says_one_line(world, tmp_path):
    command = [sys.executable, "evaluate.py", *world.evaluation(tmp_path / "save", "--data-dir", tmp_path / "nowhere")]
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
    assert_one_line(ended.returncode, ended.stderr)
    assert contents(tmp_path) == {}
