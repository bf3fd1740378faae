"""Dry runs of the scripts, as lists of parsed commands."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Everything that the scripts read from the environment.
VARIABLES = """
    BASE_PATH CKPT PEFT_CKPT TEACHER_CKPT TEACHER_PEFT_CKPT SAVE_PATH VELOCITY_FIELD_PATH DATA_DIR TEACHER_DATA_DIR
    LM_DATA_DIR EVAL_DATA_DIR RESPONSE_DIR PAIR_DATA_DIR RAW_DATA_DIR RAW_CORPUS_DIR RESULTS_DIR ROWS SEEDS TEACHER_BASE
    STUDENT_BASE PRUNED_BASE WORLD MODELS DEEPSPEED_CONFIG PRECISION NUM_DISTILL_LAYERS VELOCITY_N_LAYERS
    VELOCITY_D_MODEL DEV_NUM MAX_LENGTH MAX_PROMPT_LENGTH RESPONSE_LENGTH EVAL_BATCH_SIZE CORPUS_LENGTH VALUES
    EVAL_OPTIONS NNODES NODE_RANK MASTER_ADDR DRY_RUN CUDA_VISIBLE_DEVICES TRAIN_ROWS DEV_ROWS TEST_ROWS EPOCHS
    OMP_NUM_THREADS HEAL_CHUNKS WAIT_SECONDS TEACHER_EPOCHS INIT_EPOCHS SFT_EPOCHS FIELD_EPOCHS
"""


@dataclass
class Command:
    """A program with its options; of an option given twice the last one counts, as in argparse."""

    words: list[str]
    program: str = ""
    options: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        start = next(index for index, word in enumerate(self.words) if word.endswith(".py"))
        self.program = self.words[start].removeprefix("./")
        values: list[str] = []
        for word in self.words[start + 1 :]:
            if word.startswith("--"):
                values = []
                if word in ("--row", "--run", "--baseline"):  # these may be repeated
                    values = self.options.get(word[2:], [])
                self.options[word[2:]] = values
            else:
                values.append(word)

    def value(self, name: str) -> str:
        (value,) = self.options[name]
        return value


def environment(**variables: str) -> dict[str, str]:
    """Return this environment without anything the scripts read, plus `variables`; its Python is this one."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES.split()}
    return clean | {"VIRTUAL_ENV": sys.prefix} | variables


def bash(script: str, *arguments: str, cwd: Path = REPOSITORY, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", script, *arguments],
        cwd=cwd,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_one_line(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The script refused, with one line that has these parts."""
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert all(part in line for part in parts), line


def dry_run(script: str, *arguments: str, **variables: str) -> list[Command]:
    """Return the commands that a script would run."""
    result = bash(script, *arguments, DRY_RUN="1", **variables)
    assert result.returncode == 0, result.stderr
    return [Command(shlex.split(line)) for line in result.stdout.splitlines() if ".py" in line]


def scripts(*folders: str) -> list[str]:
    """Return the scripts in the repository's folders that can be run, by their path."""
    found = [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.sh"))]
    sourced = {*(REPOSITORY / "scripts").glob("*.sh"), *(REPOSITORY / "scripts").glob("*/common.sh")}
    return [str(path.relative_to(REPOSITORY)) for path in found if path not in sourced]
