"""How this project speaks to its users about their mistakes."""

import os
import sys
from collections.abc import Callable, Sequence


class UserError(ValueError):
    """A mistake of the user's: one line that says what is wrong, both values, and what to do."""


def run_as_script(main: Callable[[], None]) -> None:
    """Run an entry script; a `UserError` or a failing file operation ends as one line and exit status 1."""
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


def _check_command_line(words: Sequence[str]) -> None:
    """Raise for a word that is not UTF-8: a run's record could not hold it."""
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UserError(f"{word!r} is not UTF-8: rename the file or folder")
