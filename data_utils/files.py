"""Files and folders that are either complete or absent."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from data_utils.errors import UserError

ADVICE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or ask for a larger quota",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EROFS: "make it writable, or choose another folder",
}
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what file systems without locks say


class Writing(AbstractContextManager):
    """A block that writes `path`: on a disk that is full or read-only it raises a one-line `OSError` that names `path`.

    It inspects every exception: the libraries that write weights and tokenizers have classes of their own.
    """

    def __init__(self, path: str | Path):
        self.path = path

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if number := disk_error(error):
            advice = ADVICE.get(number, "make room there, or check the disk")
            raise OSError(
                f"cannot write {self.path}: {os.strerror(number)}; {advice} and run the same command again: "
                "what was complete before is intact"
            ) from error


def disk_error(error: BaseException | None) -> int:
    """Return the system's error number of a failed write, 0 for any other error.

    Errors from copytree, safetensors and tokenizers have no number, but contain the system's message. One from
    `torch.save` says only where it failed, which becomes EIO.
    """
    if "inline_container.cc" in str(error):
        return errno.EIO
    return next((number for number in ADVICE if os.strerror(number) in str(error)), 0)


def fsync_path(path: Path) -> None:
    """Flush a file or a folder's directory entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Flush a folder and everything in it."""
    for path in (*folder.rglob("*"), folder):
        fsync_path(path)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling to write to; it becomes `path` when the block ends, or vanishes if it fails."""
    path = Path(path)
    temporary = _sibling(path, "tmp")
    with Writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            fsync_path(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling folder to fill; it replaces `path` when the block ends, or vanishes if it fails."""
    path = Path(path).resolve() if Path(path).is_symlink() else Path(path)  # a link to a folder stays one
    temporary, retired = _sibling(path, "tmp"), _sibling(path, "old")
    with Writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        temporary.mkdir()
        try:
            yield temporary
            fsync_tree(temporary)
            if path.exists():
                os.rename(path, retired)
            os.rename(temporary, path)
            remove_entry(retired)
            fsync_path(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, readable by a person."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def move_file(source: Path, target: Path) -> None:
    """Move a file, possibly to another disk: the copy is complete before the original is removed."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_file(target) as temporary:
            shutil.copyfile(source, temporary)
        source.unlink()


def remove_entry(path: Path) -> None:
    """Remove a file or a folder, if there is one; of a link only the link, never what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder at once: a process killed in the middle leaves nothing under its name.

    A link to a folder stays, and the folder behind it is emptied piece by piece: files before folders, since a file may
    say which folder counts.
    """
    if path.is_symlink():
        for entry in sorted(path.iterdir(), key=Path.is_dir) if path.is_dir() else ():
            remove_entry(entry)
    elif path.exists():
        doomed = _sibling(path, "tmp")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)
        shutil.rmtree(doomed)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files and folders of this module that killed processes left directly in a folder.

    A folder that was moved aside for a successor that never came is moved back. With a `name`, only what ended
    processes left of that file or folder is removed; without one, everything, so only the caller may use the folder.
    """
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"\.(.+)\.(\d+)\.(old|tmp)", path.name)
        if match is None or (name is not None and (match[1] != name or _is_running(int(match[2])))):
            continue
        if match[3] == "old" and not (folder / match[1]).exists():
            os.rename(path, folder / match[1])
        else:
            remove_entry(path)


def _sibling(path: Path, ending: str) -> Path:
    """Return the name of a temporary file or folder beside `path`, of this process alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


def _is_running(process: int) -> bool:
    """Say whether another process of this machine has this number."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM  # it runs, and belongs to somebody else
    return process != os.getpid()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file, created if it does not exist, until the block ends or the process dies.

    On a file system without locks nothing is checked.

    Raises:
        UserError: another process holds the lock.
    """
    lock = FileLock(path, blocking=False, fallback_to_soft=False)  # a soft lock would outlive its process
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another process is writing to {path}: wait until it ends, or stop it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()
