"""Guarantees of the scripts in runs/: the rows of their tables, how seeds are kept apart, how a table was made."""

import re
import shlex
import subprocess
from functools import cache

import pytest

from tests.scripts.commands import REPOSITORY, Command, assert_one_line, bash, dry_run, environment, scripts

RUNS = scripts("runs")
ONE_OF_EACH_FAMILY = [run for run in RUNS if run.endswith(("/distillm_contra.sh", "/num_layers.sh"))]
TRAININGS = ("finetune.py", "train_velocity_field.py")


@cache
def plain(run: str) -> list[Command]:
    """Return the commands of a run without options or variables."""
    return dry_run(run)


def table_of(commands: list[Command]) -> Command:
    (table,) = (command for command in commands if command.program == "tools/make_results_table.py")
    return table


def rows_of(table: Command, option: str = "row") -> dict[str, list[str]]:
    """Return the folders of each row by its name."""
    rows: dict[str, list[str]] = {}
    name = ""
    for word in table.options[option]:
        name, path = word.split("=") if "=" in word else (name, word)
        rows.setdefault(name, []).append(path)
    return rows


def saved_by(commands: list[Command], *programs: str) -> list[str]:
    return [command.value("save") for command in commands if command.program in programs]


# ---- rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS)
def test_every_run_ends_with_teacher_sft_and_its_methods_in_one_table_with_intervals(run):
    commands = plain(run)
    table = table_of(commands)
    names = list(rows_of(table))
    assert names[:2] == ["Teacher", "SFT"] and len(names) > 2
    baselines = [name for name in names[1:] if "CONTRA" not in name]
    assert table.options["baseline"] == baselines and len(baselines) > 1
    assert {name.removesuffix(" + CONTRA") for name in names if name.endswith(" + CONTRA")} <= set(baselines)
    assert [path for paths in rows_of(table).values() for path in paths] == saved_by(commands, "evaluate.py")
    trained = {*saved_by(commands, "finetune.py", "tools/keep_best_run.py")}
    assert {path for paths in rows_of(table, "run").values() for path in paths} <= trained


@pytest.mark.parametrize("run", [run for run in RUNS if run.endswith("_contra.sh")])
def test_a_run_of_contra_trains_the_plain_method_beside_it(run):
    names = list(rows_of(table_of(plain(run))))
    assert len(names) == 4 and names[3] == f"{names[2]} + CONTRA"


def test_rows_names_the_rows_of_a_run_and_nothing_else_is_trained():
    commands = dry_run("runs/gpt2/kd.sh", ROWS=" KD + CONTRA,SFT ")
    train = "./results/gpt2/train"
    models = ["sft/gpt2-xlarge", "sft/gpt2-base", "init/gpt2-base", "velocity_field", "contra/kd/base"]
    assert saved_by(commands, *TRAININGS) == [f"{train}/{model}" for model in models]
    assert list(rows_of(table_of(commands))) == ["SFT", "KD + CONTRA"]
    assert saved_by(dry_run("runs/tiny/all.sh", ROWS="SFT"), *TRAININGS)[0] == "./results/tiny/train/base/student"


def test_a_row_that_the_family_lacks_is_one_clear_line():
    result = bash("runs/qwen2.5/distillm.sh", ROWS="SFT, KD")
    assert_one_line(
        result, "ROWS: 'KD' is not a row of qwen2.5: name some of Teacher, SFT, DistiLLM, DistiLLM + CONTRA, separated"
    )
    assert "an ablation needs DistiLLM" in bash("runs/ablation/num_layers.sh", ROWS="SFT", DRY_RUN="1").stderr


def test_a_teacher_of_the_users_is_the_teacher_of_the_table():
    commands = dry_run("runs/gpt2/kd.sh", TEACHER_CKPT="someone/gpt2-xl-dolly")
    evaluated = [command.value("model-path") for command in commands if command.program == "evaluate.py"]
    assert evaluated[0] == "someone/gpt2-xl-dolly"
    assert "./results/gpt2/train/sft/gpt2-xlarge" not in saved_by(commands, *TRAININGS)


# ---- seeds -------------------------------------------------------------------------------------------------------


def strip(commands: list[Command]) -> list[dict[str, list[str]]]:
    return [{name: value for name, value in command.options.items() if name != "command"} for command in commands]


@pytest.mark.parametrize("run", ["runs/gpt2/distillm2_contra.sh", "runs/tiny/fdd.sh", "runs/openllama2/fdd_contra.sh"])
def test_a_seed_trains_everything_of_the_student_anew_and_all_share_the_teacher(run):
    family = run.split("/")[1]
    results, answers = f"./results/{family}", f"./data/distillm2/{family}"
    once, commands = plain(run), dry_run(run, SEEDS="20 10")
    shared = {path for path in saved_by(once, *TRAININGS) if "/base/" in path} | {
        rows_of(table_of(once), "run")["Teacher"][0]
    }
    for program in (*TRAININGS, "tools/generate_responses.py", "tools/keep_best_run.py"):
        option = "output" if "responses" in program else "save"
        own = {command.value(option) for command in once if command.program == program}
        others = {
            path.replace(results, f"{results}/seed-20").replace(answers, f"{answers}/seed-20") for path in own - shared
        }
        assert {command.value(option) for command in commands if command.program == program} == own | others
    for command in commands:
        if command.program in TRAININGS:
            of_twenty = command.value("save").startswith(f"{results}/seed-20/")
            assert (command.options["seed"] == ["20"]) is of_twenty
            if of_twenty and "teacher-model-path" in command.options:
                assert "seed-20" not in command.value("teacher-model-path")
                assert "seed-20" not in command.options.get("teacher-peft-path", [""])[0]
    rows = rows_of(table_of(commands))
    assert len(rows.pop("Teacher")) == 1
    for name, paths in rows.items():
        (own_folder,) = rows_of(table_of(once))[name]
        assert paths == [own_folder.replace(results, f"{results}/seed-20"), own_folder]


