"""Training checkpoints: back to exactly where the run was, or one clear line; a good one is never thrown away."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import strategies as st

from distillm.on_policy import OnPolicyRows
from distillm.training.checkpoint import HASHES
from tests.hostile.cases import cases
from tests.hostile.checkpointed import Run, newest, resume
from tests.hostile.damage import damages

PARTS = st.floats(0, 1, exclude_max=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The checkpoint of a run after 2 steps, that of the same run after 3, and that of a wider model after 2."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, width, steps in (("sound", 8, 2), ("later", 8, 3), ("wider", 12, 2)):
        run = Run(root / name, width, steps)
        run.checkpoints.save(steps)
    return root


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What a run without a checkpoint holds, and one that goes on after 2 steps."""
    fresh, further = (Run(tmp_path_factory.mktemp("runs"), 8, steps).values() for steps in (0, 2))
    assert fresh != further
    return fresh, further


def copied(saved: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved / "sound", folder)
    return folder


@cases(160, which=PARTS, damage=damages(), other=st.sampled_from(["later", "wider"]))
def test_a_damaged_checkpoint_is_refused_or_goes_on_exactly(saved, expected, tmp_path, which, damage, other):
    folder, (fresh, further) = copied(saved, tmp_path), expected
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[int(which * len(files))]
    inside = path.relative_to(newest(folder)) if path.name != "latest" else Path("../latest")
    changed = damage.apply(path, newest(saved / other) / inside)
    run = Run(folder)
    refused = resume(run)
    if path.name == "latest" and damage.kind == "delete":
        assert refused is None and run.values() == fresh  # no pointer: no checkpoint
    elif refused is None:
        assert run.values() == further
        assert not changed or path.name in (HASHES, "latest")
    elif path.name != "latest":
        assert str(folder / "step-00000002") in refused
    if refused is not None:
        assert "--resume never" in refused
        assert (folder / "step-00000002").is_dir(), "a refusal removes nothing"


def test_another_models_checkpoint_is_refused(saved, tmp_path):
    refused = resume(Run(copied(saved, tmp_path), width=12))
    assert refused is not None and "it is of another model" in refused


@pytest.mark.parametrize("pointer", ["", "..", "step-00000009", "../checkpoints/step-00000002", "\0\xff", "/"])
def test_bug_a_damaged_pointer_removed_the_checkpoint_that_was_there(saved, tmp_path, pointer):
    folder = copied(saved, tmp_path)
    (folder / "latest").write_text(pointer, encoding="latin-1")
    refused = resume(Run(folder))
    assert refused is not None and "names no checkpoint" in refused
    assert (folder / "step-00000002" / "trainer.json").exists()


def test_bug_files_of_two_steps_made_one_run_without_a_word(saved, tmp_path):
    folder = newest(copied(saved, tmp_path))
    shutil.copyfile(newest(saved / "later") / "on_policy.json", folder / "on_policy.json")
    refused = resume(Run(folder.parent))
    assert refused is not None and "on_policy.json is not what was saved" in refused


@pytest.mark.parametrize("name", ["trainer.json", "engine/weights.safetensors", "engine/scaler.json"])
def test_bug_a_truncated_checkpoint_ended_in_a_traceback(saved, tmp_path, name):
    folder = newest(copied(saved, tmp_path))
    (folder / name).write_bytes((folder / name).read_bytes()[:-3])
    refused = resume(Run(folder.parent))
    assert refused is not None and f"{folder / name} is not what was saved" in refused and "--resume never" in refused


@pytest.mark.parametrize("content", [None, b"[]", b"{}", b"{", json.dumps({"engine": 3}).encode(), bytes(32)])
def test_a_checkpoint_without_its_hashes_is_refused(saved, tmp_path, content):
    folder = newest(copied(saved, tmp_path))
    (folder / HASHES).unlink()
    if content is not None:
        (folder / HASHES).write_bytes(content)
    assert "the checkpoint is damaged; start again with --resume never" in (resume(Run(folder.parent)) or "")


@pytest.mark.parametrize("bug", [AttributeError, TypeError, KeyError, AssertionError, ValueError, RuntimeError])
def test_a_bug_in_loading_is_not_called_a_broken_checkpoint(saved, tmp_path, monkeypatch, bug):
    def load(policy, folder):
        raise bug("ours")

    monkeypatch.setattr(OnPolicyRows, "load", load)
    with pytest.raises(bug, match="ours"):
        resume(Run(copied(saved, tmp_path)))
