"""Every command in README.md is one that works: scripts dry-run, files exist, links lead somewhere."""

import re
import shlex
import subprocess

import pytest

from tests.scripts.commands import REPOSITORY, environment

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()]
ARGUMENTS = {"BASE_PATH": ".", "MASTER_PORT": "2012", "GPU_NUM": "1", "GPU_IDX": "0", "CKPT_PATH": "kd/base"}


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


@pytest.mark.parametrize("page", ["README.md", "docs/differences.md"])
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", (REPOSITORY / page).read_text(encoding="utf-8")):
        assert (REPOSITORY / page).parent.joinpath(link).exists(), link


def test_every_script_of_the_gpt2_family_is_named():
    named = set(re.findall(r"scripts/gpt2/[\w./*]+\.sh", README))
    for script in sorted((REPOSITORY / "scripts" / "gpt2").rglob("*.sh")):
        path = str(script.relative_to(REPOSITORY))
        assert path in named or script.name.startswith(("eval_main_", "common")), path
