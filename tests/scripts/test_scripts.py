"""Guarantees of all scripts in scripts/ and runs/: what they print, what they read and write, how they fail."""

import shlex
import shutil
import subprocess
import sys
import threading
import time

import pytest

from tests.scripts.commands import REPOSITORY, Command, assert_one_line, bash, dry_run, scripts

RUNS = scripts("runs")
LEAVES = [script for script in scripts("scripts") if "/tools/" not in script and "/eval/" not in script]
EVALUATIONS = [script for script in scripts("scripts") if "/eval/" in script]
HUB_IDS = """
    gpt2 gpt2-xl openlm-research/open_llama_7b_v2 openlm-research/open_llama_3b_v2 meta-llama/Llama-2-13b-hf
    meta-llama/Llama-2-7b-hf Qwen/Qwen2.5-1.5B Qwen/Qwen2.5-0.5B HuggingFaceTB/SmolLM2-135M-Instruct
"""
# What each program writes and reads, by option; `get_*` tools write their --data-dir.
WRITES = ("save", "processed-data-dir", "output")
READS = """
    model-path teacher-model-path peft-path teacher-peft-path data data-dir lm-data-dir gt-data-dir responses
    velocity-field-path world runs
"""


def written_by(command: Command) -> set[str]:
    names = ("data-dir",) if "/get_" in command.program else WRITES
    if command.program.endswith("generate_responses.py"):  # the pairs are made from its whole folder
        return {command.value("output").rpartition("/")[0]}
    return {path.rstrip("/") for name in names for path in command.options.get(name, [])}


def read_by(command: Command) -> set[str]:
    if "/get_" in command.program:
        return set()
    paths = {path for name in READS.split() for path in command.options.get(name, [])}
    paths |= {value.split("=", 1)[-1] for name in ("row", "run") for value in command.options.get(name, [])}
    return {path.rstrip("/") for path in paths}


def assert_written_before(path: str, written: set[str], command: Command) -> None:
    parents = {path} | {path[:end] for end, character in enumerate(path) if character == "/"}
    assert parents & written, f"{command.program} reads {path}"


@pytest.mark.parametrize("run", RUNS)
def test_every_path_that_a_run_reads_is_one_that_it_wrote_before(run):
    written: set[str] = set()
    for command in dry_run(run, ".", "2012", "1"):
        for path in read_by(command) - {*HUB_IDS.split()}:
            assert_written_before(path, written, command)
        written |= written_by(command)


@pytest.mark.parametrize("family", sorted({script.split("/")[1] for script in LEAVES}))
def test_every_path_that_a_script_reads_is_one_that_a_script_of_its_family_or_a_getter_writes(family):
    commands = [
        command
        for script in scripts(f"scripts/{family}", f"runs/{family}")
        if "/eval/" not in script
        for command in dry_run(script, ".", "2012", "1")
    ]
    written = {path for command in commands for path in written_by(command)}
    for command in commands:
        for path in read_by(command) - {*HUB_IDS.split()}:
            assert_written_before(path, written, command)


@pytest.mark.parametrize("script", LEAVES + EVALUATIONS + RUNS)
def test_a_dry_run_ends_with_one_full_command_line(script):
    """Extra options come last, quoted; more processes are started by torchrun with the port that was given."""
    arguments = ["0", "some/where"] if script.endswith("run_eval.sh") else [".", "4711", "2"]
    if "eval_main_" in script:
        arguments += ["name", "some/where", "base/model"] if script.endswith("_lora.sh") else ["some/where"]
    extra = [] if script in RUNS or script.endswith("generate_data.sh") else ["--title", "a b 'c' $d"]
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


