"""The gpt2 scripts say what the published recipe says: the table, written down a second time."""

import pytest

from tests.scripts.commands import Command, dry_run

SHARED = {
    "model-type": "gpt2",
    "data-dir": "./processed_data/dolly/full/gpt2/",
    "lr-decay-style": "cosine",
    "weight-decay": 1e-2,
    "clip-grad": 1.0,
    "warmup-iters": 0,
    "max-length": 512,
    "max-prompt-length": 256,
    "dev-num": 1000,
    "save-interval": -1,
    "eval-interval": -1,
    "log-interval": 10,
    "seed": 10,
    "precision": "auto",
}
SHARED_FLAGS = {"do-train", "do-valid", "eval-gen"}
SAMPLING = {"temperature": 1.0, "top-p": 1.0, "top-k": 0}
DEEPSPEED = {"deepspeed_config": "./configs/deepspeed/ds_config.json"}
DISTILLATION = {
    "kd-ratio": 1.0,
    "lm-data-dir": "./processed_data/openwebtext/gpt2/512/22.87K/",
    "teacher-model-path": "./results/gpt2/train/sft/gpt2-xlarge",
}
ON_POLICY = {"init-threshold": 0.0, "loss-eps": 0.1, "capacity": 1000}
CONTRA = {
    "velocity-field-path": "./results/gpt2/train/velocity_field",
    "velocity-epochs": 1,
    "velocity-update-interval": 1,
    "num-distill-layers": 6,
}
PAIRS = {
    "data-dir": "./data/distillm2/gpt2/formatted",
    "gt-data-dir": "./processed_data/dolly/full/gpt2/",
}
TRAIN = "./results/gpt2/train"
INIT = f"{TRAIN}/init/gpt2-base"

PARTS = {
    "teacher": DISTILLATION,
    "on-policy": ON_POLICY,
    "contra": CONTRA,
    "layers": {"num-distill-layers": 6},
    "pairs": PAIRS,
    "pair-field": {"velocity-field-path": "./results/gpt2/train/velocity_field/distillm2"},
}
# script, then the COLUMNS, then flags and parts of the recipe
TABLE = """
sft/sft_xlarge.sh gpt2-xl 4 2 16 5e-5 10 lm sft/gpt2-xlarge --only-save-last --gradient-checkpointing
sft/sft_base.sh gpt2 16 1 32 5e-4 20 lm sft/gpt2-base
init/init_base.sh gpt2 8 1 10 5e-4 3 lm init/gpt2-base
kd/kd_base.sh gpt2 16 1 64 5e-4 20 kd kd/base teacher
kd/contra_base.sh INIT 16 1 64 5e-4 20 fkl-contra contra/kd/base teacher contra
distillm/train_0.1B_1.5B.sh INIT 16 1 64 5e-4 20 adaptive-srkl distillm/0.1B_1.5B teacher on-policy
distillm/contra_0.1B_1.5B.sh INIT 16 1 64 5e-4 20 adaptive-srkl-contra contra/distillm/0.1B_1.5B teacher \
    on-policy contra
fdd/fdd_base.sh INIT 8 2 64 5e-4 20 rkl-fdd fdd/base teacher layers
fdd/contra_base.sh INIT 8 2 64 5e-4 20 rkl-contra-fdd contra/fdd/base teacher contra
distillm2/distillm2_v1_base.sh INIT 16 1 64 5e-4 20 distillm2-v1 distillm2/v1_base teacher pairs
distillm2/distillm2_v2_base.sh INIT 16 1 64 5e-4 20 distillm2-v2 distillm2/v2_base teacher pairs --gradual-beta
distillm2/contra_0.1B_1.5B.sh INIT 16 1 64 5e-4 20 distillm2-v2-contra contra/distillm2/0.1B_1.5B teacher pairs \
    contra pair-field --gradual-beta
""".strip().splitlines()
COLUMNS = ("model-path", "batch-size", "gradient-accumulation-steps", "eval-batch-size", "lr", "epochs", "type", "save")


def assert_options(command: Command, expected: dict, flags: set[str]) -> None:
    """The command has these values and flags, and nothing else."""
    assert {name for name, values in command.options.items() if not values} == flags
    given = {name: values for name, values in command.options.items() if values}
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        (text,) = given[name]
        assert text == value if isinstance(value, str) else float(text) == value, name


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line.split()[0])
def test_a_training_script_has_the_values_of_the_recipe(line):
    script, *words = line.replace("INIT", INIT).split()
    row, more = words[: len(COLUMNS)], words[len(COLUMNS) :]
    expected = SHARED | SAMPLING | DEEPSPEED | dict(zip(COLUMNS, row, strict=True))
    for part in more:
        expected |= PARTS.get(part, {})
    expected["save"] = f"{TRAIN}/{expected['save']}"
    flags = {word.removeprefix("--") for word in more if word not in PARTS}
    (command,) = dry_run(f"scripts/gpt2/{script}", ".", "2012", "1")
    assert command.program == "finetune.py"
    assert_options(command, expected, SHARED_FLAGS | {"do-sample", "deepspeed"} | flags)


