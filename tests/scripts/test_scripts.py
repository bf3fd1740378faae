"""Guarantees of all scripts in scripts/ and runs/: what they print, what they read and write, how they fail."""

import shlex
import shutil
import subprocess
import sys

import pytest

from tests.scripts.commands import REPOSITORY, Command, bash, dry_run, scripts

RUNS = scripts("runs")
LEAVES = [script for script in scripts("scripts") if "/tools/" not in script and "/eval/" not in script]
EVALUATIONS = [script for script in scripts("scripts") if "/eval/" in script]
HUB_IDS = {"gpt2", "gpt2-xl", "HuggingFaceTB/SmolLM2-135M-Instruct"}
# What each program writes and reads, by option; `get_*` tools write their --data-dir.
WRITES = ("save", "processed-data-dir", "output")
READS = ("model-path", "teacher-model-path", "data-dir", "lm-data-dir", "velocity-field-path", "world", "runs")


def written_by(command: Command) -> set[str]:
    names = ("data-dir",) if "/get_" in command.program else WRITES
    return {path.rstrip("/") for name in names for path in command.options.get(name, [])}


def read_by(command: Command) -> set[str]:
    if "/get_" in command.program:
        return set()
    paths = {path for name in READS for path in command.options.get(name, [])}
    paths |= {value.split("=", 1)[1] for name in ("row", "run") for value in command.options.get(name, [])}
    return {path.rstrip("/") for path in paths}


@pytest.mark.parametrize("run", RUNS)
def test_every_path_that_a_run_reads_is_one_that_it_wrote_before(run):
    written: set[str] = set()
    for command in dry_run(run, ".", "2012", "1"):
        for path in read_by(command) - HUB_IDS:
            parents = {path} | {path[:end] for end, character in enumerate(path) if character == "/"}
            assert parents & written, f"{command.program} reads {path}"
        written |= written_by(command)


@pytest.mark.parametrize("script", LEAVES + EVALUATIONS + RUNS)
def test_a_dry_run_ends_with_one_full_command_line(script):
    """Extra options come last, quoted; more processes are started by torchrun with the port that was given."""
    arguments = ["0", "some/where"] if script.endswith("run_eval.sh") else [".", "4711", "2"]
    if "eval_main_" in script:
        arguments.append("some/where")
    extra = [] if script in RUNS else ["--title", "a b 'c' $d"]
    result = bash(script, *arguments, *extra, DRY_RUN="1")
    words = shlex.split(result.stdout.splitlines()[-1])
    assert words[-len(extra) :] == extra or not extra
    if "/tools/" in result.stdout.splitlines()[-1] or script.endswith("run_eval.sh"):
        assert words[0] == "python3"
    else:
        launcher = "torchrun --nproc_per_node 2 --nnodes 1 --node_rank 0 --master_addr 127.0.0.1 --master_port 4711"
        assert words[:11] == launcher.split()


def test_several_nodes_are_named_in_the_environment():
    script = "scripts/gpt2/sft/sft_base.sh"
    (command,) = dry_run(script, ".", "2012", "8", NNODES="2", NODE_RANK="1", MASTER_ADDR="node0")
    launcher = "torchrun --nproc_per_node 8 --nnodes 2 --node_rank 1 --master_addr node0 --master_port 2012"
    assert command.words[:11] == launcher.split()


@pytest.mark.parametrize("run", RUNS)
def test_extra_options_of_a_run_go_to_every_training_script_and_eval_options_to_evaluation(run):
    for command in dry_run(run, ".", "2012", "1", "--lr", "7", EVAL_OPTIONS="--num-rows 3 --precision fp32"):
        trains = command.program in ("finetune.py", "train_velocity_field.py")
        assert (command.options.get("lr") == ["7"]) is trains
        assert (command.options.get("num-rows") == ["3"]) is (command.program == "evaluate.py")


def test_the_paths_at_the_top_of_a_script_come_from_the_environment():
    (command,) = dry_run(
        "scripts/gpt2/distillm/contra_0.1B_1.5B.sh",
        **{"CKPT": "/a", "TEACHER_CKPT": "/b", "DATA_DIR": "/c", "LM_DATA_DIR": "/d", "VELOCITY_FIELD_PATH": "/e"},
        SAVE_PATH="/f",
    )
    names = ("model-path", "teacher-model-path", "data-dir", "lm-data-dir", "velocity-field-path", "save")
    assert [command.value(name) for name in names] == ["/a", "/b", "/c", "/d", "/e", "/f"]


def test_an_empty_corpus_path_drops_the_corpus():
    (command,) = dry_run("scripts/gpt2/kd/kd_base.sh", LM_DATA_DIR="")
    assert "lm-data-dir" not in command.options


