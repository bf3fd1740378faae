"""How this project speaks to its users about their mistakes."""

import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake of the user's: one line that says what is wrong, both values, and what to do."""


def run_as_script(main: Callable[[], None]) -> None:
    """Run an entry script; a `UserError` or a failing file operation ends as one line and exit status 1."""
    try:
        main()
    except (UserError, OSError) as error:
        print(f"{os.path.basename(sys.argv[0])}: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
