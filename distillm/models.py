"""Student and teacher: any Hugging Face causal LM, plain or with LoRA, seen as body + head."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from data_utils.errors import Reading, UserError
from data_utils.store_meta import describe_tokenizer
from distillm.split_model import SplitModel

ADAPTER_CONFIG = "adapter_config.json"
TRIAL = "### Response:\nSay 3 crêpes, 寿司 …"
PLAIN_NAME = re.compile(r"[\w.-]+")  # of a module
WEIGHT_FILE = re.compile(r"[^/\\]+\.(safetensors|bin|safetensors\.index\.json)")  # directly in its folder

transformers_logging.disable_progress_bar()  # one bar per weight shard is noise between our own bars


def split_checkpoint(path: str, adapter_path: str | None = None) -> tuple[str, str | None]:
    """Return base model and adapter; a path that is an adapter names its base model itself."""
    file = Path(path) / ADAPTER_CONFIG
    if adapter_path is not None or not file.is_file() or (Path(path) / "config.json").exists():
        return path, adapter_path
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is broken: it names no base model") from error
    if not isinstance(base, str) or not base:
        raise UserError(f"{file} names no base model; give the base model and this folder as its adapter")
    return base, path


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer; without a padding token it pads with EOS (padding is masked everywhere)."""
    path, _ = split_checkpoint(path)
    _check_folder(path, "config.json")
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
        UserError: the path is no checkpoint, or its files are broken or of another shape.
    """
    path, adapter_path = split_checkpoint(path, adapter_path)
    _check_folder(path, "config.json")
    if adapter_path is not None:
        _check_folder(adapter_path, ADAPTER_CONFIG)
    with Reading(path, _hint(path)):
        if (Path(path) / ADAPTER_CONFIG).exists():  # an adapter in the model's own folder is loaded with it
            read_adapter_config(path)
        if num_bytes := weight_bytes(path):
            check_size(AutoConfig.from_pretrained(path, trust_remote_code=False), num_bytes, path)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    model, report = loaded
    check_complete(report, path)
    if adapter_path is None:
        return model
    with Reading(adapter_path, _hint(adapter_path)):
        adapted = _load_adapter(model, adapter_path, trainable_adapter)
        return adapted if trainable_adapter else adapted.merge_and_unload()


def weight_bytes(folder: str) -> int:
    """Return the size of a folder's weights; 0 for a hub id, whose weights are not here."""
    return sum(path.stat().st_size for path in Path(folder).glob("*") if path.suffix in (".safetensors", ".bin"))


def check_size(config: Any, num_bytes: int, path: str) -> None:
    """Raise for a model that does not fit into files of this size: building it could take hours and all memory.

    A file needs about 50 bytes to name the tensors of a layer, and at least one bit per weight.
    """
    layers = getattr(config, "num_hidden_layers", None) or 0
    too_large = f"{layers:,} layers" if layers * 50 > num_bytes else None
    if too_large is None:
        with torch.device("meta"):  # which holds no numbers
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        weights = sum(parameter.numel() for parameter in model.parameters())
        too_large = f"{weights:,} weights" if weights > 8 * num_bytes else None
    if too_large is not None:
        raise UserError(
            f"cannot load {path}: it asks for {too_large}, which cannot be in {num_bytes:,} bytes; "
            "its configuration or its weights are damaged"
        )


def check_complete(report: Mapping[str, Collection[str]], path: str) -> None:
    """Raise for weights that Transformers only warns of: missing ones would stay random, unknown ones be ignored."""
    if report["missing_keys"]:
        missing = min(report["missing_keys"])
        raise UserError(f"cannot load {path}: its weights lack {missing}, which its configuration asks for")
    unknown = [name for name in report["unexpected_keys"] if name.endswith(".weight")]  # not an old buffer
    if unknown:
        raise UserError(
            f"cannot load {path}: its weights hold {min(unknown)}, for which its configuration has no place"
        )


def _load_adapter(model: nn.Module, path: str, trainable: bool) -> Any:
    """Put an adapter on a model; one whose weights are not those that its configuration asks for is refused."""
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    adapted = PeftModel.from_pretrained(
        model,  # type: ignore[arg-type]
        path,
        config=read_adapter_config(path),
        is_trainable=trainable,
        low_cpu_mem_usage=True,  # sets up no weights that the file does not hold
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
        raise UserError(f"cannot load {path}: it is an adapter of the kind {kind}, only LORA is supported")
    for name in ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"):
        value = getattr(config, name) or []
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, Collection) or not all(PLAIN_NAME.fullmatch(str(module)) for module in names):
            raise UserError(f"cannot load {path}: {name} in its {ADAPTER_CONFIG} must be a list of names of modules")
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
        message = f"--peft lora adapts q_proj and v_proj, {type(model).__name__} has none; train it without --peft"
        raise UserError(message) from error


