"""Every option is given once, with the value that counts; a global batch other than the recipe's gives a warning."""

import shlex
import subprocess

import pytest

from tests.scripts.commands import REPOSITORY, Command, bash, dry_run, scripts

TRAININGS = [
    script
    for script in scripts("scripts")
    if not any(part in script for part in ("/tools/", "/eval/", "generate_data.sh"))
]
REPEATED = {"--row", "--run", "--baseline"}  # one for each row of a table


def keep_last(*words):
    """Call the function of the scripts."""
    line = 'source scripts/options.sh; keep_last "$@"; printf "%s\\0" "${OPTIONS[@]}"'
    result = subprocess.run(
        ["bash", "-c", line, "bash", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return result.stdout.split("\0")[:-1]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("--a 1 --b 2 --a 3", "--b 2 --a 3"),
        ("--seeds 10 20 --x --seeds 30", "--x --seeds 30"),
        ("--dev-num 5 --dev-num -1", "--dev-num -1"),
        ("--a 1 --a=2", "--a=2"),
        ("--a=1 --b --a 2 3", "--b --a 2 3"),
        ("--do-train --eval-gen --eval-gen false", "--do-train --eval-gen false"),
        ("--batch-size 1 --batch_size 2", "--batch_size 2"),
        ("--do-sample --no-do-sample", "--no-do-sample"),
        ("--a 1 --ab 2", "--a 1 --ab 2"),
        ("stray --a 1 --a 2", "stray --a 2"),
    ],
)
def test_of_an_option_given_twice_the_last_stays(given, kept):
    assert keep_last(*given.split()) == kept.split()


def test_a_value_is_never_taken_apart():
    assert keep_last("--title", "a  '--b 3' $c *", "--x=-1 2") == ["--title", "a  '--b 3' $c *", "--x=-1 2"]


@pytest.mark.parametrize("script", scripts("scripts", "runs"))
def test_bug_an_option_stood_twice_on_a_command_line_with_two_values(script):
    arguments = ["0", "some/where"] if script.endswith("run_eval.sh") else [".", "2012", "1"]
    if "eval_main_" in script:
        arguments += ["name", "some/where", "base/model"] if script.endswith("_lora.sh") else ["some/where"]
    user = ["--seed", "7", "--seeds", "1", "2"] if "/tools/" not in script and "runs/" not in script else []
    for command in dry_run(script, *arguments, *user):
        options = [word for word in command.words if word.startswith("--") and word not in REPEATED]
        assert len(options) == len(set(options))
        assert not user or "tools/build" in command.program or command.words[-5:] == user


@pytest.mark.parametrize("script", TRAININGS)
def test_more_processes_warn_that_the_global_batch_is_not_the_one_of_the_recipe(script):
    alone = bash(script, DRY_RUN="1")
    assert alone.stderr == ""
    command = Command(shlex.split(alone.stdout))
    recipe = int(command.value("batch-size")) * int(command.options.get("gradient-accumulation-steps", ["1"])[0])
    (line,) = bash(script, ".", "2012", "2", DRY_RUN="1", NNODES="2").stderr.splitlines()
    assert (
        f"warning: the global batch is {4 * recipe} " in line
        and f"the recipe says {recipe}: to keep that, pass" in line
    )
    advice = shlex.split(line.partition("to keep that, pass ")[2])
    assert bash(script, ".", "2012", "2", *advice, DRY_RUN="1", NNODES="2").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ("2", "the global batch is 32 (batch size 8 x accumulation 2 x 2 processes), but the recipe says 16"),
        ("2", "to keep that, pass --gradient-accumulation-steps 1"),
        ("4", "to keep that, pass --batch-size 4 --gradient-accumulation-steps 1"),
        ("3", "to keep that, use a number of processes that divides it"),
        ("1 --batch_size=4", "the global batch is 8 (batch size 4 x accumulation 2 x 1 processes)"),
        ("1 --batch_size=4", "pass --gradient-accumulation-steps 4"),
        ("2 --gradient-accumulation-steps 1", ""),
        ("1 --batch-size a[0]", ""),
    ],
)
def test_the_warning_says_what_to_pass_to_keep_the_recipe(arguments, advice):
    result = bash("scripts/gpt2/fdd/fdd_base.sh", ".", "2012", *arguments.split(), DRY_RUN="1")
    assert result.returncode == 0
    assert advice in result.stderr and bool(advice) == bool(result.stderr)
