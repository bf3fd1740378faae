"""DeepSpeed behind the engine's interface: ZeRO 0 to 3, on GPUs, and on a CPU as far as it runs there."""

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_utils.errors import Reading, UserError
from data_utils.files import write_json
from distillm.arguments import TrainingArguments
from distillm.distributed import World
from distillm.training.engine import NonFiniteError, make_optimizer, set_learning_rate

SHARDS = "shards.json"  # of a checkpoint: how its optimiser is sharded
# Without a launcher DeepSpeed would look for MPI.
LONE_PROCESS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


def load_config(training: TrainingArguments, precision: str) -> dict[str, Any]:
    """Read `--deepspeed_config` and fill in every "auto" from the run's options."""
    path = str(training.deepspeed_config)
    config = read_config(path)
    values = {
        "train_micro_batch_size_per_gpu": training.batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "gradient_clipping": training.clip_grad,
    }
    for name, value in values.items():
        if config.setdefault(name, "auto") == "auto":
            config[name] = value
        if config[name] != value:
            raise UserError(f"{path} says {name} {config[name]}, but the options say {value}; make them agree")
    for name in ("bf16", "fp16"):
        # The run's precision is resolved for this hardware; a CPU refuses fp16, for example.
        config[name] = {**config.get(name, {}), "enabled": precision == name}
    return config


def read_config(path: str) -> dict[str, Any]:
    """Return a DeepSpeed configuration without optimizer and scheduler; those come from the options."""
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"--deepspeed_config {path} does not exist; the shipped ones are in configs/deepspeed/"
        ) from error
    except ValueError as error:
        raise UserError(f"--deepspeed_config {path} is not JSON: {error}") from error
    blocks = ("zero_optimization", "bf16", "fp16")
    if not isinstance(config, dict) or not all(isinstance(config.get(name, {}), dict) for name in blocks):
        raise UserError(f"--deepspeed_config {path} is not a DeepSpeed configuration; see configs/deepspeed/")
    if "optimizer" in config or "scheduler" in config:
        raise UserError(f"{path} sets an optimizer or scheduler; both come from the options (--lr, --weight-decay, …)")
    return config


class DeepSpeedEngine:
    """A DeepSpeed engine that takes losses normalised over the whole step."""

    def __init__(self, module: nn.Module, weight_decay: float, config: dict[str, Any], world: World):
        deepspeed = import_deepspeed(world.device)
        self.world, self.config = world, config
        with Reading("the DeepSpeed configuration", "; see those in configs/deepspeed/"):
            deepspeed.DeepSpeedConfig(config)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=make_optimizer(module, weight_decay),
            config=config,
            dist_init_required=False,
        )
        self.module: nn.Module = self.engine.module
        self.zero_stage = config.get("zero_optimization", {}).get("stage", 0)
        self.sharded = self.zero_stage == 3

    def backward(self, loss: Tensor) -> None:
        if self.zero_stage > 0:
            # Its own `forward` would mark the start of a micro-batch, but body and head are called without it.
            self.optimizer.clear_backward_seen_flag()
        # DeepSpeed averages over accumulation steps and ranks, but this loss needs a sum.
        self.engine.backward(loss * (self.engine.gradient_accumulation_steps() * self.world.size))
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()  # only counts the micro-batch

    def step(self, learning_rate: float) -> Tensor:
        set_learning_rate(self.optimizer, learning_rate)
        computes_norm = hasattr(self.optimizer, "_global_grad_norm")
        if computes_norm:
            self.engine.step()
            norm = torch.as_tensor(self.engine.get_global_grad_norm(), dtype=torch.float32)
        else:  # ZeRO 0 in fp32 is plain AdamW: the gradients are accessible, summed over the ranks
            norm = nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None])
        if not self.config["fp16"]["enabled"] and not torch.isfinite(norm):
            raise NonFiniteError("the gradient is not finite")
        if not computes_norm:
            self.engine.step()
        return norm

    def save_state(self, folder: Path) -> None:
        # With LoRA, every start loads the frozen weights anyway.
        self.engine.save_checkpoint(str(folder), tag="state", exclude_frozen_parameters=True)
        if self.world.is_main:
            write_json(folder / SHARDS, {"zero_stage": self.zero_stage, "processes": self.world.size})

    def load_state(self, folder: Path) -> None:
        self._check_shards(folder, **json.loads((folder / SHARDS).read_bytes()))
        whole = all(parameter.requires_grad for parameter in self.module.parameters())
        with Reading(f"the checkpoint {folder}", "; start again with --resume never"):
            path, _ = self.engine.load_checkpoint(str(folder), tag="state", load_module_strict=whole)
        if path is None:
            raise UserError(f"{folder} holds no DeepSpeed state; start again with --resume never")

    def _check_shards(self, folder: Path, zero_stage: int, processes: int) -> None:
        """Raise unless DeepSpeed can reassemble the shards of a saved optimiser."""
        if zero_stage != self.zero_stage and {zero_stage, self.zero_stage} != {1, 2}:  # these two write the same
            raise UserError(
                f"{folder} was saved with ZeRO {zero_stage}, but --deepspeed_config asks for ZeRO {self.zero_stage}: "
                f"continue with ZeRO {zero_stage}, or start again with --resume never"
            )
        if zero_stage > 0 and processes != self.world.size:
            raise UserError(
                f"{folder} was saved by {processes} processes, but this run has {self.world.size}: with ZeRO "
                f"{zero_stage} DeepSpeed can only continue with {processes}; start that many, or start again with "
                "--resume never"
            )

    def export(self, folder: Path) -> None:
        import deepspeed

        parameters = list(self.module.parameters())
        gathered = deepspeed.zero.GatheredParameters(parameters) if self.sharded else nullcontext()
        with gathered:
            if self.world.is_main:
                self.module.save_pretrained(folder)  # type: ignore[operator]


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed, which takes seconds; on a CPU without compiling its shared-memory collectives."""
    for name, value in LONE_PROCESS.items():
        os.environ.setdefault(name, value)
    import deepspeed

    refuse_pickled_code()
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if device.type == "cuda" else "gloo"
    if not dist.is_initialized():  # one process needs no port, for which two runs on a machine would compete
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(backend, verbose=False)
    return deepspeed


def refuse_pickled_code() -> None:
    """Let this process load only tensors, plain values and four classes of DeepSpeed from checkpoints, but no code.

    DeepSpeed loads its pickles with `weights_only=False`; the variable overrules that.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    # Python before 3.11.4 would pickle the enumeration as a call of `getattr`, which cannot be allowed.
    ZeroStageEnum.__reduce_ex__ = lambda stage, protocol: (ZeroStageEnum, (stage.value,))  # type: ignore[method-assign,assignment]
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.serialization.add_safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address])
