"""The options of the entry scripts: one dataclass per concern."""

from dataclasses import dataclass
from typing import Any

from data_utils.errors import UserError
from distillm.options import Options, amount, count, flag, option, share

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DECAY_STYLES = ("constant", "linear", "cosine", "noam")
REPLAY_RATIOS = ("decreasing", "constant", "increasing")
CURRICULA = ("epoch", "step", "none")  # of CONTRA

A_FOLDER = "a folder or a hub id"
PRECISION_HELP = "of matrix products; auto: bf16 where the hardware has it, fp16 on older GPUs, else fp32"


def needs_teacher(method: Any) -> bool:
    return method.needs_teacher


def is_adaptive(method: Any) -> bool:
    return method.sampling == "adaptive"


def is_mixed(method: Any) -> bool:
    return method.sampling == "mixed"


def is_on_policy(method: Any) -> bool:
    return method.sampling != "dataset"


def is_skewed(method: Any) -> bool:
    return method.divergence in ("sfkl", "srkl")


@dataclass
class ModelArguments(Options):
    """Which models, and how they are loaded."""

    model_path: str = option("", f"student checkpoint: {A_FOLDER}", required=f"the student's checkpoint, {A_FOLDER}")
    model_type: str = option("gpt2", "architecture that the student checkpoint must have (its config's model_type)")
    teacher_model_path: str | None = option(None, f"teacher checkpoint: {A_FOLDER}", read_by=needs_teacher)
    peft: str | None = option(None, "train adapters instead of all weights", ["lora"])
    peft_lora_r: int = count(16, "rank of fresh LoRA adapters", most=1 << 16)
    peft_lora_alpha: int = count(64, "scale of fresh LoRA adapters: alpha / r")
    peft_lora_dropout: float = share(0.1, "dropout of fresh LoRA adapters")
    peft_path: str | None = option(None, "student adapter to continue training; it keeps its own r and alpha")
    teacher_peft_path: str | None = option(
        None, "teacher adapter, merged into the teacher's weights at load", read_by=needs_teacher
    )
    gradient_checkpointing: bool = option(
        False, "recompute the student's activations in the backward pass", stage_1=False
    )
    precision: str = option("auto", PRECISION_HELP, PRECISIONS)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, base in (("peft_path", self.peft), ("teacher_peft_path", self.teacher_model_path)):
            if getattr(self, name) and not base:
                needed = "--peft lora" if name == "peft_path" else "--teacher-model-path"
                raise UserError(f"{flag(name)} {getattr(self, name)} needs {needed}")


@dataclass
class CheckpointArguments(Options):
    """A trained model that answers prompts."""

    model_path: str = option(
        "", f"checkpoint: {A_FOLDER}, or an adapter, which names its base model", required=f"a checkpoint, {A_FOLDER}"
    )
    peft_path: str | None = option(None, "adapter, merged into the model at load")
    precision: str = option("auto", PRECISION_HELP, PRECISIONS)


@dataclass
class DataArguments(Options):
    """Which data, and how long rows may be."""

    data_dir: str = option(
        "",
        "processed instruction data: folder with {train,valid}_0.{bin,idx}",
        required="a folder made by tools/process_data_dolly.py",
    )
    lm_data_dir: str | None = option(
        None, "processed corpus for the language-modelling term; none: no such term", stage_1=False
    )
    train_num: int = option(-1, "training rows to use; -1: all", least=1, minus_one="all")
    dev_num: int = option(-1, "validation rows to use; -1: all", least=1, minus_one="all", stage_1=False)
    max_length: int = count(512, "most ids in a row, prompt and response")
    max_prompt_length: int = count(256, "most ids in a prompt; the rest of max-length is for generated responses")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lengths(self.max_length, self.max_prompt_length)


def check_lengths(max_length: int, max_prompt_length: int) -> None:
    """Raise if a prompt may fill a whole row."""
    if max_prompt_length >= max_length:
        raise UserError(
            f"--max-prompt-length {max_prompt_length} leaves no room for a response in --max-length {max_length}"
        )


