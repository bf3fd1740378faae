"""Every command in README.md is one that works: scripts dry-run, files exist, links lead somewhere."""

import re
import shlex
import subprocess

import pytest

from tests.scripts.commands import REPOSITORY, VARIABLES, environment, scripts

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()]
ARGUMENTS = {
    "BASE_PATH": ".",
    "MASTER_PORT": "2012",
    "GPU_NUM": "1",
    "GPU_IDX": "0",
    "CKPT_PATH": "kd/base",
    "NAME": "mine",
    "ADAPTER": "kd/7B_13B",
    "BASE_MODEL": "meta-llama/Llama-2-7b-hf",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works(command):
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    assert words[0] in ("bash", "python3")
    assert (REPOSITORY / words[1]).is_file()
    if words[1].startswith(("scripts/", "runs/")):
        variables = environment(DRY_RUN="1", **ARGUMENTS)
        subprocess.run(["bash", "-c", command], cwd=REPOSITORY, env=variables, check=True, capture_output=True)


def test_the_test_command_is_the_one_of_ci():
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert "bash tests/run.sh" in COMMANDS
    assert "bash tests/run.sh" in ci


@pytest.mark.parametrize(
    "page", ["README.md", "docs/differences.md", "docs/guarantees.md", "docs/tiny.md", "results/reference/tiny.md"]
)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", (REPOSITORY / page).read_text(encoding="utf-8")):
        assert (REPOSITORY / page).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("family", ["gpt2", "openllama2", "llama2"])
def test_every_script_of_a_published_family_is_named(family):
    named = set(re.findall(rf"scripts/{family}/[\w./*]+\.sh", README))
    for script in sorted((REPOSITORY / "scripts" / family).rglob("*.sh")):
        path = str(script.relative_to(REPOSITORY))
        assert path in named or script.name.startswith(("eval_main_", "common")), path


@pytest.mark.parametrize("run", scripts("runs"))
def test_every_run_is_named(run):
    folder, name = run.removeprefix("runs/").removesuffix(".sh").split("/")
    row = next((line for line in README.splitlines() if line.startswith(f"| `{folder}` |")), "")
    assert run in README or f"`{name}`" in row or "the same six" in row


def test_every_variable_of_the_scripts_is_known_to_the_dry_runs():
    """Else the environment of whoever runs the tests would leak into them."""
    shell = "".join(path.read_text() for path in (REPOSITORY / "scripts").rglob("*.sh"))
    assert set(re.findall(r"^([A-Z_]+)=\"\$\{\1:?-", shell, flags=re.MULTILINE)) <= set(VARIABLES.split())


def test_every_test_that_a_promise_names_exists():
    page = (REPOSITORY / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)`", page)
    assert len(named) > 15
    for path in named:
        assert (REPOSITORY / path).is_file(), path
