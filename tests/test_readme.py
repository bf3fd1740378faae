"""README and docs are true: commands dry-run, links lead somewhere, files, functions and numbers exist."""

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.scripts.commands import REPOSITORY, VARIABLES, environment, scripts

DOCS = [str(path.relative_to(REPOSITORY)) for path in sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES = ["README.md", *DOCS, "results/reference/tiny.md"]
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


@cache
def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def commands_of(page: str) -> list[str]:
    """Return the commands in a page's fenced bash blocks, each on one line."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("command", dict.fromkeys(command for page in PAGES for command in commands_of(page)))
def test_a_command_works(command):
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    assert words[0] in ("bash", "python3")
    assert (REPOSITORY / words[1]).is_file()
    if words[1].startswith(("scripts/", "runs/")):
        variables = environment(DRY_RUN="1", **ARGUMENTS)
        subprocess.run(["bash", "-c", command], cwd=REPOSITORY, env=variables, check=True, capture_output=True)


def test_the_test_command_is_the_one_of_ci():
    assert "bash tests/run.sh" in commands_of("README.md")
    assert "bash tests/run.sh" in text_of(".ci/run")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = (REPOSITORY / page).parent / name if name else REPOSITORY / page
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target), link


def test_every_source_file_and_test_that_a_page_names_exists():
    named = [(page, path) for page in PAGES for path in re.findall(r"`((?:[\w.]+/)+\w+\.py)`", text_of(page))]
    assert len(named) > 150
    roots = (REPOSITORY, REPOSITORY / "tests")  # docs/differences.md names tests by their path below tests/
    assert [(page, path) for page, path in named if not any((root / path).is_file() for root in roots)] == []


def test_every_function_that_a_page_names_is_in_the_file_named_before_it():
    pattern = r"`([\w/]+\.py)`\s+\(((?:`\w+`(?:,\s+)?)+)\)"
    groups = [(path, re.findall(r"\w+", names)) for page in PAGES for path, names in re.findall(pattern, text_of(page))]
    assert len(groups) > 25
    for path, names in groups:
        for name in names:
            assert re.search(rf"^(?:def|class) {name}\b", text_of(path), flags=re.MULTILINE), f"{name} in {path}"


def test_the_numbers_in_the_readmes_results_are_those_of_the_reference_table_and_of_the_published_ones():
    section = text_of("README.md").split("## Results")[1].split("\n## ")[0].replace("−", "-")
    rows = [line for line in section.splitlines() if line.startswith("|")]
    shown = {number for row in rows for number in re.findall(r"[+-]?\d+\.\d+", row)}
    sources = text_of("results/reference/tiny.md") + text_of("docs/published.md")
    assert len(shown) > 40
    assert shown <= set(re.findall(r"[+-]?\d+\.\d+", sources))


@pytest.mark.parametrize("family", ["gpt2", "openllama2", "llama2"])
def test_every_script_of_a_published_family_is_named(family):
    named = {path for page in PAGES for path in re.findall(rf"scripts/{family}/[\w./]+\.sh", text_of(page))}
    for script in sorted((REPOSITORY / "scripts" / family).rglob("*.sh")):
        path = str(script.relative_to(REPOSITORY))
        assert path in named or script.name.startswith(("eval_main_", "common")), path


@pytest.mark.parametrize("run", scripts("runs"))
def test_every_run_is_named(run):
    folder, name = run.removeprefix("runs/").removesuffix(".sh").split("/")
    row = next((line for line in text_of("README.md").splitlines() if line.startswith(f"| `{folder}` |")), "")
    assert run in text_of("docs/running.md") or f"`{name}`" in row or "the same six" in row


def test_every_variable_of_the_scripts_is_known_to_the_dry_runs_and_explained():
    """Otherwise the environment of whoever runs the tests would leak into them."""
    shell = "".join(path.read_text() for path in (REPOSITORY / "scripts").rglob("*.sh"))
    assert set(re.findall(r"^([A-Z_]+)=\"\$\{\1:?-", shell, flags=re.MULTILINE)) <= set(VARIABLES.split())
    assert set(VARIABLES.split()) <= set(re.findall(r"`([A-Z_]+)`", text_of("docs/running.md")))
