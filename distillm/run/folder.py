"""The save folder of a run: new, to be resumed, or finished, and never another run's."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from data_utils.errors import UserError
from data_utils.files import Writing, locked, remove_folder, remove_leftovers, write_json
from distillm.arguments import Arguments
from distillm.distributed import World
from distillm.option_parser import free_options
from distillm.run.identity import MODEL_FILES, RECORD, difference, matching, must_agree, read_header

FINISHED = "finished.json"  # written last: the folder holds the result
LOCK = "training.log"  # locked by the process that trains here; it is never replaced
STATE = ("checkpoints", "best")  # folders that a run resumes from


def is_finished(save: str, header: Mapping[str, Any], resume: str, world: World) -> bool:
    """Say whether a save folder holds this run, finished; remove leftover training state, but write nothing.

    Raises:
        UserError: the folder holds a run with other options, or something that is not a run.
    """
    folder = Path(save)
    if not (folder / RECORD).exists():
        _check_unused(folder, resume)
        return False
    finished = resume != "never" and _holds_finished_run(folder, header)
    if finished and world.is_main:
        with suppress(UserError, OSError), locked(folder / LOCK):  # the process that finished it may be doing the same
            _remove_state(folder)
    return finished


@contextmanager
def open_run(save: str, header: Mapping[str, Any], resume: str, world: World) -> Iterator[None]:
    """Lock the save folder for this run and write its `args.json`; call it after loading everything the run needs.

    Raises:
        UserError: another process is writing to it, or has begun or finished something here in the meantime.
    """
    folder = Path(save)
    with ExitStack() as until_the_end:
        if world.is_main:
            with Writing(folder):
                for place in (folder, *(path for path in map(folder.joinpath, STATE) if path.is_symlink())):
                    place.resolve().mkdir(parents=True, exist_ok=True)  # the folder that a link leads to may be gone
                until_the_end.enter_context(locked(folder / LOCK))
                if resume == "never":
                    _forget(folder)
                elif (folder / RECORD).exists() and _holds_finished_run(folder, header):
                    raise UserError(f"another process has just finished {folder}: run the same command again")
                remove_leftovers(folder)
                write_json(folder / RECORD, header)
        world.barrier()
        yield


def _check_unused(folder: Path, resume: str) -> None:
    """Raise if a folder without the record of a run holds a model or a checkpoint."""
    foreign = sorted(matching(folder))
    if foreign:
        raise UserError(f"{folder} holds {foreign[0]}, which no run of this script wrote; choose another --save")
    if resume != "never" and any(path for name in STATE for path in (folder / name).glob("*")):
        raise UserError(
            f"{folder} holds a checkpoint, but no {RECORD} says of which run it is; start again with --resume never"
        )


def _holds_finished_run(folder: Path, header: Mapping[str, Any]) -> bool:
    """Say whether the run that a folder holds is finished; raise if it is not this one."""
    finished = (folder / FINISHED).exists()
    advice = "choose another --save, or start again with --resume never"
    saved = read_header(folder / RECORD, advice)
    other = difference(saved, header, must_agree(header, free_options(Arguments), finished))
    if other is not None:
        raise UserError(f"{folder} holds a run with {other}; {advice}")
    return finished


def _forget(folder: Path) -> None:
    """Remove what an earlier run left, its model too; keep `args.json`, which identifies the run and is replaced."""
    _remove_state(folder)
    (folder / FINISHED).unlink(missing_ok=True)
    for path in matching(folder, (*(MODEL_FILES if (folder / RECORD).exists() else ()), "log.jsonl")).values():
        path.unlink()
    (folder / LOCK).write_text("")


def _remove_state(folder: Path) -> None:
    """Remove everything that a run resumes from."""
    remove_leftovers(folder)
    for name in STATE:
        remove_folder(folder / name)
