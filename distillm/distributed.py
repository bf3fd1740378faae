"""The processes of a run: their ranks, their devices, and how they exchange values."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Rank 0 alone scores long validation sets and writes big files while the others wait.
COLLECTIVE_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class World:
    """The processes of this run; with one process every collective is a no-op."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Any]) -> list[Any]:
        """Return this rank's share of `items`; `collect` puts the shares back in order."""
        return list(items[self.rank :: self.size])

    def collect(self, share: list[Any]) -> list[Any]:
        """Return all items on every rank, in the order that they had before `share`."""
        if self.size == 1:
            return share
        shares: list[list[Any]] = [[] for _ in range(self.size)]
        dist.all_gather_object(shares, share)
        total = sum(map(len, shares))
        return [shares[index % self.size][index // self.size] for index in range(total)]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Sum the gradients over all ranks in one message; a missing gradient counts as zero."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        dist.all_reduce(flat)
        offset = 0
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.copy_(flat[offset : offset + parameter.numel()].view_as(parameter))
            offset += parameter.numel()

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def largest_of_all(count: int, device: torch.device) -> int:
    """Return the largest `count` of all ranks, which all call this at the same time."""
    largest = torch.tensor(count, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def join_world() -> World:
    """Read torchrun's environment, join the process group if there is one, and choose the device."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    # Other packages import DeepSpeed where it is installed, and it would warn about the device it finds.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    if size > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    return World(rank, size, device)


def leave_world(world: World, status: int = 0) -> None:
    """End a run; several gloo processes leave without tearing the group down, which sometimes aborts."""
    if world.size > 1:
        world.barrier()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    if status:
        sys.exit(status)
