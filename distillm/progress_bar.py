"""The one progress bar."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    desc: str = "",
    rank: int = 0,
    initial: int = 0,
) -> tqdm:
    """Return a progress bar, on rank 0 only; without a terminal (a file, CI) it prints twice a minute."""
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        initial=initial,
        disable=rank != 0,
        mininterval=interval,
        maxinterval=max(10.0, interval),
        dynamic_ncols=True,
    )
