"""How this project reports mistakes to its users."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

PROJECT = Path(__file__).resolve().parents[1]
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # sent by cluster schedulers
STOPPED = 128 + signal.SIGTERM  # an exit status
INTERRUPTED = 130  # the exit status after Ctrl-C


class UserError(ValueError):
    """A mistake by the user: one line that says what is wrong, gives both values, and says what to do."""


class Reading(AbstractContextManager):
    """A block in which another library reads a user's files: an error becomes one line that names them.

    On a damaged file libraries may raise anything, even a plain `Exception` (`tokenizers`), so a list of classes is not
    enough. Errors raised by this project's own code pass through: they are our bugs, or a `UserError`.
    """

    def __init__(self, what: str, advice: str = ""):
        self.what, self.advice = what, advice

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception) and not _is_ours(traceback.extract_tb(trace)[-1].filename):
            raise UserError(f"cannot load {self.what}: {reason(error)}{self.advice}") from error


def reason(error: BaseException) -> str:
    """Return an error as one line, with its class where the text alone would be unclear."""
    if isinstance(error, OSError):
        return str(error).strip().split("\n")[0]  # the Hub's messages continue for paragraphs
    if "trust_remote_code" in str(error):
        return "it comes with Python code of its own, which is never run here; choose one that needs none"
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ValueError | RuntimeError) and text else f"{type(error).__name__}: {text}"


def run_as_script(main: Callable[[], None]) -> None:
    """Run an entry script; a `UserError`, a failed file operation or a lack of memory gives one line and status 1.

    A signal to stop ends it at once with one line and exit status 143, unless training is listening for the signal.
    """
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = {number: signal.signal(number, _stop) for number in STOP_SIGNALS}
    try:
        _check_command_line()
        main()
    except (UserError, OSError) as error:
        _end_with(str(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        advice = "lower --batch-size, --eval-batch-size or --max-length, or choose a smaller model"
        _end_with(f"out of memory ({reason(error)}): {advice}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _check_command_line() -> None:
    """Raise for a word that is not UTF-8: a run's record could not hold it."""
    for word in sys.argv:
        if word.encode(errors="ignore").decode() != word:
            raise UserError(f"{word!r} is not UTF-8: rename the file or folder")


def _is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory ran out: Python and NumPy raise a MemoryError, torch a RuntimeError that says so."""
    said = "out of memory", os.strerror(errno.ENOMEM)  # of a GPU, of the machine
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def _end_with(message: str) -> None:
    one_line = "\\n".join(message.splitlines())  # a path may hold a line break
    print(f"{os.path.basename(sys.argv[0])}: error: {one_line}", file=sys.stderr)
    sys.exit(1)


def _stop(number: int, frame: object) -> None:
    os.write(2, f"{os.path.basename(sys.argv[0])}: ended by {signal.Signals(number).name}\n".encode())
    sys.exit(STOPPED)


def _end_at_once(*ignored: object) -> None:
    """End a script that gets Ctrl-C while it imports: libraries turn a KeyboardInterrupt into their own errors."""
    os.write(sys.stderr.fileno(), b"interrupted\n")
    os._exit(INTERRUPTED)


def _is_ours(file: str) -> bool:
    """Say whether a file of Python code belongs to this project; `.venv` may be inside it."""
    return Path(file).is_relative_to(PROJECT) and "site-packages" not in file


# Importing takes seconds, so scripts import this module first. A background process already ignores Ctrl-C.
if _is_ours(getattr(sys.modules["__main__"], "__file__", None) or "") and (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _end_at_once)
