"""What an option declares: its default, its help, its bounds, and who reads it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from data_utils.errors import UserError

LARGEST_INTEGER = 2**63 - 1


def option(
    default: Any,
    help: str,
    choices: Sequence[str] | None = None,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    minus_one: str | None = None,
    required: str | None = None,
    free: bool = False,
    read_by: Callable[[Any], bool] = lambda method: True,
    stage_1: bool = True,
) -> Any:
    """Declare one option.

    Args:
        least, most: its bounds; `above` is an exclusive lower one.
        minus_one: what -1 means, where -1 is allowed, too.
        required: what to give; an option with this text has no default.
        free: a run may continue with another value, since the result does not depend on it.
        read_by: says whether a `Method` reads it.
        stage_1: whether `train_velocity_field.py` reads it.
    """
    metadata = {name: value for name, value in locals().items() if name != "default"}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


count = partial(option, least=1, most=1 << 20)  # more rows, ids or epochs than any run has
amount = partial(option, least=0.0)
share = partial(option, least=0.0, most=1.0)


def flag(name: str) -> str:
    """Return the option as users write it."""
    return "--" + (name if name == "deepspeed_config" else name.replace("_", "-"))


@dataclass
class Options:
    """Some options; creating an object checks each of them."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, name = getattr(self, entry.name), flag(entry.name)
            if entry.metadata["required"] and not value:
                raise UserError(f"{name} is missing: give {entry.metadata['required']}")
            for number in value if isinstance(value, list) else [value]:
                if type(number) in (int, float):
                    check_bounds(name, number, entry.metadata)


def check_bounds(name: str, number: float, limits: Mapping[str, Any]) -> None:
    """Raise for a number outside the bounds of its option; NaN and infinity always are."""
    least, above, most = (limits[key] for key in ("least", "above", "most"))
    if limits["minus_one"] and number == -1:
        return
    if isinstance(number, int) and number > min(most, LARGEST_INTEGER):
        raise UserError(f"{name} {number} is more than {min(most, LARGEST_INTEGER):,}: lower it")
    if not (above < number < math.inf and least <= number <= most):
        low = f"at least {least:g}" if math.isfinite(least) else f"above {above:g}"
        high = f" and at most {most:g}" if math.isfinite(most) and isinstance(number, float) else ""
        besides = f", or -1 for {limits['minus_one']}" if limits["minus_one"] else ""
        raise UserError(f"{name} must be {low}{high}{besides}, not {number}")
