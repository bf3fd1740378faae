"""Whatever arguments and variables hold: one line if it cannot be used, and none of it is ever executed."""

import re

import pytest

from tests.scripts.commands import REPOSITORY, VARIABLES, assert_one_line, bash, scripts

TRAINING = "scripts/smollm2/sft/sft_student.sh"
UNCHECKED = {"OMP_NUM_THREADS", "DRY_RUN", "CUDA_VISIBLE_DEVICES"}  # text that is compared, and what GPU_IDX becomes
NUMBERS = """
    NNODES NODE_RANK GPU_NUM MASTER_PORT MAX_LENGTH MAX_PROMPT_LENGTH RESPONSE_LENGTH EVAL_BATCH_SIZE NUM_DISTILL_LAYERS
    VELOCITY_N_LAYERS VELOCITY_D_MODEL DEV_NUM TRAIN_ROWS DEV_ROWS TEST_ROWS HEAL_CHUNKS CORPUS_LENGTH EPOCHS
    TEACHER_EPOCHS INIT_EPOCHS SFT_EPOCHS FIELD_EPOCHS VALUES WAIT_SECONDS SEEDS
"""
OTHERS = {"ROWS", "EVAL_OPTIONS", "MASTER_ADDR", "PRECISION"}
PATHS = [name for name in VARIABLES.split() if name not in {*NUMBERS.split(), *OTHERS, *UNCHECKED}]


def run(tmp_path, **variables):
    """Dry-run a training script; GPU_NUM and MASTER_PORT are arguments."""
    arguments = [str(REPOSITORY), variables.pop("MASTER_PORT", "2012"), variables.pop("GPU_NUM", "1")]
    return bash(f"{REPOSITORY}/{TRAINING}", *arguments, cwd=tmp_path, DRY_RUN="1", **variables)


@pytest.mark.parametrize("name", NUMBERS.split())
def test_bug_a_command_in_a_variable_that_is_calculated_with_was_run(name, tmp_path):
    text = "BASH_VERSINFO[$(touch x)0]"
    assert_one_line(run(tmp_path, **{name: text}), name, text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in PATHS if name != "BASE_PATH"])
def test_a_path_that_would_be_read_as_an_option_is_refused(name, tmp_path):
    assert_one_line(run(tmp_path, **{name: "-x"}), f"{name}='-x' is not a path without a leading '-'")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NNODES", "two"),
        ("NNODES", "0"),
        ("NODE_RANK", "-1"),
        ("NODE_RANK", "08"),
        ("GPU_NUM", "99999999999999999999"),
        ("GPU_NUM", "1000"),
        ("MASTER_PORT", "65536"),
        ("MASTER_PORT", "0"),
        ("MASTER_ADDR", "--nnodes=7"),
        ("MASTER_ADDR", "a b"),
        ("PRECISION", "half"),
        ("VALUES", "*"),
        ("VALUES", "2 -3"),
        ("EVAL_OPTIONS", "30"),
        ("EVAL_OPTIONS", "--seeds 10\n20"),
        ("WAIT_SECONDS", "-1"),
        ("WAIT_SECONDS", "soon"),
        ("MAX_LENGTH", "1e3"),
        ("DEV_NUM", "-2"),
        ("EPOCHS", "1.5"),
        ("SAVE_PATH", "a\nb"),
    ],
)
def test_a_variable_that_cannot_be_used_is_one_clear_line(name, text, tmp_path):
    shown = f"{name}='{text}'" if "\n" not in text else f"{name}=$'" + text.replace("\n", "\\n") + "'"
    assert_one_line(run(tmp_path, **{name: text}), f"{shown} is not ")


def test_a_node_that_does_not_exist_is_one_clear_line(tmp_path):
    assert_one_line(run(tmp_path, NNODES="2", NODE_RANK="2"), "NODE_RANK='2' is not below NNODES='2'")


@pytest.mark.parametrize(
    "variables",
    [
        {"NNODES": "16", "NODE_RANK": "15", "MASTER_ADDR": "fe80::1%eth0", "MASTER_PORT": "65535", "GPU_NUM": "8"},
        {"MASTER_ADDR": "node-0.cluster", "VALUES": " 256  512 ", "EVAL_OPTIONS": "--seeds 10 20", "DEV_NUM": "-1"},
        {"WAIT_SECONDS": "0.1", "RESULTS_DIR": "a b/ä", "CKPT": "owner/name", "LM_DATA_DIR": "", "PRECISION": "bf16"},
    ],
)
def test_what_can_be_used_is_taken(variables, tmp_path):
    assert run(tmp_path, **variables).returncode == 0


def test_every_variable_that_the_scripts_read_is_checked():
    table = (REPOSITORY / "scripts/checks.sh").read_text()
    every = [path.read_text() for folder in ("scripts", "runs") for path in (REPOSITORY / folder).rglob("*.sh")]
    read = set(re.findall(r"\$\{([A-Z_]+):?-", "".join(every)))
    outside = {"VIRTUAL_ENV", "CONDA_PREFIX", "OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"}  # other programs'
    assert read - outside <= set(VARIABLES.split()) | {"MASTER_PORT", "GPU_NUM"}
    unchecked = {name for name in VARIABLES.split() if not re.search(rf"\b{name}\b", table)}
    assert unchecked == UNCHECKED


def test_bug_a_search_path_for_cd_led_to_another_folder(tmp_path):
    for folder in ("scripts/gpt2", "runs/gpt2"):
        (tmp_path / folder).mkdir(parents=True)
    plain, searched = (bash("runs/gpt2/kd.sh", DRY_RUN="1", **more) for more in ({}, {"CDPATH": str(tmp_path)}))
    assert searched.returncode == 0
    assert searched.stdout == plain.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("scripts/gpt2/eval/eval_main_dolly.sh", [".", "2012", "1", "--seeds"], "CHECKPOINT='--seeds' is not a path"),
        ("scripts/gpt2/eval/run_eval.sh", ["kd/base"], "GPU_IDX='kd/base' is not the index of a GPU"),
        ("scripts/gpt2/eval/run_eval.sh", ["0", "-x"], "CHECKPOINT='-x' is not a path"),
        (
            "scripts/llama2/eval/eval_main_dolly_lora.sh",
            [".", "2012", "1", "n", "kd/7B_13B", "--seeds"],
            "BASE_MODEL='--seeds' is not a path",
        ),
    ],
)
def test_an_option_in_the_place_of_an_argument_is_one_clear_line(script, arguments, message):
    assert_one_line(bash(script, *arguments, DRY_RUN="1"), message)


def test_the_arguments_of_the_scripts_are_checked_in_dry_runs_of_runs_too():
    for script in scripts("runs"):
        assert_one_line(bash(script, DRY_RUN="1", NNODES="a[0]"), "NNODES='a[0]' is not a count")
