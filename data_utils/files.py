"""Files and folders that are either complete or absent."""

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from data_utils.errors import UserError

ADVICE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or ask for a larger quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "make it writable, or choose another folder",
    errno.EIO: "make room there, or look for a broken disk",
}


class WriteError(OSError):
    """Writing to disk failed; `str` gives a line for the user."""

    def __init__(self, number: int, path: str | Path):
        super().__init__(number, os.strerror(number), str(path))

    def __str__(self) -> str:
        return (
            f"cannot write {self.filename}: {self.strerror}; {ADVICE[self.errno]} and run the same command again: "  # type: ignore[index]
            "what was complete before still stands"
        )


class Writing:
    """A block that writes `path`: if the disk is full or read-only, it raises a `WriteError` that names `path`.

    It inspects every exception: the libraries that write weights and tokenizers have classes of their own.
    """

    def __init__(self, path: str | Path):
        self.path = path

    def __enter__(self) -> None:
        """Nothing is opened."""

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        number = disk_error(error)
        if number in ADVICE:
            raise WriteError(number, self.path) from error


def disk_error(error: BaseException | None) -> int:
    """Return the system's number of a failed write, 0 for any other error."""
    if isinstance(error, shutil.Error):  # of copytree: a list of what failed; EIO may be of a read
        numbers = [int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))]
        return next((number for number in numbers if number in ADVICE and number != errno.EIO), 0)
    if isinstance(error, OSError):
        return 0 if error.errno == errno.EIO and not isinstance(error, WriteError) else error.errno or 0
    rust = re.search(r"\(os error (\d+)\)$", str(error))  # of safetensors and tokenizers
    torch_save = re.search(r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos", str(error))
    return int(rust[1]) if rust else errno.EIO if torch_save else 0


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
    """Yield a temporary sibling to write to; it becomes `path` when the block ends, vanishes when it fails."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    """Yield a temporary sibling folder to fill; it replaces `path` when the block ends, vanishes when it fails."""
    path = Path(path).resolve() if Path(path).is_symlink() else Path(path)  # a link to a folder stays one
    temporary, retired = (path.with_name(f".{path.name}.{os.getpid()}.{ending}") for ending in ("tmp", "old"))
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
                shutil.rmtree(retired)
            else:
                os.rename(temporary, path)
            fsync_path(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


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
    """Remove a folder at once: a process killed meanwhile leaves nothing under this name.

    A link to a folder stays, and the folder behind it is emptied piece by piece: files before folders, since a file may
    say which folder counts.
    """
    if path.is_symlink():
        for entry in sorted(path.iterdir(), key=Path.is_dir) if path.is_dir() else ():
            remove_entry(entry)
    elif path.exists():
        doomed = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)
        shutil.rmtree(doomed)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files and folders of this module that killed processes left directly in a folder.

    A folder that was moved aside for a successor that never came is moved back. With a `name`, only what processes that
    have ended left of that file or folder is removed. Without one, all is: the folder must belong to the caller alone.
    """
    found = [(path, re.fullmatch(r"\.(.+)\.(\d+)\.(old|tmp)", path.name)) for path in sorted(folder.iterdir())]
    for path, match in found:
        if match is None or (name is not None and (match[1] != name or _is_running(int(match[2])))):
            continue
        if match[3] == "old" and not (folder / match[1]).exists():
            os.rename(path, folder / match[1])
        else:
            remove_entry(path)


def _is_running(process: int) -> bool:
    """Say whether another process of this machine has this number."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file, created if it does not exist, until the block ends or the process dies.

    On a file system without locks nothing is checked.

    Raises:
        UserError: another process holds the lock.
    """
    # Open for writing: over NFS there is no lock otherwise.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # any other error: the file system has no locks
            if isinstance(error, BlockingIOError):
                raise UserError(f"another process writes to {path}: wait until it ends, or stop it") from None
        yield
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, readable by a person."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
