"""The house rules: what may import what, how long things may be, and what no file may do."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENTRY_SCRIPTS = ["finetune.py", "train_velocity_field.py", "evaluate.py"]
# The layers from the bottom up; a module may import from its own layer and those below it.
ROOMS = [
    "data_utils",
    "distillm.floor",
    "distillm.models",
    "distillm",
    "distillm.run",
    "distillm.training",
    "contra",
]
TOP = {"entry scripts", "tools"}  # may import every layer, but not each other
FLOOR = {"arguments", "option_parser", "options", "distributed", "interruption", "progress_bar"}  # of distillm
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_MAIN, MEDIAN_FUNCTION = 350, 60, 60, 9

FOLDERS = ("data_utils", "distillm", "contra", "tools")
SOURCES = sorted(
    [*map(ROOT.joinpath, ENTRY_SCRIPTS), *(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py"))]
)
EVERY_FILE = sorted([*SOURCES, *ROOT.glob("tests/**/*.py")])


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name_of)


def imported_modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def length(node: ast.FunctionDef) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def room_of(module: str) -> str | None:
    """Return the layer of a module such as `distillm.run.folder`; None if it is not part of this project."""
    parts = module.split(".")
    if f"{module}.py" in ENTRY_SCRIPTS:
        return "entry scripts"
    if parts[0] == "distillm" and len(parts) > 1:
        if parts[1] in FLOOR:
            return "distillm.floor"
        return f"distillm.{parts[1]}" if (ROOT / "distillm" / parts[1]).is_dir() else "distillm"
    return parts[0] if parts[0] in FOLDERS else None


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_every_room_has_modules():
    assert {room_of(module_of(path)) for path in SOURCES} == {*ROOMS, *TOP}


@each(SOURCES)
def test_no_import_runs_upwards(path):
    room = room_of(module_of(path))
    used = {room_of(module) for module in imported_modules(tree_of(path))} - {None, room}
    assert used <= {*(ROOMS if room in TOP else ROOMS[: ROOMS.index(room)])}


def test_every_test_file_has_a_name_of_its_own():
    """pytest imports test files by name, without their folder."""
    names = [path.name for path in ROOT.glob("tests/**/test_*.py")]
    assert {name for name in names if names.count(name) > 1} == set()


@each(EVERY_FILE)
def test_no_file_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < LONGEST_FILE


@each(EVERY_FILE)
def test_no_function_is_too_long(path):
    too_long = {node.name: length(node) for node in functions(tree_of(path)) if length(node) > LONGEST_FUNCTION}
    assert not too_long


@each(SOURCES)
def test_every_main_fits_on_a_screen(path):
    assert all(length(node) < LONGEST_MAIN for node in functions(tree_of(path)) if node.name == "main")


def test_the_median_function_is_short():
    lengths = sorted(length(node) for path in SOURCES for node in functions(tree_of(path)))
    assert lengths[len(lengths) // 2] < MEDIAN_FUNCTION


@each(SOURCES)
def test_no_exception_is_swallowed_unnamed(path):
    handlers = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ExceptHandler)]
    assert not [node.lineno for node in handlers if node.type is None]
    broad = {"Exception", "BaseException"}
    assert not [node.lineno for node in handlers if isinstance(node.type, ast.Name) and node.type.id in broad]


@each(SOURCES)
def test_devices_come_from_one_function(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr != "cuda", node.lineno
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.match(r"cuda:", node.value), node.lineno


@each(SOURCES)
def test_no_foreign_code_is_trusted(path):
    """Left to itself, Transformers asks on the terminal whether to run a model's own code."""
    required = {"from_pretrained": "trust_remote_code=False", "from_config": "trust_remote_code=False"}
    required |= {"LLM": "trust_remote_code=False", "load": "weights_only=True"}
    for call in calls(tree_of(path)):
        name = ast.unparse(call.func)
        keywords = [ast.unparse(keyword) for keyword in call.keywords]
        assert "trust_remote_code=True" not in keywords, call.lineno
        last = name.split(".")[-1]
        if last in required and (last != "load" or name == "torch.load"):
            assert required[last] in keywords, call.lineno


@each(SOURCES)
def test_importing_a_module_starts_nothing(path):
    """At module level nothing is downloaded, loaded or run."""
    forbidden = (
        "from_pretrained",
        "load_dataset",
        "snapshot_download",
        "hf_hub_download",
        "urlopen",
        "urlretrieve",
        "get",
    )
    tree = tree_of(path)
    deferred = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.Import, ast.ImportFrom)
    guarded = [node for node in tree.body if not isinstance(node, deferred) and not is_main_guard(node)]
    for call in (call for node in guarded for call in calls(node)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        assert name not in forbidden, call.lineno


def is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


@pytest.mark.parametrize("name", ENTRY_SCRIPTS)
def test_an_entry_script_begins_with_its_launch_manual(name):
    """The smallest command on a CPU comes first, then the paper's, then where the output goes."""
    manual = ast.get_docstring(tree_of(ROOT / name)) or ""
    commands = re.findall(r"^ +((?:python3|bash) \S+)", manual, re.MULTILINE)
    assert commands[0] == f"python3 {name}"
    assert commands[1].startswith("bash scripts/")
    assert "on a laptop" in manual.split(commands[0])[0]
    assert re.search(r"save folder|Output", manual.split(commands[1])[1])


@each([path for path in SOURCES if "def main()" in path.read_text(encoding="utf-8")])
def test_every_script_ends_mistakes_in_one_line(path):
    assert path.read_text(encoding="utf-8").endswith('if __name__ == "__main__":\n    run_as_script(main)\n')
