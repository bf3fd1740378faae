"""Load checkpoints: any Hugging Face causal LM, plain or with LoRA, and its tokenizer."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.activations import NewGELUActivation
from transformers.utils import logging as transformers_logging

from data_utils.errors import Reading, UserError
from distillm.models.adapters import ADAPTER_CONFIG, load_adapter, read_adapter_config

TRIAL = "### Response:\nSay 3 crêpes, 寿司 …"
WEIGHT_FILE = re.compile(r"[^/\\]+\.(safetensors|bin|safetensors\.index\.json)")  # directly in its folder

transformers_logging.disable_progress_bar()  # one bar per weight shard is noise between our own bars


def split_checkpoint(path: str, adapter_path: str | None = None) -> tuple[str, str | None]:
    """Return base model and adapter; a path that is an adapter names its base model itself."""
    file = Path(path) / ADAPTER_CONFIG
    if adapter_path is not None or not file.is_file() or (Path(path) / "config.json").exists():
        return path, adapter_path
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise UserError(f"{file} names no base model; give the base model and this folder as its adapter")
    return base, path


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer; without a padding token it pads with EOS (padding is masked everywhere)."""
    path, _ = split_checkpoint(path)
    check_folder(path, "config.json")
    with Reading(f"a tokenizer from {path}"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise UserError(f"cannot load a tokenizer from {path}: it names a {type(tokenizer).__name__} as its class")
        tokenizer.decode(tokenizer.encode(TRIAL))  # a class that does not fit its files fails only here
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {path} has no EOS token; responses could not end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(
    path: str,
    dtype: torch.dtype = torch.float32,
    adapter_path: str | None = None,
    trainable_adapter: bool = False,
) -> nn.Module:
    """Load a causal LM from a folder or the hub; an adapter is merged into the weights unless it is to be trained.

    A `path` that is itself an adapter means its base model with that adapter.

    Raises:
        UserError: the path is not a checkpoint, or its files are broken or of another shape.
    """
    path, adapter_path = split_checkpoint(path, adapter_path)
    check_folder(path, "config.json")
    if adapter_path is not None:
        check_folder(adapter_path, ADAPTER_CONFIG)
    with Reading(path, fetch_hint(path)):
        if (Path(path) / ADAPTER_CONFIG).exists():  # an adapter in the model's own folder is loaded with it
            read_adapter_config(path)
        if num_bytes := weight_bytes(path):
            check_size(AutoConfig.from_pretrained(path, trust_remote_code=False), num_bytes, path)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    model, report = loaded
    check_complete(report, path)
    fuse_gelu(model)
    if adapter_path is None:
        return model
    with Reading(adapter_path, fetch_hint(adapter_path)):
        adapted = load_adapter(model, adapter_path, trainable_adapter)
        return adapted if trainable_adapter else adapted.merge_and_unload()


def fuse_gelu(model: nn.Module) -> None:
    """Compute GPT-2's activation, which Transformers writes as eight operations, as the one that it is."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def weight_bytes(folder: str) -> int:
    """Return the size of a folder's weights; 0 for a hub id, whose weights are not here."""
    return sum(path.stat().st_size for path in Path(folder).glob("*") if path.suffix in (".safetensors", ".bin"))


def check_size(config: Any, num_bytes: int, path: str) -> None:
    """Raise for a model that cannot fit into files of this size: building it could take hours and all memory.

    A file needs about 50 bytes to name the tensors of a layer, and at least one bit per weight.
    """
    layers = getattr(config, "num_hidden_layers", None) or 0
    asked, least = f"{layers:,} layers", 50 * layers
    if least <= num_bytes:
        with torch.device("meta"):  # which holds no numbers
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        weights = model.num_parameters()
        asked, least = f"{weights:,} weights", weights // 8
    if least > num_bytes:
        raise UserError(
            f"cannot load {path}: it asks for {asked}, which cannot fit into {num_bytes:,} bytes; "
            "its configuration or its weights are damaged"
        )


def check_complete(report: Mapping[str, Collection[str]], path: str) -> None:
    """Raise for weights that Transformers only warns about: missing ones would stay random, unknown ones be ignored."""
    missing = report["missing_keys"]
    unknown = [name for name in report["unexpected_keys"] if name.endswith(".weight")]  # not an old buffer
    if missing:
        raise UserError(f"cannot load {path}: its weights lack {min(missing)}, which its configuration asks for")
    if unknown:
        raise UserError(f"cannot load {path}: its weights hold {min(unknown)}, which its configuration does not name")


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recompute activations in the backward pass; LoRA needs gradients at the frozen embeddings for it."""
    model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    if hasattr(model, "peft_config"):
        model.enable_input_require_grads()  # type: ignore[operator]


def check_folder(path: str, file: str) -> None:
    """Raise early for a local path that cannot be a checkpoint; anything else may be a hub id."""
    folder = Path(path)
    is_local = folder.exists() or folder.is_absolute() or path.startswith(".") or path.count("/") > 1
    if is_local and not (folder / file).exists():
        found = "is a file" if folder.is_file() else "is not a checkpoint" if folder.exists() else "does not exist"
        raise UserError(f"{path} {found}; expected a checkpoint folder with {file}")
    _check_weight_names(folder)


def _check_weight_names(folder: Path) -> None:
    """Raise for weights outside the folder or under an unusual name: no fingerprint would cover them."""
    for path in (*sorted(folder.glob("*.index.json")), *folder.glob("config.json")):
        try:
            content = json.loads(path.read_bytes())
            named = {*content.get("weight_map", {}).values(), content.get("transformers_weights")} - {None}
            foreign = [name for name in named if not WEIGHT_FILE.fullmatch(name)]
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is broken: it is not JSON, or does not name weight files") from error
        if foreign:
            raise UserError(f"{path} names the weights {foreign[0]}; give a folder that holds its own *.safetensors")


def fetch_hint(path: str) -> str:
    """Return what to do about a checkpoint that is not a local folder."""
    if Path(path).exists():
        return ""
    return (
        f"; give a local folder, or fetch it where there is a network: `hf download {path}` "
        "(if it is gated, accept its licence on the hub and run `hf auth login` first)"
    )