def test_base_path_leads_every_default_path():
    result = bash(f"{REPOSITORY}/runs/gpt2/distillm_contra.sh", str(REPOSITORY), DRY_RUN="1", cwd=REPOSITORY.parent)
    for line in result.stdout.splitlines():
        assert not [word for word in shlex.split(line) if word.startswith("./")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "1"], "BASE_PATH '--epochs' is not the repository's root"),
        ([".", "--epochs"], "MASTER_PORT '--epochs' is not a port"),
        ([".", "2012", "0"], "GPU_NUM '0' is not a count"),
        ([".", "2012", "two"], "GPU_NUM 'two' is not a count"),
    ],
)
def test_wrong_arguments_are_one_clear_line(arguments, message):
    assert_fails(bash("scripts/gpt2/sft/sft_base.sh", *arguments), message)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"CKPT": "/nowhere/model", "TEACHER_CKPT": "a/b", "LM_DATA_DIR": ""},
            ": CKPT='/nowhere/model' is not a folder",
        ),
        ({"CKPT": "gpt2", "TEACHER_CKPT": "./nowhere"}, "TEACHER_CKPT='./nowhere' is not a folder"),
        ({"CKPT": "gpt2", "TEACHER_CKPT": "a/b", "LM_DATA_DIR": "/c"}, "LM_DATA_DIR='/c' is not a folder"),
        ({"CKPT": "gpt2", "TEACHER_CKPT": "a/b", "LM_DATA_DIR": "", "DATA_DIR": "/d"}, "DATA_DIR='/d' is not a folder"),
    ],
)
def test_a_missing_path_is_one_clear_line_before_python_starts(variables, message):
    assert_fails(bash("scripts/gpt2/kd/kd_base.sh", **variables), message)


def test_a_missing_checkpoint_of_an_evaluation_is_one_clear_line():
    assert_fails(bash("scripts/gpt2/eval/run_eval.sh", "0", "no/such"), "no checkpoint 'no/such'")
    assert_fails(bash("scripts/gpt2/eval/run_eval.sh", "0"), "no checkpoint given")


def test_a_run_refuses_a_path_that_means_another_one_in_each_script():
    assert_fails(bash("runs/gpt2/kd.sh", SAVE_PATH="/tmp/x"), "SAVE_PATH belongs to single scripts")


def assert_fails(result: subprocess.CompletedProcess, message: str) -> None:
    assert result.returncode != 0
    (line,) = result.stderr.splitlines()
    assert message in line


@pytest.mark.parametrize("script", scripts("scripts", "runs"))
def test_a_script_is_short(script):
    lines = (REPOSITORY / script).read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) <= 40
    assert "set -euo pipefail" in code


def test_a_dry_run_needs_no_environment(tmp_path):
    """As the first command in a fresh clone, with an empty environment and no Python at all."""
    for folder in ("scripts", "runs"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    result = subprocess.run(
        ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "DRY_RUN=1", "bash", "runs/tiny/distillm_contra.sh"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "scripts"]


FAKE_PYTHON = """#!{python}
import pathlib, sys
if sys.argv[1].endswith("check_install.py"):
    sys.exit(0)
with open({log!r}, "a") as log:
    print(*sys.argv[1:], file=log)
for name in ("--save", "--processed-data-dir"):
    if name in sys.argv:
        folder = pathlib.Path(sys.argv[sys.argv.index(name) + 1])
        if "plot" in sys.argv[1] or "table" in sys.argv[1]:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("config.json", "meta.json"):
            (folder / file).touch()
"""


@pytest.fixture
def fake_run(tmp_path):
    """Run a script of a copied tree with a Python that only notes what it is asked and makes the folders."""
    for folder in ("scripts", "runs"):
        shutil.copytree(REPOSITORY / folder, tmp_path / "copy" / folder)
    (tmp_path / "env" / "bin").mkdir(parents=True)
    log = tmp_path / "log"
    python = tmp_path / "env" / "bin" / "python3"
    python.write_text(FAKE_PYTHON.format(python=sys.executable, log=str(log)))
    python.chmod(0o755)

    def run(script, *arguments, **variables):
        log.write_text("")
        variables |= {"VIRTUAL_ENV": str(tmp_path / "env")}
        result = bash(script, *arguments, cwd=tmp_path / "copy", **variables)
        assert result.returncode == 0, result.stderr
        return [line.split(maxsplit=1)[0].removeprefix("./") for line in log.read_text().splitlines()]

    return run


def test_one_time_steps_whose_output_stands_are_skipped(fake_run):
    stages = ["finetune.py", "finetune.py", "train_velocity_field.py", "finetune.py", "evaluate.py"]
    first = fake_run("runs/gpt2/distillm_contra.sh")
    assert [program for program in first if not program.startswith("tools/")] == stages
    again = fake_run("runs/gpt2/distillm_contra.sh")
    assert again == ["tools/get_instruction_data.py", "finetune.py", "evaluate.py"]
    other = fake_run("runs/gpt2/distillm.sh")
    assert other == again


def test_a_teacher_from_elsewhere_is_used_as_it_is(fake_run):
    programs = fake_run("runs/gpt2/kd.sh", TEACHER_CKPT="someone/gpt2-xl-dolly")
    assert programs.count("finetune.py") == 1


def test_the_second_node_leaves_data_and_evaluation_to_the_first(tmp_path):
    commands = dry_run("runs/gpt2/distillm.sh", NNODES="2", NODE_RANK="1")
    assert {command.program for command in commands} == {"finetune.py"}
    evaluation = dry_run("runs/gpt2/distillm.sh", NNODES="2")[-1]
    assert evaluation.words[0] == "python3"
