"""The options of the entry scripts: one dataclass for each concern."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data_utils.errors import UserError

LARGEST_INTEGER = 2**63 - 1
LARGEST = dict.fromkeys(("batch_size", "eval_batch_size", "gradient_accumulation_steps"), 1 << 20)
LARGEST |= dict.fromkeys(("max_length", "max_prompt_length", "max_new_tokens"), 1 << 20)
LARGEST |= {"epochs": 1 << 20, "velocity_epochs": 1 << 20, "capacity": 1 << 30, "peft_lora_r": 1 << 16}
LARGEST |= {"num_distill_layers": 1000, "velocity_n_layers": 1000, "velocity_d_model": 1 << 17}
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DECAY_STYLES = ("constant", "linear", "cosine", "noam")
REPLAY_RATIOS = ("decreasing", "constant", "increasing")
CURRICULA = ("epoch", "step", "none")  # of CONTRA


def option(default: Any, help: str, choices: Sequence[str] | None = None) -> Any:
    """Declare one option."""
    metadata: dict[str, Any] = {"help": help}
    if choices is not None:
        metadata["choices"] = list(choices)
    return field(default=default, metadata=metadata)


def require_positive(arguments: Any, *names: str) -> None:
    """Raise unless each of these options is at least 1, and not absurd."""
    for name in names:
        if getattr(arguments, name) < 1:
            raise UserError(f"{flag(name)} must be at least 1, not {getattr(arguments, name)}")
    require_sensible(arguments, *names)


def require_not_negative(arguments: Any, *names: str) -> None:
    """Raise unless each of these options is a number from 0 on, and not absurd."""
    for name in names:
        if not 0 <= getattr(arguments, name) < math.inf:
            raise UserError(f"{flag(name)} must be at least 0, not {getattr(arguments, name)}")
    require_sensible(arguments, *names)


def require_count(arguments: Any, *names: str) -> None:
    """Raise unless each of these options is at least 1, or -1 for all, and not absurd."""
    for name in names:
        if getattr(arguments, name) < 1 and getattr(arguments, name) != -1:
            raise UserError(f"{flag(name)} must be at least 1, or -1 for all, not {getattr(arguments, name)}")
    require_sensible(arguments, *names)


def require_sensible(arguments: Any, *names: str) -> None:
    """Raise if an integer is absurdly large: it would need all memory, or take forever."""
    for name in names:
        value, largest = getattr(arguments, name), LARGEST.get(name, LARGEST_INTEGER)
        if isinstance(value, int) and value > largest:
            raise UserError(f"{flag(name)} {value} is more than {largest:,}: lower it")


def require_between(arguments: Any, low: float, high: float, *names: str) -> None:
    """Raise unless each of these options lies in [low, high]."""
    for name in names:
        if not low <= getattr(arguments, name) <= high:
            raise UserError(f"{flag(name)} must lie between {low:g} and {high:g}, not {getattr(arguments, name)}")


def flag(name: str) -> str:
    """Return the option as users write it."""
    return "--" + (name if name == "deepspeed_config" else name.replace("_", "-"))


@dataclass
class ModelArguments:
    """Which models, and how they are loaded."""

    model_path: str = option("", "student checkpoint: a folder or a hub id")
    model_type: str = option("gpt2", "architecture that the student checkpoint must have (its config's model_type)")
    teacher_model_path: str | None = option(None, "teacher checkpoint: a folder or a hub id")
    peft: str | None = option(None, "train adapters instead of all weights", ["lora"])
    peft_lora_r: int = option(16, "rank of fresh LoRA adapters")
    peft_lora_alpha: int = option(64, "scale of fresh LoRA adapters: alpha / r")
    peft_lora_dropout: float = option(0.1, "dropout of fresh LoRA adapters")
    peft_path: str | None = option(None, "student adapter to go on training; it keeps its own r and alpha")
    teacher_peft_path: str | None = option(None, "teacher adapter, merged into the teacher's weights at load")
    gradient_checkpointing: bool = option(False, "recompute the student's activations in the backward pass")
    precision: str = option(
        "auto", "of matrix products; auto: bf16 where the hardware has it, fp16 on older GPUs, else fp32", PRECISIONS
    )

    def __post_init__(self) -> None:
        if not self.model_path:
            raise UserError("--model-path is missing: give the student's checkpoint, a folder or a hub id")
        require_positive(self, "peft_lora_r", "peft_lora_alpha")
        require_between(self, 0.0, 1.0, "peft_lora_dropout")
        for name, base in (("peft_path", self.peft), ("teacher_peft_path", self.teacher_model_path)):
            if getattr(self, name) and not base:
                needed = "--peft lora" if name == "peft_path" else "--teacher-model-path"
                raise UserError(f"{flag(name)} {getattr(self, name)} needs {needed}")


@dataclass
class DataArguments:
    """Which data, and how long rows may be."""

    data_dir: str = option("", "processed instruction data: folder with {train,valid}_0.{bin,idx}")
    lm_data_dir: str | None = option(None, "processed corpus for the language-modelling term; none: no such term")
    train_num: int = option(-1, "training rows to use; -1: all")
    dev_num: int = option(-1, "validation rows to use; -1: all")
    max_length: int = option(512, "ids of a row, prompt and response")
    max_prompt_length: int = option(256, "ids of a prompt; the rest of max-length is room for generated responses")

    def __post_init__(self) -> None:
        if not self.data_dir:
            raise UserError("--data-dir is missing: give a folder made by tools/process_data_dolly.py")
        require_positive(self, "max_length", "max_prompt_length")
        require_count(self, "train_num", "dev_num")
        if self.max_prompt_length >= self.max_length:
            raise UserError(
                f"--max-prompt-length {self.max_prompt_length} leaves no room for a response in "
                f"--max-length {self.max_length}"
            )


@dataclass
class TrainingArguments:
    """Optimisation, schedule, validation and saving. Intervals count optimiser steps."""

    save: str = option("", "folder for the trained model, logs and checkpoints")
    do_train: bool = option(False, "train")
    do_valid: bool = option(False, "validate before training and at every eval-interval")
    eval_gen: bool = option(False, "generate a response to each validation prompt and select by ROUGE-L")
    only_save_last: bool = option(False, "keep the last model, not the best")
    save_interval: int = option(-1, "steps between checkpoints of the training state; -1: once an epoch")
    eval_interval: int = option(-1, "steps between validations; -1: once an epoch")
    log_interval: int = option(10, "steps between log lines")
    batch_size: int = option(8, "rows of one micro-batch on one rank")
    eval_batch_size: int = option(32, "rows of one validation or generation batch on one rank")
    gradient_accumulation_steps: int = option(1, "micro-batches of an optimiser step on one rank")
    epochs: int = option(1, "passes over the training rows")
    total_iters: int | None = option(None, "optimiser steps, instead of epochs")
    lr: float = option(5e-4, "peak learning rate")
    lr_min: float = option(1e-7, "learning rate at the end")
    lr_decay_style: str = option("cosine", "shape of the decay", DECAY_STYLES)
    warmup_iters: int = option(0, "optimiser steps of linear warm-up")
    weight_decay: float = option(1e-2, "AdamW's, on weight matrices")
    clip_grad: float = option(1.0, "largest gradient norm; 0: no clipping")
    seed: int = option(10, "seed of all random numbers")
    resume: str = option(
        "auto", "auto: go on from the save folder's checkpoint; never: remove an earlier run there", ["auto", "never"]
    )
    dry_run: bool = option(False, "stop after one forward pass of everything")
    deepspeed: bool = option(False, "train with DeepSpeed")
    deepspeed_config: str | None = option(None, "its JSON configuration")

    def __post_init__(self) -> None:
        if not self.save:
            raise UserError("--save is missing: give a folder for the trained model")
        require_positive(self, "batch_size", "eval_batch_size", "gradient_accumulation_steps", "epochs", "log_interval")
        require_not_negative(self, "lr", "lr_min", "weight_decay", "clip_grad", "warmup_iters", "seed")
        for name in ("save_interval", "eval_interval"):
            if getattr(self, name) < 1 and getattr(self, name) != -1:
                raise UserError(f"{flag(name)} must be at least 1, or -1 for once an epoch, not {getattr(self, name)}")
        if self.total_iters is not None:
            require_positive(self, "total_iters")
        if self.deepspeed != (self.deepspeed_config is not None):
            raise UserError(
                f"--deepspeed and --deepspeed_config go together: got {self.deepspeed} and {self.deepspeed_config}"
            )
        if self.lr < self.lr_min:
            raise UserError(f"--lr {self.lr:g} is below --lr-min {self.lr_min:g}")
        if self.eval_gen and not self.do_valid:
            raise UserError("--eval-gen needs --do-valid: it is a part of validation")


@dataclass
class DecodingArguments:
    """How responses are generated in training and validation."""

    do_sample: bool = option(True, "sample; false: greedy decoding")
    top_k: int = option(0, "sample from the k likeliest tokens; 0: from all")
    top_p: float = option(1.0, "sample from the likeliest tokens of this total probability")
    temperature: float = option(1.0, "of sampling")
    no_repeat_ngram_size: int = option(0, "n-grams of this size never repeat; 0: they may")
    repetition_penalty: float = option(1.0, "above 1 discourages tokens that occurred")

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:  # nor NaN
            raise UserError(f"--temperature must be above 0, not {self.temperature}; greedy is --do-sample false")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p must lie in (0, 1], not {self.top_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(f"--repetition-penalty must be above 0, not {self.repetition_penalty}; 1 changes nothing")
        require_not_negative(self, "top_k", "no_repeat_ngram_size")


@dataclass
class DistillationArguments:
    """The method and the weights of its terms."""

    type: str = option("lm", "the method, e.g. lm, kd, srkl, adaptive-srkl, adaptive-srkl-contra")
    kd_ratio: float = option(1.0, "share of distillation against cross-entropy on the responses")
    lm_coef: float = option(1.0, "weight of the corpus term")
    skew_alpha: float = option(0.1, "mixing weight of sfkl and srkl")
    log_term_gradients: bool = option(False, "log each term's gradient norm at the student's last block")

    def __post_init__(self) -> None:
        require_between(self, 0.0, 1.0, "kd_ratio")
        require_not_negative(self, "lm_coef")
        require_between(self, 0.0, 0.99, "skew_alpha")  # at 1 the mixture is the student itself: no gradient


@dataclass
class OnPolicyArguments:
    """When the student's own responses are used (adaptive and mixed types)."""

    mixed_alpha: float = option(0.5, "probability of generated rows in a mixed type")
    init_threshold: float = option(0.0, "initial adaptive threshold")
    loss_eps: float = option(0.1, "rise of the dev loss that raises the threshold")
    capacity: int = option(1000, "rows in the replay buffer")
    replay_ratio: str = option("decreasing", "how the share of fresh generation changes", REPLAY_RATIOS)

    def __post_init__(self) -> None:
        require_between(self, 0.0, 1.0, "mixed_alpha", "init_threshold")
        require_not_negative(self, "loss_eps")
        require_positive(self, "capacity")


