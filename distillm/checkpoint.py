"""Atomic checkpoints of a run: one folder holds all that its trajectory depends on.

    <save>/checkpoints/step-00000120/{engine/, trainer.json, on_policy.json, ...}
    <save>/checkpoints/latest            the name of the newest complete folder

No generator states: every random number is a function of (seed, purpose, step, row), see `data_utils.randomness`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from data_utils.files import atomic_file, fsync_path
from distillm.distributed import World
from distillm.engine import Engine


class Checkpointable(Protocol):
    """A part of a run with state of its own; `save` is called on rank 0, `load` on every rank."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


class Checkpoints:
    """The newest checkpoint of a run, and how to come back to it."""

    def __init__(self, folder: Path, engine: Engine, parts: Sequence[Checkpointable], world: World):
        self.folder, self.engine, self.parts, self.world = folder, engine, parts, world

    def clean(self) -> None:
        """Remove what a killed run left half-written; the run that goes on calls it once."""
        if self.world.is_main and self.folder.exists():
            self._clean()
        self.world.barrier()

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint, if there is one."""
        pointer = self.folder / "latest"
        return self.folder / pointer.read_text(encoding="utf-8").strip() if pointer.exists() else None

    def save(self, step: int) -> None:
        """Write beside, rename once, then point `latest` at it and drop the previous one; all ranks call it."""
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{final.name}.tmp"
        if self.world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / "engine").mkdir(parents=True)
        self.world.barrier()
        self.engine.save_state(temporary / "engine")
        self.world.barrier()
        if self.world.is_main:
            for part in self.parts:
                part.save(temporary)
            for entry in sorted(temporary.rglob("*")):
                fsync_path(entry)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            with atomic_file(self.folder / "latest") as pointer:
                pointer.write_text(final.name + "\n", encoding="utf-8")
            fsync_path(self.folder)
            self._clean()
        self.world.barrier()

    def load(self, folder: Path) -> None:
        """Put engine and parts back to where they were; all ranks call it."""
        self.engine.load_state(folder / "engine")
        for part in self.parts:
            part.load(folder)

    def delete(self) -> None:
        """Remove everything: the run is complete or starts afresh."""
        if self.world.is_main:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.world.barrier()

    def _clean(self) -> None:
        """Remove what no pointer names: half-written folders of a killed run, and older checkpoints."""
        latest = self.latest()
        for entry in self.folder.iterdir():
            if entry.is_dir() and entry != latest:
                shutil.rmtree(entry)
