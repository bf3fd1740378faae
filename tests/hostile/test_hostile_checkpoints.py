"""Training checkpoints: back to exactly where the run was, or one clear line; a good one is never removed."""

import json
import shutil

import pytest
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from distillm.on_policy import OnPolicyRows
from distillm.training.checkpoint import HASHES
from tests.hostile.cases import cases
from tests.hostile.checkpointed import StoppedRun, rehash, trained
from tests.hostile.damage import damages


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """A run after 1 step, the same run after 2, and another run after 1."""
    root = tmp_path_factory.mktemp("runs")
    return {
        "sound": StoppedRun(world, root / "sound", 1),
        "later": StoppedRun(world, root / "later", 2),
        "other": StoppedRun(world, root / "other", 1, "--velocity-field-path", world.steady_field, "--lr", 1e-3),
    }


@pytest.fixture
def sound(runs):
    return runs["sound"]


@pytest.fixture(scope="module")
def expected(runs, tmp_path_factory):
    """The weights of the run at its end."""
    save = tmp_path_factory.mktemp("whole") / "run"
    runs["sound"].copied(save)
    assert runs["sound"].go_on(save) is None
    return trained(save)


@cases(40, which=st.floats(0, 1, exclude_max=True), damage=damages(), other=st.sampled_from(["later", "other"]))
def test_a_damaged_checkpoint_is_refused_or_goes_on_exactly(runs, expected, tmp_path, which, damage, other):
    save = tmp_path / "run"
    checkpoint = runs["sound"].copied(save)
    files = sorted(path for path in (save / "checkpoints").rglob("*") if path.is_file())
    path = files[int(which * len(files))]
    inside = "../latest" if path.name == "latest" else path.relative_to(checkpoint)
    changed = damage.apply(path, runs[other].checkpoint / inside)
    refused = runs["sound"].go_on(save)
    if refused is None:
        assert trained(save) == expected
        assert not changed or path.name in (HASHES, "latest")
        return
    assert "--resume never" in refused and (str(checkpoint) in refused or path.name == "latest")
    assert checkpoint.is_dir(), "a refusal removes nothing"


def test_another_models_checkpoint_is_refused(sound, tmp_path):
    checkpoint = sound.copied(tmp_path / "run")
    weights = load_file(checkpoint / "engine" / "weights.safetensors")
    weights.popitem()
    save_file(weights, checkpoint / "engine" / "weights.safetensors")
    rehash(checkpoint)
    assert "it belongs to another model" in sound.go_on(tmp_path / "run")


@pytest.mark.parametrize("pointer", ["", "..", "step-00000009", "../checkpoints/step-00000001", "\0\xff", "/"])
def test_bug_a_damaged_pointer_removed_the_checkpoint_that_was_there(sound, tmp_path, pointer):
    checkpoint = sound.copied(tmp_path / "run")
    (checkpoint.parent / "latest").write_text(pointer, encoding="latin-1")
    assert "names no checkpoint" in sound.go_on(tmp_path / "run")
    assert (checkpoint / "trainer.json").exists()


def test_bug_files_of_two_steps_made_one_run_without_a_word(runs, sound, tmp_path):
    checkpoint = sound.copied(tmp_path / "run")
    shutil.copyfile(runs["later"].checkpoint / "on_policy.json", checkpoint / "on_policy.json")
    assert "on_policy.json is not what was saved" in sound.go_on(tmp_path / "run")


@pytest.mark.parametrize("name", ["trainer.json", "engine/weights.safetensors", "engine/scaler.json"])
def test_bug_a_truncated_checkpoint_ended_in_a_traceback(sound, tmp_path, name):
    path = sound.copied(tmp_path / "run") / name
    path.write_bytes(path.read_bytes()[:-3])
    said = sound.go_on(tmp_path / "run")
    assert f"{path} is not what was saved" in said and "--resume never" in said


@pytest.mark.parametrize("content", [None, b"[]", b"{}", b"{", json.dumps({"engine": 3}).encode(), bytes(32)])
def test_a_checkpoint_without_its_hashes_is_refused(sound, tmp_path, content):
    path = sound.copied(tmp_path / "run") / HASHES
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert "the checkpoint is damaged; start again with --resume never" in sound.go_on(tmp_path / "run")


@pytest.mark.parametrize("bug", [AttributeError, KeyError, ValueError, RuntimeError])
def test_a_bug_in_loading_is_not_called_a_broken_checkpoint(sound, tmp_path, monkeypatch, bug):
    def load(policy, folder):
        raise bug("ours")

    monkeypatch.setattr(OnPolicyRows, "load", load)
    sound.copied(tmp_path / "run")
    with pytest.raises(bug, match="ours"):
        sound.go_on(tmp_path / "run")
