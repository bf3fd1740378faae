"""What every entry script does first: load student, teacher and data, and refuse what does not fit together."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import Subset
from transformers import PreTrainedTokenizerBase

from data_utils.batching import Row, collate
from data_utils.errors import UserError
from data_utils.instructions import InstructionDataset
from data_utils.randomness import keyed_seed
from data_utils.response_pairs import Pair, PairDataset, collate_pairs
from data_utils.store_meta import check_length, check_tokenizer, vocabulary_size
from distillm.arguments import DataArguments, ModelArguments, TrainingArguments
from distillm.distributed import World
from distillm.models.adapters import add_lora
from distillm.models.checks import check_max_length, check_model_type, check_same_tokenizer, match_vocabulary
from distillm.models.loading import enable_gradient_checkpointing, load_causal_lm, load_tokenizer, split_checkpoint
from distillm.models.precision import DTYPES
from distillm.models.split_model import SplitModel, freeze
from distillm.training.batches import StepBatches, StepShape


def load_student(arguments: ModelArguments, precision: str, world: World, seed: int) -> SplitModel:
    """Load the model to train, with adapters when asked for: `seed` decides their first weights.

    What is trained is in fp32; the frozen weights below adapters, like a teacher's, are in the run's precision.
    """
    check_model_type(arguments.model_path, arguments.model_type)
    base, adapter = split_checkpoint(arguments.model_path, arguments.peft_path)
    dtype = DTYPES[precision] if arguments.peft else torch.float32
    model = load_causal_lm(base, dtype, adapter_path=adapter, trainable_adapter=True)
    if arguments.peft == "lora" and adapter is None:
        torch.manual_seed(keyed_seed(seed, "adapter weights"))
        model = add_lora(model, arguments.peft_lora_r, arguments.peft_lora_alpha, arguments.peft_lora_dropout)
    if arguments.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    student = SplitModel(model.to(world.device))
    student.check_head(world.device)
    return student


def load_teacher(arguments: ModelArguments, student: SplitModel, precision: str, world: World) -> SplitModel:
    """Load the frozen teacher in the run's precision and check that it scores the student's vocabulary."""
    if arguments.teacher_model_path is None:
        raise UserError("this --type learns from a teacher; give --teacher-model-path")
    model = load_causal_lm(arguments.teacher_model_path, DTYPES[precision], adapter_path=arguments.teacher_peft_path)
    teacher = SplitModel(freeze(model).to(world.device))
    teacher.check_head(world.device)
    check_same_tokenizer(arguments.model_path, arguments.teacher_model_path)
    if teacher.vocab_size > student.vocab_size and world.is_main:
        sizes = f"{teacher.vocab_size} entries to the student's {student.vocab_size}"
        print(f"the teacher's vocabulary is cut from {sizes}: the rest is padding")
    match_vocabulary(student, teacher, vocabulary_size(load_tokenizer(arguments.model_path)))
    return teacher


def load_rows(
    folder: str, split: str, arguments: DataArguments, student: SplitModel, tokenizer: PreTrainedTokenizerBase
) -> InstructionDataset:
    """Open one split of a processed store and check that its ids mean what the student takes them for."""
    check_max_length(student.config, arguments.max_length)
    check_tokenizer(folder, tokenizer)
    check_length(folder, arguments.max_length)
    dataset = InstructionDataset(folder, split, arguments.max_length, arguments.max_prompt_length)
    if dataset.largest_id >= student.vocab_size:
        raise UserError(
            f"{folder} holds token id {dataset.largest_id}, the student's vocabulary has {student.vocab_size} entries; "
            "process the data with the student's tokenizer"
        )
    return dataset


def load_pairs(arguments: DataArguments, student: SplitModel, tokenizer: PreTrainedTokenizerBase) -> PairDataset:
    """Open the response pairs to train on."""
    check_max_length(student.config, arguments.max_length)
    return PairDataset(
        arguments.data_dir,
        "train",
        tokenizer,
        arguments.max_length,
        arguments.max_prompt_length,
        arguments.train_num,
    )


def first_rows(dataset: Sequence[Row], count: int) -> Sequence[Row]:
    """Return the first `count` rows, all of them for -1."""
    if count == -1 or count >= len(dataset):
        return dataset
    return Subset(dataset, range(count))  # type: ignore[arg-type,return-value]


def step_batches(
    dataset: Sequence[Any],
    training: TrainingArguments,
    max_length: int,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    purpose: str = "instruction order",
) -> StepBatches:
    """Return the optimiser steps over rows or pairs; `purpose` keeps the orders of several data sets apart."""
    shape = StepShape(training.batch_size, training.gradient_accumulation_steps, keyed_seed(training.seed, purpose))
    collate_items = collate_pairs if isinstance(dataset[0], Pair) else collate
    pad_and_cut = partial(collate_items, pad_id=tokenizer.pad_token_id, max_length=max_length)
    return StepBatches(dataset, shape, pad_and_cut, world)
