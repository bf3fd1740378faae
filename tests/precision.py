"""The precision that the tests run in: this CPU's own, or the one that CONTRA_TEST_PRECISION names."""

import os

import pytest
import torch

from distillm.models.precision import resolve_precision

NATIVE = resolve_precision("auto", torch.device("cpu"))
CHOSEN = os.environ.get("CONTRA_TEST_PRECISION", NATIVE)
# The same for a script, whose family may have a precision of its own.
VARIABLES = {"PRECISION": CHOSEN} if "CONTRA_TEST_PRECISION" in os.environ else {}

needs_bf16 = pytest.mark.skipif(NATIVE != "bf16", reason="this CPU has no instructions for bf16")


def choose() -> None:
    """Make `--precision auto` the chosen one, here and in forks; a test of what holds only in fp32 asks for fp32."""
    if CHOSEN not in ("fp32", "bf16"):
        raise pytest.UsageError(f"CONTRA_TEST_PRECISION must be fp32 or bf16, not {CHOSEN}")
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        setattr(torch.cpu, probe, lambda: CHOSEN == "bf16")
