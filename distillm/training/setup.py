"""What every training run is built from: models, data, generator. It refuses what does not fit together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from data_utils.batching import Row
from data_utils.errors import UserError
from data_utils.instructions import InstructionDataset
from data_utils.randomness import keyed_seed
from data_utils.response_pairs import PairDataset, is_pair_folder
from data_utils.store_meta import check_length, check_tokenizer, vocabulary_size
from distillm.arguments import Arguments, DataArguments, DecodingArguments, ModelArguments
from distillm.distributed import World
from distillm.layer_schedule import layer_schedule
from distillm.models.adapters import add_lora
from distillm.models.checks import check_max_length, check_model_type, check_same_tokenizer, match_vocabulary
from distillm.models.generation import ResponseGenerator
from distillm.models.loading import enable_gradient_checkpointing, load_causal_lm, load_tokenizer, split_checkpoint
from distillm.models.precision import DTYPES
from distillm.models.split_model import SplitModel, freeze
from distillm.training.batches import StepBatches


@dataclass(frozen=True)
class Run:
    """What all parts of a training run have in common."""

    arguments: Arguments
    world: World
    precision: str  # fp32, bf16 or fp16
    header: Mapping[str, Any]  # what is saved to repeat it


@dataclass
class Models:
    """Student, teacher (if there is one) and the tokenizer they share."""

    student: SplitModel
    teacher: SplitModel | None
    tokenizer: PreTrainedTokenizerBase

    def schedule_layers(self, num_points: int) -> None:
        """Let both models keep the hidden states of their scheduled layers."""
        assert self.teacher is not None
        for model in (self.student, self.teacher):
            model.layers = layer_schedule(model.config.num_hidden_layers, num_points)


def load_models(run: Run, needs_teacher: bool) -> Models:
    """Load what a training run needs, on its device."""
    arguments = run.arguments.model
    check_model_type(arguments.model_path, arguments.model_type)
    tokenizer = load_tokenizer(arguments.model_path)
    student = load_student(arguments, run)
    teacher = load_teacher(arguments, student, tokenizer, run) if needs_teacher else None
    models = [model for model in (student, teacher) if model is not None]
    packs = all(model.keeps_rows_apart(run.world.device) for model in models)
    if not packs and run.world.is_main:
        print("note: the attention of these models mixes packed rows; rows are padded instead, which takes longer")
    for model in models:
        model.packs = packs
    return Models(student, teacher, tokenizer)


def load_student(arguments: ModelArguments, run: Run) -> SplitModel:
    """Load the model to train, with adapters when asked for: the seed decides their first weights.

    What is trained is in fp32; the frozen weights below adapters, like a teacher's, are in the run's precision.
    """
    base, adapter = split_checkpoint(arguments.model_path, arguments.peft_path)
    dtype = DTYPES[run.precision] if arguments.peft else torch.float32
    model = load_causal_lm(base, dtype, adapter_path=adapter, trainable_adapter=True)
    if arguments.peft == "lora" and adapter is None:
        torch.manual_seed(keyed_seed(run.arguments.training.seed, "adapter weights"))
        model = add_lora(model, arguments.peft_lora_r, arguments.peft_lora_alpha, arguments.peft_lora_dropout)
    if arguments.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    student = SplitModel(model.to(run.world.device))
    student.check_head(run.world.device)
    return student


def load_teacher(
    arguments: ModelArguments, student: SplitModel, tokenizer: PreTrainedTokenizerBase, run: Run
) -> SplitModel:
    """Load the frozen teacher in the run's precision and check that it scores the student's vocabulary."""
    if arguments.teacher_model_path is None:
        raise UserError("this training needs a teacher; give --teacher-model-path")
    adapter = arguments.teacher_peft_path
    model = load_causal_lm(arguments.teacher_model_path, DTYPES[run.precision], adapter_path=adapter)
    teacher = SplitModel(freeze(model).to(run.world.device))
    teacher.check_head(run.world.device)
    check_same_tokenizer(tokenizer, load_tokenizer(arguments.teacher_model_path))
    if teacher.vocab_size > student.vocab_size and run.world.is_main:
        sizes = f"{teacher.vocab_size} entries to the student's {student.vocab_size}"
        print(f"the teacher's vocabulary is cut from {sizes}: the rest is padding")
    match_vocabulary(student, teacher, vocabulary_size(tokenizer))
    return teacher


def load_rows(folder: str, split: str, num_rows: int, data: DataArguments, models: Models) -> InstructionDataset:
    """Open the first rows of a split of a processed store (-1: all); raise if its ids mean something else here."""
    student = models.student
    check_max_length(student.config, data.max_length)
    check_tokenizer(folder, models.tokenizer)
    check_length(folder, data.max_length)
    dataset = InstructionDataset(folder, split, data.max_length, data.max_prompt_length, num_rows)
    if dataset.largest_id >= student.vocab_size:
        raise UserError(
            f"{folder} holds token id {dataset.largest_id}, but the student's vocabulary has {student.vocab_size} "
            "entries; process the data with the student's tokenizer"
        )
    return dataset


def load_pairs(data: DataArguments, models: Models) -> PairDataset:
    """Open the response pairs to train on."""
    check_max_length(models.student.config, data.max_length)
    lengths = data.max_length, data.max_prompt_length
    return PairDataset(data.data_dir, "train", models.tokenizer, *lengths, data.train_num)


def load_training_rows(data: DataArguments, models: Models) -> Sequence[Row] | PairDataset:
    """Open the training rows, or response pairs if the folder holds those."""
    if is_pair_folder(data.data_dir):
        return load_pairs(data, models)
    return load_rows(data.data_dir, "train", data.train_num, data, models)


def step_batches(dataset: Sequence[Any], models: Models, run: Run, purpose: str = "instruction order") -> StepBatches:
    pad_id, packed = models.tokenizer.pad_token_id, models.student.packs
    return StepBatches(dataset, run.arguments.training, pad_id, run.world, purpose, packed)


def response_generator(decoding: DecodingArguments, models: Models, run: Run) -> ResponseGenerator:
    """Return a generator whose responses fit into a row."""
    data, batch_size = run.arguments.data, run.arguments.training.eval_batch_size
    room = data.max_length - data.max_prompt_length
    return ResponseGenerator(models.tokenizer, decoding, room, batch_size, run.world, models.student.sharded)
