"""One optimiser step, behind one interface: plain torch, or DeepSpeed when a configuration is given.

The losses that `backward` receives are already divided by the normaliser of the whole step (docs/methods.md), so the
gradient of a step is the *sum* over its micro-batches and ranks.
"""

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_utils.errors import UserError
from data_utils.files import write_json
from distillm.distributed import World

MAX_SKIPPED = 20  # fp16 steps in a row that may overflow


class NonFiniteError(RuntimeError):
    """A gradient is not finite; the step was not taken."""


class Engine(Protocol):
    """What the trainer needs to know about an optimiser step."""

    module: nn.Module
    sharded: bool  # each rank holds a piece of every weight

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this micro-batch's share of the loss."""
        ...

    def step(self, learning_rate: float) -> Tensor:
        """Sum the gradients over ranks, clip them, update the weights; return the norm before clipping."""
        ...

    def save_state(self, folder: Path) -> None:
        """Write weights and optimiser into a folder that exists; every rank calls it."""
        ...

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote."""
        ...

    def export(self, folder: Path) -> None:
        """Write one loadable model or adapter; every rank calls it, rank 0 writes."""
        ...


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: weight matrices decay, biases and norm weights do not.

    Decided by shape: norm weights and biases are vectors, everything that multiplies or embeds is a matrix.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trainable, "an optimiser without parameters would silently train nothing"
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW; the learning rate is set at every step."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=0.0, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


class TorchEngine:
    """Plain torch on one or several ranks; every rank holds the whole model."""

    sharded = False

    def __init__(self, module: nn.Module, weight_decay: float, clip: float, precision: str, world: World):
        self.module, self.clip, self.world = module, clip, world
        self.optimizer = make_optimizer(module, weight_decay)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        # fp16 underflows without a scaled loss; a disabled scaler passes everything through.
        self.skipped = 0  # steps in a row
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "fp16")

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self, learning_rate: float) -> Tensor:
        set_learning_rate(self.optimizer, learning_rate)
        self.world.sum_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip if self.clip > 0 else torch.inf)
        self.skipped = 0 if torch.isfinite(norm) else self.skipped + 1
        # fp16 overflows now and then: the scaler skips such a step and lowers its scale. Many in a row mean divergence.
        if self.skipped > (MAX_SKIPPED if self.scaler.is_enabled() else 0):
            raise NonFiniteError("the gradient is not finite")
        self.scaler.step(self.optimizer)  # skipped when fp16 overflowed: the scaler lowers its scale
        self.scaler.update()
        self.optimizer.zero_grad()
        return norm

    def save_state(self, folder: Path) -> None:
        if self.world.is_main:
            save_tensors(trainable_tensors(self.module), folder / "weights.safetensors")
            save_optimizer(self.optimizer, folder)
            write_json(folder / "scaler.json", self.scaler.state_dict())

    def load_state(self, folder: Path) -> None:
        load_trainable_tensors(self.module, load_file(folder / "weights.safetensors"))
        load_optimizer(self.optimizer, folder)
        self.scaler.load_state_dict(json.loads((folder / "scaler.json").read_text()))

    def export(self, folder: Path) -> None:
        if self.world.is_main:
            self.module.save_pretrained(folder)  # type: ignore[operator]


def trainable_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that training changes, by name (a tied weight once)."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def load_trainable_tensors(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy saved parameters back in place."""
    current = trainable_tensors(module)
    if current.keys() != tensors.keys() or any(tensors[name].shape != p.shape for name, p in current.items()):
        raise UserError("the checkpoint cannot be loaded: it belongs to another model; start again with --resume never")
    for name, parameter in current.items():
        parameter.copy_(tensors[name])


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)


def save_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write an optimiser's state, one tensor per entry, named `<parameter index>.<entry>`."""
    state = optimizer.state_dict()["state"]
    tensors = {f"{index}.{name}": tensor for index, entry in state.items() for name, tensor in entry.items()}
    save_tensors(tensors, folder / "optimizer.safetensors")


def load_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Read what `save_optimizer` wrote."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
