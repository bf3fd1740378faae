"""How this project speaks to its users about their mistakes."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import TracebackType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # as a cluster's scheduler sends them
STOPPED = 128 + signal.SIGTERM  # an exit status


class UserError(ValueError):
    """A mistake of the user's: one line that says what is wrong, both values, and what to do."""


class Reading:
    """While another library reads a user's files: whatever it raises becomes one line that says which.

    On a damaged file libraries raise anything, `tokenizers` even a plain `Exception`: no list of classes would do. So
    the block holds the library's call and nothing else.
    """

    def __init__(self, what: str, advice: str = ""):
        self.what, self.advice = what, advice

    def __enter__(self) -> None:
        """Nothing is opened."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(f"cannot load {self.what}: {reason(error)}{self.advice}") from error


def reason(error: Exception) -> str:
    """Return in one line what an error says, and of what kind it is where its text alone would puzzle."""
    if isinstance(error, OSError):
        return str(error).strip().split("\n")[0]  # the hub's go on for paragraphs
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ValueError | RuntimeError) and text else f"{type(error).__name__}: {text}"


def run_as_script(main: Callable[[], None]) -> None:
    """Run an entry script; a `UserError` or a failing file operation ends as one line and exit status 1.

    A signal to stop ends it at once, as one line and exit status 143, unless a training listens to it.
    """
    handlers = {number: signal.signal(number, _end) for number in STOP_SIGNALS}
    try:
        _check_command_line(sys.argv)
        main()
    except (UserError, OSError) as error:
        one_line = "\\n".join(str(error).splitlines())  # a path may hold a line break
        print(f"{os.path.basename(sys.argv[0])}: error: {one_line}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(number: int, frame: object) -> None:
    os.write(2, f"{os.path.basename(sys.argv[0])}: ended by {signal.Signals(number).name}\n".encode())
    sys.exit(STOPPED)


def _check_command_line(words: Sequence[str]) -> None:
    """Raise for a word that is not UTF-8: a run's record could not hold it."""
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UserError(f"{word!r} is not UTF-8: rename the file or folder")