@pytest.mark.parametrize("run", ONE_OF_EACH_FAMILY)
def test_the_own_seed_of_the_scripts_changes_nothing(run):
    assert strip(dry_run(run, SEEDS="10")) == strip(plain(run))


def test_an_ablation_has_as_many_runs_of_each_value_as_seeds():
    commands = dry_run("runs/ablation/num_layers.sh", SEEDS="10 20", VALUES="2")
    assert rows_of(table_of(commands), "run")["CONTRA, num_layers 2"] == [
        f"./results/gpt2/{seed}train/ablation/num_layers/2" for seed in ("", "seed-20/")
    ]
    fields = [command.value("velocity-field-path") for command in commands if "velocity-field-path" in command.options]
    assert fields == [f"./results/gpt2/{seed}train/velocity_field/num_layers/2" for seed in ("", "seed-20/")]


@pytest.mark.parametrize(
    ("run", "variables", "message"),
    [
        ("gpt2/kd", {"SEEDS": "10 x"}, "SEEDS='10 x' is not numbers separated by spaces"),
        ("gpt2/kd", {"SEEDS": "10,20"}, "is not numbers separated by spaces"),
        ("gpt2/kd", {"SEEDS": "10 010"}, "is not numbers separated by spaces"),
        ("gpt2/kd", {"SEEDS": " "}, "is not numbers separated by spaces"),
        ("gpt2/kd", {"SEEDS": "20 20"}, "SEEDS='20 20' names 20 twice"),
        ("llama2/fdd", {"SEEDS": "10 20"}, "some scripts of llama2 already use 20"),
        ("gpt2/kd", {"SEEDS": "1 2", "VELOCITY_FIELD_PATH": "/f"}, "VELOCITY_FIELD_PATH fits one student"),
        ("gpt2/kd", {"SEEDS": "1 2", "PAIR_DATA_DIR": "/f"}, "PAIR_DATA_DIR holds the answers of one student"),
    ],
)
def test_seeds_that_would_not_be_other_runs_are_one_clear_line(run, variables, message):
    assert_one_line(bash(f"runs/{run}.sh", **variables), message)


def test_seeds_and_a_seed_for_all_trainings_are_one_clear_line():
    assert_one_line(
        bash("runs/gpt2/kd.sh", ".", "2012", "1", "--seed", "20", SEEDS="10 20"), "SEEDS='10 20' sets --seed"
    )


@pytest.mark.parametrize("family", ["gpt2", "openllama2", "llama2", "qwen2.5", "smollm2", "tiny"])
def test_the_seeds_that_scripts_say_themselves_are_known(family):
    """Otherwise one of SEEDS could be a run that a script has already made as seed 10."""
    texts = [path.read_text() for path in (REPOSITORY / "scripts" / family).rglob("*.sh")]
    said = set(re.findall(r"--seed (\d+)", "\n".join(texts)))
    known = re.search(r"^MORE_OWN_SEEDS=\((.*)\)", "\n".join(texts), re.MULTILINE)
    assert said - {"10"} == set(known.group(1).split() if known else ())


# ---- how a table was made ----------------------------------------------------------------------------------------

CHANGED = {
    "SEEDS": "10 20",
    "ROWS": "SFT, FDD",
    "EVAL_OPTIONS": "--num-rows 3",
    "RESULTS_DIR": "./results/it's mine",
    "PRECISION": "bf16",
    "LM_DATA_DIR": "",
}


@pytest.mark.parametrize("variables", [{}, CHANGED])
@pytest.mark.parametrize("arguments", [(), (".", "4711", "2", "--title", "a b 'c' $d")])
def test_the_line_that_a_table_is_made_with_starts_the_same_run_again(variables, arguments):
    first = bash("runs/gpt2/fdd.sh", *arguments, DRY_RUN="1", **variables)
    line = table_of([Command(shlex.split(text)) for text in first.stdout.splitlines() if ".py" in text]).value(
        "command"
    )
    again = subprocess.run(
        ["bash", "-c", line], cwd=REPOSITORY, env=environment(DRY_RUN="1"), capture_output=True, text=True, check=True
    )
    assert again.stdout == first.stdout
    if not variables and not arguments:
        assert line == "bash runs/gpt2/fdd.sh"


def test_a_variable_at_its_default_is_not_named():
    defaults = {"PRECISION": "auto", "RESULTS_DIR": "./results/gpt2", "NNODES": "1", "MAX_LENGTH": "256"}
    line = table_of(dry_run("runs/gpt2/kd.sh", **defaults)).value("command")
    assert line == "MAX_LENGTH=256 bash runs/gpt2/kd.sh"
    assert (
        table_of(dry_run("runs/llama2/fdd.sh", TEACHER_PEFT_CKPT=""))
        .value("command")
        .startswith("TEACHER_PEFT_CKPT='' bash")
    )


@pytest.mark.parametrize("run", RUNS)
def test_a_run_writes_nothing_that_git_tracks(run):
    """The repository's own tables are where no run writes."""
    paths = {path for command in plain(run) for name in ("save", "output") for path in command.options.get(name, [])}
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *paths], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert set(ignored.stdout.splitlines()) == paths