@dataclass
class PairArguments:
    """DistiLLM-2: response pairs and their contrastive loss."""

    gt_data_dir: str | None = option(None, "processed reference data to validate on")
    gradual_beta: bool = option(False, "raise the weight of the rejected side from 1 to 1.5 in the first half")
    base_alpha_1: float = option(0.1, "mixing weight of the chosen side")
    base_alpha_2: float = option(0.1, "mixing weight of the rejected side")
    generate_sgo_interval: int = option(1, "epochs between regenerations of the rejected responses")

    def __post_init__(self) -> None:
        require_between(self, 0.0, 0.99, "base_alpha_1", "base_alpha_2")
        require_positive(self, "generate_sgo_interval")


@dataclass
class LayerPairArguments:
    """Which layers of teacher and student are compared (FDD, CONTRA)."""

    num_distill_layers: int = option(6, "layer pairs, equally spaced in both models")

    def __post_init__(self) -> None:
        require_positive(self, "num_distill_layers")


@dataclass
class VelocityFieldArguments:
    """The shape of a new velocity field."""

    velocity_d_model: int = option(1024, "width")
    velocity_n_layers: int = option(4, "blocks")

    def __post_init__(self) -> None:
        require_positive(self, "velocity_d_model", "velocity_n_layers")


@dataclass
class ContraArguments:
    """CONTRA: how the student is aligned along a trained velocity field, and how the field is refreshed."""

    velocity_field_path: str | None = option(None, "folder with the trained velocity field")
    projector_path: str | None = option(None, "folder with the trained projector; none: the field's")
    velocity_epochs: int = option(1, "passes over the training rows in one refresh")
    velocity_update_interval: int = option(1, "epochs between refreshes")
    curriculum: str = option("epoch", "how far along the flow the targets lie", CURRICULA)
    contra_weight: float = option(1.0, "weight of the alignment term")

    def __post_init__(self) -> None:
        require_positive(self, "velocity_epochs", "velocity_update_interval")
        require_not_negative(self, "contra_weight")


@dataclass
class LoggingArguments:
    """Where numbers go besides log.jsonl."""

    report_to: list[str] = field(default_factory=list, metadata={"help": "tensorboard, wandb"})


# Every training script takes every option, so that a run can hand the same extra options to all of them.
TRAINING_OPTIONS = (
    ModelArguments,
    DataArguments,
    TrainingArguments,
    DecodingArguments,
    DistillationArguments,
    OnPolicyArguments,
    PairArguments,
    LayerPairArguments,
    VelocityFieldArguments,
    ContraArguments,
    LoggingArguments,
)