def test_bug_the_teacher_of_the_tiny_family_ignored_its_data_folder():
    """DATA_DIR applies to a single script, TEACHER_DATA_DIR to the teacher; a run's DATA_DIR is the student's."""
    for script, option in (("sft/sft_teacher.sh", "data-dir"), ("tools/process_data_teacher.sh", "processed-data-dir")):
        for variables, expected in (
            ({}, "./processed_data/teacher/full/tiny/"),
            ({"DATA_DIR": "/a"}, "/a"),
            ({"TEACHER_DATA_DIR": "/b"}, "/b"),
            ({"DATA_DIR": "/a", "TEACHER_DATA_DIR": "/b"}, "/b"),
        ):
            (command,) = dry_run(f"scripts/tiny/{script}", **variables)
            assert command.value(option) == expected
    trainings = dry_run("runs/tiny/distillm_contra.sh", DATA_DIR="/a")
    saved = {command.value("save"): command.value("data-dir") for command in trainings if "type" in command.options}
    assert saved.pop("./results/tiny/train/sft/teacher") == "./processed_data/teacher/full/tiny/"
    assert "/a" in {folder for save, folder in saved.items() if "/sft/" in save}


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
        (["--epochs", "1"], "BASE_PATH='--epochs' is not the repository's root"),
        ([".", "--epochs"], "MASTER_PORT='--epochs' is not a port"),
        ([".", "2012", "0"], "GPU_NUM='0' is not a count"),
        ([".", "2012", "two"], "GPU_NUM='two' is not a count"),
    ],
)
def test_wrong_arguments_are_one_clear_line(arguments, message):
    assert_one_line(bash("scripts/gpt2/sft/sft_base.sh", *arguments), message)


@pytest.mark.parametrize(
    ("name", "path"),
    [("CKPT", "/nowhere/x"), ("TEACHER_CKPT", "./nowhere"), ("LM_DATA_DIR", "/c"), ("DATA_DIR", "/d")],
)
def test_a_missing_path_is_one_clear_line_before_python_starts(name, path):
    existing = {"CKPT": "gpt2", "TEACHER_CKPT": "a/b", "LM_DATA_DIR": "", "DATA_DIR": "data_utils"}
    assert_one_line(
        bash("scripts/gpt2/kd/kd_base.sh", **existing | {name: path}), f": {name}='{path}' is not a folder: "
    )


def test_a_missing_checkpoint_of_an_evaluation_is_one_clear_line():
    assert_one_line(bash("scripts/gpt2/eval/run_eval.sh", "0", "no/such"), "no checkpoint 'no/such'")
    assert_one_line(bash("scripts/gpt2/eval/run_eval.sh", "0"), "no checkpoint given")


def test_a_run_refuses_a_path_that_means_another_one_in_each_script():
    assert_one_line(bash("runs/gpt2/kd.sh", SAVE_PATH="/tmp/x"), "SAVE_PATH belongs to single scripts")


@pytest.mark.parametrize("script", scripts("scripts", "runs"))
def test_a_script_is_short(script):
    lines = (REPOSITORY / script).read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) <= 40
    assert "set -euo pipefail" in code


def test_the_tiny_family_computes_in_fp32_on_every_cpu_unless_told_otherwise():
    """Its table should be the same everywhere, and bf16 takes longer at this size."""
    for variables, expected in (({}, "fp32"), ({"PRECISION": "auto"}, "auto")):
        commands = dry_run("runs/tiny/distillm_contra.sh", ".", "2012", "1", **variables)
        precisions = [command.value("precision") for command in commands if "precision" in command.options]
        assert len(precisions) > 8 and set(precisions) == {expected}


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
    """Run a script of a copied tree with a Python that only records what it is asked and makes the folders."""
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


def test_one_time_steps_whose_output_exists_are_skipped(fake_run):
    report = ["tools/make_results_table.py", "tools/plot_results.py"]
    models = ["finetune.py"] * 3  # teacher, SFT, init
    first = fake_run("runs/gpt2/distillm_contra.sh")
    stages = [*models, "train_velocity_field.py", *["finetune.py"] * 2, *["evaluate.py"] * 4]
    assert [program for program in first if not program.startswith("tools/")] == stages
    # A row's finished training run sees for itself that there is nothing to do.
    again = fake_run("runs/gpt2/distillm_contra.sh")
    assert again == ["tools/get_instruction_data.py", *["finetune.py"] * 3, *["evaluate.py"] * 4, *report]
    other = fake_run("runs/gpt2/distillm.sh")
    assert other == ["tools/get_instruction_data.py", *["finetune.py"] * 2, *["evaluate.py"] * 3, *report]


