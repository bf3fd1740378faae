"""Atomic checkpoints of a run: one folder holds everything that its trajectory depends on.

    <save>/checkpoints/step-00000120/{engine/, trainer.json, on_policy.json, ...}
    <save>/checkpoints/latest            the name of the newest complete folder

No generator states: every random number is a function of (seed, purpose, step, row), see `data_utils.randomness`.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from data_utils.errors import UserError
from data_utils.files import Writing, atomic_file, fsync_path, fsync_tree, remove_entry, remove_folder, write_json
from data_utils.store_meta import file_hash
from distillm.distributed import World
from distillm.training.engine import Engine

HASHES = "sha256.json"


class Checkpointable(Protocol):
    """A part of a run with state of its own; `save` is called on rank 0, `load` on every rank."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


class Checkpoints:
    """The newest checkpoint of a run, and how to return to it."""

    def __init__(self, folder: Path, engine: Engine, parts: Sequence[Checkpointable], world: World):
        self.folder, self.engine, self.parts, self.world = folder, engine, parts, world

    def clean(self) -> None:
        """Remove what a killed run left half-written; the resumed run calls it once."""
        if self.world.is_main and self.folder.exists():
            self._clean()
        self.world.barrier()

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint, if there is one.

        Raises:
            UserError: the pointer names no checkpoint; nothing may be removed then.
        """
        pointer = self.folder / "latest"
        if not pointer.exists():
            return None
        name = pointer.read_text(encoding="utf-8", errors="replace").strip()
        if not re.fullmatch(r"step-\d{8,}(-again)?", name) or not (self.folder / name).is_dir():
            raise UserError(f"{pointer} names no checkpoint ({name!r}); start again with --resume never")
        return self.folder / name

    def save(self, step: int) -> None:
        """Write a temporary folder, rename it, point `latest` at it and remove the previous one; all ranks call it.

        A run that is interrupted twice during the work after one step is saved twice, each time under the unused name.
        """
        names = [f"step-{step:08d}", f"step-{step:08d}-again"]
        final = next(self.folder / name for name in names if self.folder / name != self.latest())
        temporary = self.folder / f".{final.name}.tmp"
        try:
            with Writing(final):
                self._save(temporary, final)
        finally:
            if self.world.is_main:
                shutil.rmtree(temporary, ignore_errors=True)  # free the space of a save that failed
        self.world.barrier()

    def _save(self, temporary: Path, final: Path) -> None:
        if self.world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / "engine").mkdir(parents=True)
        self.world.barrier()
        self.engine.save_state(temporary / "engine")
        self.world.barrier()
        if self.world.is_main:
            for part in self.parts:
                part.save(temporary)
            write_hashes(temporary)
            fsync_tree(temporary)
            remove_entry(final)
            temporary.rename(final)
            fsync_path(self.folder)  # the folder is there before `latest` names it
            with atomic_file(self.folder / "latest") as pointer:
                pointer.write_text(final.name + "\n", encoding="utf-8")
            fsync_path(self.folder)
            self._clean()

    def load(self, folder: Path) -> None:
        """Restore engine and parts; all ranks call it."""
        check_hashes(folder, self.world)
        self.engine.load_state(folder / "engine")
        for part in self.parts:
            part.load(folder)

    def delete(self) -> None:
        """Remove everything: the run is complete or starts again."""
        if self.world.is_main:
            remove_folder(self.folder)
        self.world.barrier()

    def _clean(self) -> None:
        """Remove what no pointer names: half-written folders of a killed run, and older checkpoints."""
        latest = self.latest()
        for entry in self.folder.iterdir():
            if entry.is_dir() and entry != latest:
                remove_entry(entry)


def write_hashes(folder: Path) -> None:
    """Record the hash of each file of a checkpoint, so that a damaged or exchanged one is noticed."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(folder / HASHES, {path.relative_to(folder).as_posix(): file_hash(path) for path in paths})


def check_hashes(folder: Path, world: World) -> None:
    """Raise unless a checkpoint's files hold what was saved; all ranks call it.

    An error while they are loaded afterwards is not damage but a bug in this project, so it is not caught.
    """
    if world.is_main:
        for name, expected in _read_hashes(folder).items():
            path = folder / name
            if not path.is_file() or file_hash(path) != expected:
                raise _damaged(path, "is not what was saved" if path.exists() else "is missing")
    world.barrier()


def _read_hashes(folder: Path) -> dict[str, str]:
    path = folder / HASHES
    try:
        hashes = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise _damaged(path, "is missing") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "is not JSON") from error
    if not isinstance(hashes, dict) or not hashes:
        raise _damaged(path, "names no file")
    return hashes


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}: the checkpoint is damaged; start again with --resume never")
