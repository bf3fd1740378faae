"""Generated cases: each test declares how many it runs and checks that; docs/hostile_input.md has the sums."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from data_utils.errors import UserError

DECLARED: dict[tuple[str, str], int] = {}  # (file, test) -> cases


def cases(count: int, **strategies: SearchStrategy) -> Callable[[Callable], Callable]:
    """Run a test on `count` generated cases, the same ones every time; it fails if fewer actually ran."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        DECLARED[Path(test.__code__.co_filename).name, test.__name__] = count
        executed = 0

        @functools.wraps(test)
        def counted(*arguments: Any, **keywords: Any) -> None:
            nonlocal executed
            test(*arguments, **keywords)
            executed += 1

        generated = settings(
            max_examples=count,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(counted))

        @functools.wraps(generated)
        def complete(*arguments: Any, **keywords: Any) -> None:
            nonlocal executed
            executed = 0
            generated(*arguments, **keywords)
            assert executed >= count, f"{executed} cases were run, {count} are declared"

        return complete

    return decorate


def is_one_clear_line(error: BaseException) -> bool:
    """Say whether an error is one that a user should see: a `UserError` of one line."""
    return isinstance(error, UserError) and bool(str(error).strip()) and "\n" not in str(error)


def refusal(function: Callable[..., Any], *arguments: Any) -> str | None:
    """Return the one line with which a function refuses its arguments, None if it accepts them."""
    try:
        function(*arguments)
    except (UserError, OSError) as error:
        if isinstance(error, UserError):
            assert is_one_clear_line(error), f"not one line: {error}"
        return str(error)
    return None