@pytest.mark.parametrize(
    ("script", "data", "batch_size", "save"),
    [
        ("train_velocity_field.sh", SHARED["data-dir"], 8, "velocity_field"),
        ("distillm2/train_velocity_field_distillm2.sh", PAIRS["data-dir"], 16, "velocity_field/distillm2"),
    ],
)
def test_the_velocity_field_has_the_values_of_the_recipe(script, data, batch_size, save):
    (command,) = dry_run(f"scripts/gpt2/{script}", ".", "2012", "1")
    expected = SHARED | {
        "model-path": INIT,
        "teacher-model-path": DISTILLATION["teacher-model-path"],
        "data-dir": data,
        "batch-size": batch_size,
        "eval-batch-size": 32,
        "lr": 5e-4,
        "epochs": 3,
        "save": f"./results/gpt2/train/{save}",
        "velocity-n-layers": 4,
        "velocity-d-model": 1024,
        "num-distill-layers": 6,
    }
    assert command.program == "train_velocity_field.py"
    assert_options(command, expected, SHARED_FLAGS)


def test_the_data_scripts_have_the_values_of_the_recipe():
    shared = {
        "model-path": "gpt2",
        "model-type": "gpt2",
        "max-length": 512,
        "dev-num": 1000,
        "data-process-workers": 32,
    }
    dolly = {"data-dir": "./data/dolly/", "processed-data-dir": SHARED["data-dir"]}
    dolly |= {"max-prompt-length": 256, "train-num": -1}
    corpus = {"data-dir": "./data/openwebtext/", "processed-data-dir": DISTILLATION["lm-data-dir"], "train-num": 22870}
    for name, own in (("dolly", dolly), ("pretrain", corpus)):
        (command,) = dry_run(f"scripts/gpt2/tools/process_data_{name}.sh")
        assert command.program == f"tools/process_data_{name}.py"
        assert_options(command, shared | own, set())


SETS = ("dolly", "self_inst", "vicuna", "sinst", "uinst")


@pytest.mark.parametrize(
    ("script", "arguments", "sets"),
    [
        ("run_eval.sh", ("0", "contra/distillm/0.1B_1.5B"), SETS),
        *((f"eval_main_{name}.sh", (".", "2012", "1", "contra/distillm/0.1B_1.5B"), (name,)) for name in SETS),
    ],
)
def test_an_evaluation_is_one_process_with_the_values_of_the_recipe(script, arguments, sets):
    (command,) = dry_run(f"scripts/gpt2/eval/{script}", *arguments)
    assert command.program == "evaluate.py"
    assert command.options.pop("seeds") == ["10", "20", "30", "40", "50"]
    assert command.options.pop("data-names") == list(sets)
    expected = SAMPLING | {
        "model-path": "./results/gpt2/train/contra/distillm/0.1B_1.5B",
        "data-dir": "./data/",
        "save": "./results/gpt2/eval_main/contra_distillm_0.1B_1.5B",
        "eval-batch-size": 64,
        "max-length": 512,
        "max-prompt-length": 256,
        "no-repeat-ngram-size": 6,
        "precision": "auto",
    }
    assert_options(command, expected, {"do-sample"})


def test_teacher_and_student_answer_with_the_values_of_the_recipe_and_are_joined():
    *answers, joined = dry_run("scripts/gpt2/distillm2/generate_data.sh", ".")
    expected = {"max-prompt-length": 256, "max-new-tokens": 512, "eval-batch-size": 64, "precision": "auto"}
    expected |= {"temperature": 1.0, "top-p": 0.95, "top-k": 0, "seed": 42}
    sides = {"teacher": DISTILLATION["teacher-model-path"], "student": INIT}
    jobs = [(split, side) for split in ("train", "dev") for side in sides]
    for (split, side), command in zip(jobs, answers, strict=True):
        assert command.program == "tools/generate_responses.py"
        files = {"data": f"./data/dolly//{split}.jsonl", "model-path": sides[side]}
        files["output"] = f"./data/distillm2/gpt2/generated_{split}_{side}.jsonl"
        assert_options(command, expected | files, {"do-sample"})
    assert_options(joined, {"responses": "./data/distillm2/gpt2", "output": PAIRS["data-dir"]}, set())


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("num_layers", "num-distill-layers", "3"),
        ("velocity_depth", "velocity-n-layers", "3"),
        ("hidden_dim", "velocity-d-model", "3"),
    ],
)
def test_an_ablation_trains_the_field_and_the_student_anew_for_each_value(name, option, value):
    commands = dry_run(f"runs/ablation/{name}.sh", VALUES=f"2 {value}")
    fields = [command for command in commands if command.program == "train_velocity_field.py"]
    students = [command for command in commands if command.options.get("type") == ["adaptive-srkl-contra"]]
    defaults = {"num-distill-layers": "6", "velocity-n-layers": "4", "velocity-d-model": "1024"}
    for number, field, student in zip(("2", value), fields, students, strict=True):
        assert {key: field.value(key) for key in defaults} == defaults | {option: number}
        assert field.value("save") == student.value("velocity-field-path") == f"{TRAIN}/velocity_field/{name}/{number}"
        assert student.value("save") == f"{TRAIN}/ablation/{name}/{number}"
        assert student.value("num-distill-layers") == field.value("num-distill-layers")
    table = next(command for command in commands if "table" in command.program)
    assert table.options["row"] == [
        "Teacher=./results/gpt2/eval_main/sft_gpt2-xlarge",
        "SFT=./results/gpt2/eval_main/sft_gpt2-base",
        "DistiLLM=./results/gpt2/eval_main/distillm_0.1B_1.5B",
        *(f"CONTRA, {name} {number}=./results/gpt2/eval_main/ablation_{name}_{number}" for number in ("2", value)),
    ]
