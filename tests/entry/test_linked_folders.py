"""A part of a save folder may lie on another disk, behind a link: it is followed, and stays."""

import errno
import os
import shutil

import pytest

import finetune
import train_velocity_field
from contra.training import FieldTrainer
from distillm.training.trainer import Trainer


@pytest.fixture
def other_disk(tmp_path, monkeypatch):
    """A folder that no file can be renamed into or out of."""
    disk, rename = tmp_path / "disk", os.replace
    disk.mkdir()

    def replace(source, target):
        places = [os.path.realpath(path).startswith(str(disk)) for path in (source, target)]
        if places[0] != places[1]:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
        rename(source, target)

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, replace)
    return disk


def move_away(path, disk):
    """Put a folder, or an empty one, on another disk, and a link in its place."""
    shutil.copytree(path, disk / "moved") if path.exists() else (disk / "moved").mkdir()
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(disk / "moved")


def assert_linked_run_ends_alike(run, contents, main, options, path, whole):
    """Go on, then start afresh, with a linked folder: the same result, and the link leads to an empty folder."""
    for more in ([], ["--resume", "never"]):
        outcome = run(main, [*options, *more])
        assert outcome.status == 0, outcome.err
        found = {name: content for name, content in contents(path.parent).items() if "safetensors" in name}
        assert found == {name: content for name, content in contents(whole).items() if "safetensors" in name}
        assert path.is_symlink() and not list(path.iterdir())
        assert not [entry.name for entry in path.parent.iterdir() if entry.name.startswith(".")]
        assert "nothing to do" in run(main, options).out


@pytest.mark.parametrize("name", ["checkpoints", "best"])
def test_a_linked_folder_of_a_run_is_followed_and_stays(
    name, run, run_killed, contents, world, tmp_path, other_disk, validation_losses
):
    save, whole = tmp_path / "run", tmp_path / "whole"

    def options(save):
        return world.training(save, "--save-interval", 2, "--eval-interval", 2, "--total-iters", 6)

    validation_losses(9.0, 5.0, 3.0, 4.0, *[9.0, 5.0])
    assert run(finetune.main, options(whole)).status == 0
    run_killed(finetune.main, options(save), Trainer, "_train_step", 4)
    move_away(save / name, other_disk)
    validation_losses(3.0, 4.0, *[9.0, 5.0, 3.0, 4.0])
    assert_linked_run_ends_alike(run, contents, finetune.main, options(save), save / name, whole)


def test_the_linked_checkpoint_of_stage_1_is_followed_and_stays(run, run_killed, contents, world, tmp_path, other_disk):
    save, whole = tmp_path / "field", tmp_path / "whole"
    more = ["--save-interval", 2, "--total-iters", 6]
    assert run(train_velocity_field.main, world.stage_1(whole, *more)).status == 0
    run_killed(train_velocity_field.main, world.stage_1(save, *more), FieldTrainer, "train_step", 4)
    move_away(save / "checkpoint", other_disk)
    options = world.stage_1(save, *more)
    assert_linked_run_ends_alike(run, contents, train_velocity_field.main, options, save / "checkpoint", whole)


@pytest.mark.parametrize("gone", [False, True])
def test_a_run_begins_with_linked_folders_even_if_what_they_lead_to_is_gone(gone, run, world, tmp_path, other_disk):
    link = tmp_path / "run"
    link.symlink_to(other_disk / "run")
    for name in ("checkpoints", "best"):
        (other_disk / "run").mkdir(exist_ok=True)
        (link / name).symlink_to(other_disk / name)
    if not gone:
        for name in ("checkpoints", "best"):
            (other_disk / name).mkdir()
    outcome = run(finetune.main, world.training(link, "--total-iters", 2, "--save-interval", 1))
    assert outcome.status == 0, outcome.err
    assert link.is_symlink() and (other_disk / "run" / "model.safetensors").exists()
    assert (link / "checkpoints").is_symlink() and (link / "best").is_symlink()


def test_a_link_that_was_left_over_does_not_block_a_save_folder(run, world, tmp_path, other_disk):
    """Links were renamed as if they were folders, and then could not be removed."""
    save = tmp_path / "run"
    options = world.training(save, "--total-iters", 2)
    assert run(finetune.main, options).status == 0
    (save / ".checkpoints.123.tmp").symlink_to(other_disk)
    (other_disk / "precious").touch()
    assert run(finetune.main, [*options, "--resume", "never"]).status == 0
    assert not (save / ".checkpoints.123.tmp").is_symlink() and (other_disk / "precious").exists()
