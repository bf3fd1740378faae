"""The precision of matrix products."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16: `auto` is the fastest the hardware computes natively."""
    if precision == "fp16" and device.type == "cpu":
        print("note: fp16 is not supported on a CPU; this run uses fp32", file=sys.stderr)
        return "fp32"
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute matrix products in the run's precision; fp32 is left alone."""
    with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
        yield
