"""A part of a save folder may be on another disk, behind a link: the link is followed, and kept."""

import errno
import os
import shutil

import pytest

import finetune
from tests.entry.every_method import FIELDS, command_of
from tests.entry.outputs import contents
from tests.entry.processes import in_step, run_killed

MORE = ["--save-interval", 2, "--total-iters", 6]


@pytest.fixture
def other_disk(tmp_path, monkeypatch):
    """A folder into or out of which no file can be renamed."""
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


def weights(save):
    return {name: content for name, content in contents(save).items() if "safetensors" in name}


@pytest.mark.parametrize(("name", "linked"), [("lm", "checkpoints"), ("lm", "best"), (FIELDS[0], "checkpoint*")])
def test_a_linked_folder_of_a_run_is_followed_and_stays(
    name, linked, run, world, pairs, tmp_path, other_disk, validation_losses
):
    """The run resumes, then starts again: the same result, and the link leads to an empty folder."""
    more = MORE if name == FIELDS[0] else [*MORE, "--eval-interval", 2]
    whole, killed = (command_of(world, pairs, name, tmp_path / save, *more) for save in ("whole", "run"))
    validation_losses(9, 5, 3, 4, *[9, 5])
    assert run(*whole).status == 0
    run_killed(*killed, in_step(4))
    link = next((tmp_path / "run").glob(linked))
    shutil.copytree(link, other_disk / "moved")
    shutil.rmtree(link)
    link.symlink_to(other_disk / "moved")
    validation_losses(3, 4, *[9, 5, 3, 4])
    for again in ([], ["--resume", "never"]):
        outcome = run(killed[0], [*killed[1], *again])
        assert outcome.status == 0, outcome.err
        assert weights(tmp_path / "run") == weights(tmp_path / "whole")
        assert link.is_symlink() and not list(link.iterdir())
        assert not list((tmp_path / "run").glob(".*"))
        assert "nothing to do" in run(*killed).out


@pytest.mark.parametrize("gone", [False, True])
def test_a_run_begins_with_linked_folders_even_if_what_they_lead_to_is_gone(gone, run, world, tmp_path, other_disk):
    link = tmp_path / "run"
    link.symlink_to(other_disk / "run")
    (other_disk / "run").mkdir()
    for name in ("checkpoints", "best"):
        (link / name).symlink_to(other_disk / name)
        if not gone:
            (other_disk / name).mkdir()
    outcome = run(finetune.main, world.training(link, "--total-iters", 2, "--save-interval", 1))
    assert outcome.status == 0, outcome.err
    assert link.is_symlink() and (other_disk / "run" / "model.safetensors").exists()
    assert (link / "checkpoints").is_symlink() and (link / "best").is_symlink()


def test_a_link_that_was_left_over_does_not_block_a_save_folder(run, world, tmp_path, other_disk):
    """Links were renamed as if they were folders, and then could not be removed."""
    save = tmp_path / "run"
    options = world.training(save, "--total-iters", 1)
    assert run(finetune.main, options).status == 0
    (save / ".checkpoints.123.tmp").symlink_to(other_disk)
    (other_disk / "precious").touch()
    assert run(finetune.main, [*options, "--resume", "never"]).status == 0
    assert not (save / ".checkpoints.123.tmp").is_symlink() and (other_disk / "precious").exists()
