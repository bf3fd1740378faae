"""Guarantees of data_utils/files.py that need no run (tests/entry has the kills and the disks)."""

import errno
import os

import pytest
import torch

from data_utils.errors import UserError
from data_utils.files import Writing, atomic_folder, locked
from tests.entry.conftest import in_child, wait_for


def write(folder, text):
    with atomic_folder(folder) as temporary:
        (temporary / "file").write_text(text)


@pytest.mark.parametrize("name", ["out", "out[1]*"])
def test_bug_what_a_killed_process_left_beside_a_folder_stayed_for_ever(name, tmp_path):
    folder = tmp_path / name

    def die():
        with atomic_folder(folder):
            os._exit(9)

    write(tmp_path / "other", "other")
    with atomic_folder(tmp_path / f"{name}.5"):  # meanwhile, another process writes the folder itself
        assert wait_for(in_child(lambda: write(folder, "theirs") or 0)) == 0
    with atomic_folder(folder) as temporary:
        assert wait_for(in_child(lambda: write(folder, "theirs") or 0)) == 0
        (temporary / "file").write_text("ours")
    assert wait_for(in_child(die)) == 9
    assert len(list(tmp_path.glob(".out*.tmp"))) == 1
    write(folder, "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["other", name, f"{name}.5"])


def test_bug_a_folder_behind_a_link_was_half_replaced(tmp_path):
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    write(real, "old")
    link.symlink_to(real)
    write(link, "new")
    assert link.is_symlink() and (real / "file").read_text() == "new"
    assert [path.name for path in real.parent.iterdir()] == ["real"]


def test_what_is_locked_is_one_processs_until_it_ends(tmp_path):
    path = tmp_path / "it"

    def claim():
        with locked(path):
            return 0

    def claim_and_die():
        with locked(path):
            os._exit(9)

    def is_refused():
        with pytest.raises(UserError, match="another process is writing to"), locked(path):
            pytest.fail("it was not locked")
        return 0

    assert wait_for(in_child(claim_and_die)) == 9
    with locked(path):
        assert wait_for(in_child(is_refused)) == 0
    assert wait_for(in_child(claim)) == 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_trusted(number, tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    for _ in range(2):
        with locked(tmp_path / "it"):
            pass
    assert list(tmp_path.iterdir()) == [tmp_path / "it"]


def test_a_weight_file_of_torch_that_the_disk_cuts_off_is_one_line():
    """The error of `torch.save` does not say why."""
    said = "cannot write the model: Input/output error; make room there"
    with pytest.raises(OSError, match=said) as error, Writing("the model"):
        torch.save({"weight": torch.zeros(10**6)}, "/dev/full")
    assert "\n" not in str(error.value)
