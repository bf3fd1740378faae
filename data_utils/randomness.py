"""Random numbers without state: each is a function of (seed, purpose, step or epoch, row).

Nothing is drawn from a shared stream, so a result does not depend on the batch size, on the number of
processes, or on where an interrupted run was resumed, and a checkpoint needs no generator states.
"""

import zlib

import numpy as np


def keyed_generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Return a generator that depends on its arguments alone; `purpose` keeps unrelated draws apart."""
    return np.random.default_rng((seed, zlib.crc32(purpose.encode()), *key))


def keyed_seed(seed: int, purpose: str, *key: int) -> int:
    """Return a 63-bit seed for `torch.manual_seed`."""
    return int(keyed_generator(seed, purpose, *key).integers(2**63))


def keyed_uniforms(seed: int, purpose: str, step: int, row_ids: list[int], count: int) -> np.ndarray:
    """Return `count` uniform numbers in [0, 1) for each row: `[len(row_ids), count]`, float64."""
    rows = [keyed_generator(seed, purpose, step, row).random(count) for row in row_ids]
    return np.stack(rows) if rows else np.zeros((0, count))
