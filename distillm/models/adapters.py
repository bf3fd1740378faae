"""LoRA adapters: fresh ones, and those of a checkpoint."""

import re
from collections.abc import Collection
from typing import Any

from torch import nn

from data_utils.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"


PLAIN_NAME = re.compile(r"[\w.-]+")  # of a module


def load_adapter(model: nn.Module, path: str, trainable: bool) -> Any:
    """Put an adapter on a model; raise if its weights are not those that its configuration asks for."""
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    adapted = PeftModel.from_pretrained(
        model,  # type: ignore[arg-type]
        path,
        config=read_adapter_config(path),
        is_trainable=trainable,
        low_cpu_mem_usage=True,  # creates no weights that the file lacks
        trust_remote_code=False,
    )
    asked, found = (
        {name for name in weights if "lora_" in name}
        for weights in (get_peft_model_state_dict(adapted), load_peft_weights(path, device="cpu"))
    )
    if asked != found:
        raise UserError(f"cannot load {path}: its weights and its {ADAPTER_CONFIG} differ in {min(asked ^ found)}")
    return with_ordered_modules(adapted)


def read_adapter_config(path: str) -> Any:
    """Return an adapter's configuration; raise for one that is not LoRA, or names its modules by patterns.

    Another kind may read further files or run a model's own code; a pattern can take hours to match.
    """
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(path, trust_remote_code=False)
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind != "LORA":
        raise UserError(f"cannot load {path}: it is an adapter of kind {kind}, but only LORA is supported")
    for name in ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"):
        value = getattr(config, name) or []
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, Collection) or not all(PLAIN_NAME.fullmatch(str(module)) for module in names):
            raise UserError(f"cannot load {path}: {name} in its {ADAPTER_CONFIG} must be a list of module names")
    return config


def add_lora(model: nn.Module, rank: int, alpha: int, dropout: float) -> nn.Module:
    """Wrap a model with fresh LoRA adapters on its query and value projections."""
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=["q_proj", "v_proj"],
    )
    try:
        return with_ordered_modules(get_peft_model(model, config))  # type: ignore[arg-type]
    except ValueError as error:
        message = f"--peft lora adapts q_proj and v_proj, which {type(model).__name__} lacks; train it without --peft"
        raise UserError(message) from error


def with_ordered_modules(adapted: Any) -> Any:
    """Make an adapter write its modules in one order: PEFT uses a set, whose order differs between processes."""
    for config in adapted.peft_config.values():
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)
    return adapted