def with_ordered_modules(adapted: Any) -> Any:
    """Let an adapter write its modules in one order: PEFT has a set, whose order differs between processes."""
    for config in adapted.peft_config.values():
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)
    return adapted


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recompute activations in the backward pass; LoRA needs gradients at the frozen embeddings for it."""
    model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    if hasattr(model, "peft_config"):
        model.enable_input_require_grads()  # type: ignore[operator]


def check_model_type(path: str, expected: str) -> None:
    """Raise unless the checkpoint's architecture is the one the script says."""
    path, _ = split_checkpoint(path)
    _check_folder(path, "config.json")
    with Reading(path, _hint(path)):
        found = AutoConfig.from_pretrained(path, trust_remote_code=False).model_type
    if found != expected:
        raise UserError(f"{path} is a {found} model, --model-type says {expected}; pass --model-type {found}")


def match_vocabulary(student: SplitModel, teacher: SplitModel, tokenizer_size: int) -> None:
    """Make the teacher score the student's vocabulary entries; both models have one tokenizer.

    Sizes of one family differ by padding: entries that no token has. A teacher loses those that the student lacks. The
    student keeps all of its own, since entries without a gradient would drift and be generated; so it may not be the
    larger one.

    Raises:
        UserError: the teacher has fewer entries than the student, or the student fewer than the tokenizer.
    """
    if student.vocab_size < tokenizer_size:
        raise UserError(
            f"the student scores {student.vocab_size} vocabulary entries, its tokenizer has {tokenizer_size}; "
            "enlarge the model's embeddings, or use the tokenizer that belongs to it"
        )
    if teacher.vocab_size < student.vocab_size:
        raise UserError(
            f"the student scores {student.vocab_size} vocabulary entries, the teacher only {teacher.vocab_size}; "
            "distillation compares them entry by entry, so choose a teacher with at least as many"
        )
    if teacher.vocab_size > student.vocab_size:
        teacher.cut_vocabulary(student.vocab_size)


def check_max_length(config: Any, max_length: int) -> None:
    """Raise if rows of `max_length` ids have more positions than the model knows."""
    known = getattr(config, "max_position_embeddings", None)
    if known is not None and max_length > known:
        raise UserError(f"--max-length {max_length} is more than the {known} positions of the model; lower it")


def check_same_tokenizer(student_path: str, teacher_path: str) -> None:
    """Raise if the two checkpoints' tokenizers give the ids different meanings."""
    student, teacher = load_tokenizer(student_path), load_tokenizer(teacher_path)
    if describe_tokenizer(student)["fingerprint"] != describe_tokenizer(teacher)["fingerprint"]:
        raise UserError(
            f"the tokenizers of {student_path} and {teacher_path} differ; distillation compares the two models "
            "id by id, so choose two models that share a tokenizer"
        )


def _check_folder(path: str, file: str) -> None:
    """Raise early for a local path that cannot be a checkpoint; anything else may be a hub id."""
    folder = Path(path)
    if folder.is_dir() and not (folder / file).exists():
        raise UserError(f"{path} is no checkpoint: it has no {file}")
    if folder.is_file():
        raise UserError(f"{path} is a file; expected a checkpoint folder with {file}")
    if not folder.exists() and (folder.is_absolute() or path.startswith(".") or path.count("/") > 1):
        raise UserError(f"{path} does not exist; expected a checkpoint folder with {file}")
    _check_weight_names(folder)


def _check_weight_names(folder: Path) -> None:
    """Raise for weights that do not lie in the folder under an ordinary name: no fingerprint would know of them."""
    for path in (*sorted(folder.glob("*.index.json")), *folder.glob("config.json")):
        try:
            content = json.loads(path.read_bytes())
            named = content["weight_map"].values() if "weight_map" in content else [content["transformers_weights"]]
            foreign = [name for name in named if name is not None and not WEIGHT_FILE.fullmatch(name)]
        except KeyError:  # a configuration need not name any
            continue
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is broken: it is not JSON, or does not name files of weights") from error
        if foreign:
            raise UserError(f"{path} names the weights {foreign[0]}; give a folder that holds its *.safetensors itself")


def _hint(path: str) -> str:
    """Return what to do about a checkpoint that is no local folder."""
    if Path(path).exists():
        return ""
    return (
        f"; give a local folder, or fetch it where there is a network: `hf download {path}` "
        "(a gated one asks you to accept its licence on the hub, and for `hf auth login`)"
    )