@dataclass
class TrainingArguments(Options):
    """Optimisation, schedule, validation and saving. Intervals count optimiser steps."""

    save: str = option(
        "", "folder for the trained model, logs and checkpoints", required="a folder for the trained model", free=True
    )
    do_train: bool = option(False, "train", stage_1=False)
    do_valid: bool = option(False, "validate before training and at every eval-interval", stage_1=False)
    eval_gen: bool = option(False, "generate a response to each validation prompt and select by ROUGE-L", stage_1=False)
    only_save_last: bool = option(False, "keep the last model, not the best", stage_1=False)
    save_interval: int = option(
        -1, "steps between checkpoints; -1: once per epoch", least=1, minus_one="once per epoch", free=True
    )
    eval_interval: int = option(
        -1, "steps between validations; -1: once per epoch", least=1, minus_one="once per epoch", stage_1=False
    )
    log_interval: int = option(10, "steps between log lines", least=1, free=True)
    # How the rows of a step are split; only the global batch changes the result.
    batch_size: int = count(8, "rows of one micro-batch on one rank", free=True)
    gradient_accumulation_steps: int = count(1, "micro-batches of an optimiser step on one rank", free=True)
    eval_batch_size: int = count(32, "rows of one validation or generation batch on one rank", free=True, stage_1=False)
    epochs: int = count(1, "passes over the training rows")
    total_iters: int | None = option(None, "optimiser steps, instead of epochs", least=1)
    lr: float = amount(5e-4, "peak learning rate")
    lr_min: float = amount(1e-7, "learning rate at the end")
    lr_decay_style: str = option("cosine", "shape of the decay", DECAY_STYLES)
    warmup_iters: int = amount(0, "optimiser steps of linear warm-up")
    weight_decay: float = amount(1e-2, "AdamW's, on weight matrices")
    clip_grad: float = amount(1.0, "largest gradient norm; 0: no clipping", stage_1=False)
    seed: int = amount(10, "seed of all random numbers")
    resume: str = option(
        "auto",
        "auto: continue from the save folder's checkpoint; never: remove an earlier run there",
        ["auto", "never"],
        free=True,
    )
    dry_run: bool = option(False, "stop after one forward pass of everything", free=True)
    deepspeed: bool = option(False, "train with DeepSpeed", stage_1=False)
    deepspeed_config: str | None = option(None, "its JSON configuration", free=True, stage_1=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.deepspeed != (self.deepspeed_config is not None):
            raise UserError(
                f"--deepspeed and --deepspeed_config go together: got {self.deepspeed} and {self.deepspeed_config}"
            )
        if self.lr < self.lr_min:
            raise UserError(f"--lr {self.lr:g} is below --lr-min {self.lr_min:g}")
        if self.eval_gen and not self.do_valid:
            raise UserError("--eval-gen needs --do-valid: it is part of validation")

    def rows_per_step(self, processes: int) -> int:
        """Return the global batch: the rows of one optimiser step."""
        return self.batch_size * self.gradient_accumulation_steps * processes


@dataclass
class DecodingArguments(Options):
    """How responses are generated."""

    do_sample: bool = option(True, "sample; false: greedy decoding")
    top_k: int = amount(0, "sample from the k likeliest tokens; 0: from all")
    top_p: float = option(1.0, "sample from the likeliest tokens with this total probability", above=0.0, most=1.0)
    temperature: float = option(1.0, "of sampling; --do-sample false is greedy", above=0.0)
    no_repeat_ngram_size: int = amount(0, "n-grams of this size never repeat; 0: they may")
    repetition_penalty: float = option(1.0, "above 1: discourage tokens that have occurred", above=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.no_repeat_ngram_size == 1:
            raise UserError("--no-repeat-ngram-size 1 would forbid every token of the prompt; use 2 or more, or 0")


@dataclass
class DistillationArguments(Options):
    """The method and the weights of its terms."""

    type: str = option("lm", "the method, e.g. lm, kd, srkl, adaptive-srkl, adaptive-srkl-contra")
    kd_ratio: float = share(1.0, "share of distillation; the rest is cross-entropy on responses", read_by=needs_teacher)
    lm_coef: float = amount(1.0, "weight of the corpus term")
    # At 1 the mixture would be the student itself: no gradient.
    skew_alpha: float = share(0.1, "mixing weight of sfkl and srkl", most=0.99, read_by=is_skewed)
    log_term_gradients: bool = option(False, "log each term's gradient norm at the student's last block")


@dataclass
class OnPolicyArguments(Options):
    """When the student's own responses are used (adaptive and mixed types)."""

    mixed_alpha: float = share(0.5, "probability of generated rows in a mixed type", read_by=is_mixed)
    init_threshold: float = share(0.0, "initial adaptive threshold", read_by=is_adaptive)
    loss_eps: float = amount(0.1, "rise of the dev loss that raises the threshold", read_by=is_adaptive)
    capacity: int = count(1000, "rows in the replay buffer", most=1 << 30, read_by=is_on_policy)
    replay_ratio: str = option(
        "decreasing", "how the share of fresh generation changes", REPLAY_RATIOS, read_by=is_adaptive
    )


@dataclass
class PairArguments(Options):
    """DistiLLM-2: response pairs and their contrastive loss."""

    gt_data_dir: str | None = option(None, "processed reference data to validate on")
    gradual_beta: bool = option(False, "raise the weight of the rejected side from 1 to 1.5 in the first half")
    base_alpha_1: float = share(0.1, "mixing weight of the chosen side", most=0.99)
    base_alpha_2: float = share(0.1, "mixing weight of the rejected side", most=0.99)
    generate_sgo_interval: int = count(1, "epochs between regenerations of the rejected responses")


@dataclass
class LayerPairArguments(Options):
    """Which layers of teacher and student are compared (FDD, CONTRA)."""

    num_distill_layers: int = count(6, "layer pairs, equally spaced in both models", most=1000)


@dataclass
class VelocityFieldArguments(Options):
    """The shape of a new velocity field; a trained one has its own."""

    velocity_d_model: int = count(1024, "width", most=1 << 17)
    velocity_n_layers: int = count(4, "blocks", most=1000)


@dataclass
class ContraArguments(Options):
    """CONTRA: how the student is aligned along a trained velocity field, and how the field is refreshed."""

    velocity_field_path: str | None = option(None, "folder with the trained velocity field")
    projector_path: str | None = option(None, "folder with the trained projector; none: the field's")
    velocity_epochs: int = count(1, "passes over the training rows in one refresh")
    velocity_update_interval: int = count(1, "epochs between refreshes")
    curriculum: str = option("epoch", "how far along the flow the targets lie", CURRICULA)
    contra_weight: float = amount(1.0, "weight of the alignment term")


@dataclass
class LoggingArguments(Options):
    """Where numbers go besides log.jsonl."""

    report_to: list[str] = option([], "further loggers", ("tensorboard", "wandb"), free=True)


@dataclass
class Arguments:
    """All training options. Both training scripts accept all of them, so a run can pass the same ones to both."""

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    decoding: DecodingArguments
    distillation: DistillationArguments
    on_policy: OnPolicyArguments
    pairs: PairArguments
    layer_pairs: LayerPairArguments
    velocity_field: VelocityFieldArguments
    contra: ContraArguments
    logging: LoggingArguments