def test_a_teacher_from_elsewhere_is_used_as_it_is(fake_run):
    programs = fake_run("runs/gpt2/kd.sh", TEACHER_CKPT="someone/gpt2-xl-dolly")
    assert programs.count("finetune.py") == 2  # SFT and KD


@pytest.mark.parametrize(
    ("run", "variable"),
    [
        ("runs/gpt2/kd.sh", "TEACHER_CKPT"),
        ("runs/llama2/distillm.sh", "TEACHER_PEFT_CKPT"),
        ("runs/gpt2/distillm_contra.sh", "VELOCITY_FIELD_PATH"),
    ],
)
def test_bug_a_mistyped_path_of_a_run_was_trained_into(run, variable, fake_run, tmp_path):
    """What the user names must exist; only what the user does not name is made."""
    with pytest.raises(AssertionError, match=f"{variable}='/nowhere/x' is not a folder"):
        fake_run(run, **{variable: "/nowhere/x"})
    assert "--save /nowhere/x" not in (tmp_path / "log").read_text()


def test_the_second_node_leaves_data_and_evaluation_to_the_first(tmp_path):
    commands = dry_run("runs/gpt2/distillm.sh", NNODES="2", NODE_RANK="1")
    assert {command.program for command in commands} == {"finetune.py"}
    evaluations = [
        command for command in dry_run("runs/gpt2/distillm.sh", NNODES="2") if command.program == "evaluate.py"
    ]
    assert len(evaluations) == 3 and {command.words[0] for command in evaluations} == {"python3"}


LONGEST_REPEAT = 5


def blocks(script: str) -> set[str]:
    """Return all runs of code lines of a script that are longer than may be repeated; the prologue does not count."""
    lines = [line.strip() for line in (REPOSITORY / script).read_text().splitlines()]
    prologue = ("#", "set -euo pipefail", "source ")
    code = [line for line in lines if line and not line.startswith(prologue)]
    size = LONGEST_REPEAT + 1
    return {"\n".join(code[start : start + size]) for start in range(len(code) - size + 1)}


def test_no_block_of_lines_is_repeated_from_script_to_script():
    every = [str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "scripts").rglob("*.sh")] + RUNS
    seen: dict[str, str] = {}
    for script in sorted(every):
        for block in blocks(script):
            assert block not in seen, f"{script} repeats of {seen[block]}:\n{block}"
            seen[block] = script


def test_the_adapter_that_continues_training_and_that_of_the_teacher_are_named_in_the_environment():
    script = "scripts/llama2/distillm/train_7B_13B_teacher_lora.sh"
    (command,) = dry_run(script, PEFT_CKPT="/a", TEACHER_PEFT_CKPT="/b")
    assert (command.value("peft-path"), command.value("teacher-peft-path")) == ("/a", "/b")
    (command,) = dry_run(script, PEFT_CKPT="", TEACHER_PEFT_CKPT="", TEACHER_CKPT="/whole")
    assert not {"peft-path", "teacher-peft-path"} & command.options.keys()
    assert command.value("teacher-model-path") == "/whole"
    programs = [command.program for command in dry_run("runs/llama2/distillm.sh", TEACHER_PEFT_CKPT="")]
    assert programs.count("finetune.py") == 3  # SFT, init and distillation: the teacher is used as it is


def test_the_second_node_waits_for_the_data_of_the_first(fake_run, tmp_path):
    """It starts to train as soon as both stores exist, and makes neither."""
    stores = [
        tmp_path / "copy" / "processed_data" / name for name in ("dolly/full/gpt2", "openwebtext/gpt2/512/22.87K")
    ]

    def first_node() -> None:
        for store in stores:
            time.sleep(0.5)
            store.mkdir(parents=True)
            (store / "meta.json").touch()

    first = threading.Thread(target=first_node)
    first.start()
    torchrun = tmp_path / "env" / "bin" / "torchrun"
    torchrun.write_text(f"#!/bin/sh\necho torchrun >>{tmp_path}/log\n")
    torchrun.chmod(0o755)
    places = {"NNODES": "2", "NODE_RANK": "1", "TEACHER_CKPT": "someone/gpt2-xl-dolly", "WAIT_SECONDS": "0.1"}
    assert fake_run("runs/gpt2/kd.sh", **places) == ["torchrun"] * 2
    assert not first.is_alive()
