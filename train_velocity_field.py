"""Stage 1 of CONTRA: train the velocity field and the projector on a frozen student and teacher.

The smallest command, on a laptop:

    python3 train_velocity_field.py --model-path results/tiny/train/init \\
        --teacher-model-path results/tiny/train/sft/teacher --data-dir processed_data/dolly/full/tiny \\
        --save results/tiny/train/velocity_field --velocity-d-model 64

The paper's (all its options stand in the script):

    bash scripts/gpt2/train_velocity_field.sh . 2012 1

In the end the save folder holds `velocity_field.{json,safetensors}` and `projector.{json,safetensors}`, which
`finetune.py --type …-contra` takes as `--velocity-field-path`, with `args.json`, `log.jsonl` and `training.log`.
"""

from data_utils.errors import UserError, run_as_script

# isort: split
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from contra.field_files import save_field
from contra.projector import Projector
from contra.training import FieldSettings, FieldTrainer
from contra.velocity_field import VelocityField
from data_utils.batching import Row
from data_utils.files import atomic_folder, remove_folder, write_json
from data_utils.randomness import keyed_seed
from data_utils.response_pairs import PairDataset, is_pair_folder
from distillm.arguments import (
    TRAINING_OPTIONS,
    DataArguments,
    LayerPairArguments,
    LoggingArguments,
    ModelArguments,
    TrainingArguments,
    VelocityFieldArguments,
    merged,
    parse_arguments,
)
from distillm.batches import StepBatches
from distillm.checkpoint import HASHES, check_hashes, write_hashes
from distillm.distributed import World, join_world, leave_world
from distillm.engine import resolve_precision
from distillm.layer_schedule import layer_schedule
from distillm.models import SplitModel, freeze, load_tokenizer
from distillm.option_use import check_save_folder, warn_of_ignored
from distillm.reporting import Logger, make_logger, run_header
from distillm.run_folder import FINISHED, is_finished, open_run
from distillm.run_identity import input_files
from distillm.setup import first_rows, load_pairs, load_rows, load_student, load_teacher, step_batches

CHECKPOINT = "checkpoint"


@dataclass
class Arguments:
    """The options that stage 1 reads, by concern; it has no clipping and no validation, and keeps the last weights."""

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    layer_pairs: LayerPairArguments
    velocity_field: VelocityFieldArguments
    logging: LoggingArguments

    @classmethod
    def parse(cls) -> "Arguments":
        every, given = parse_arguments(TRAINING_OPTIONS, __doc__ or "")
        parts = [part for part in every if type(part) in cls.__annotations__.values()]
        check_save_folder(merged(parts))
        warn_of_ignored("stage 1 of CONTRA", sorted((given & merged(every).keys()) - merged(parts).keys()))
        return cls(*parts)

    def options(self) -> dict:
        return merged(list(vars(self).values()))


def main() -> None:
    arguments = Arguments.parse()
    if arguments.training.deepspeed:
        raise UserError("the velocity field is too small for DeepSpeed: leave out --deepspeed and its configuration")
    world = join_world()
    training = arguments.training
    precision = resolve_precision(arguments.model.precision, world.device)
    rows_per_step = training.batch_size * training.gradient_accumulation_steps * world.size
    header = {"precision": precision} | run_header(
        arguments.options(),
        seed=training.seed,
        global_batch_size=rows_per_step,
        inputs=input_files(arguments.options()),
    )
    if not training.dry_run and is_finished(training.save, header, training.resume, world):
        print(f"{training.save} holds this run, finished: nothing to do (--resume never starts it afresh)")
        leave_world(world)
        return
    trainer, batches = setup(arguments, precision, world)
    if training.dry_run:
        loss = next(trainer.train(batches, 1, "dry run"))
        print(f"dry run: velocity_field_loss {float(loss):.4g}")
    else:
        logger = make_logger(training.save, world.rank, arguments.logging.report_to, header)
        with open_run(training.save, header, training.resume, world):
            fit(trainer, batches, arguments, logger)
    leave_world(world)


def setup(arguments: Arguments, precision: str, world: World) -> tuple[FieldTrainer, StepBatches]:
    """Load both models and the rows; make a new field and projector that fit them."""
    training, data, shape = arguments.training, arguments.data, arguments.velocity_field
    student = load_student(arguments.model, precision, world, training.seed)
    teacher = load_teacher(arguments.model, student, precision, world)
    freeze(student.model)
    num_pairs = arguments.layer_pairs.num_distill_layers
    for model in (student, teacher):
        model.layers = layer_schedule(model.config.num_hidden_layers, num_pairs)
    tokenizer = load_tokenizer(arguments.model.model_path)
    rows = load_training_items(arguments, student, tokenizer)
    batches = step_batches(rows, training, data.max_length, tokenizer, world)
    torch.manual_seed(keyed_seed(training.seed, "velocity field weights"))
    student_size, teacher_size = student.config.hidden_size, teacher.config.hidden_size
    velocity_field = VelocityField(teacher_size, shape.velocity_d_model, num_pairs, shape.velocity_n_layers)
    projector = Projector(student_size, teacher_size)
    total_steps = training.total_iters or training.epochs * batches.steps_per_epoch
    settings = FieldSettings.of_run(training, total_steps, precision)
    learner = velocity_field.to(world.device), projector.to(world.device)
    return FieldTrainer(*learner, student, teacher, settings, world), batches


def load_training_items(
    arguments: Arguments, student: SplitModel, tokenizer: PreTrainedTokenizerBase
) -> Sequence[Row] | PairDataset:
    """Open a processed store, or a folder of response pairs (chosen and rejected rows are then stacked)."""
    data = arguments.data
    if is_pair_folder(data.data_dir):
        return load_pairs(data, student, tokenizer)
    return first_rows(load_rows(data.data_dir, "train", data, student, tokenizer), data.train_num)


def fit(trainer: FieldTrainer, batches: StepBatches, arguments: Arguments, logger: Logger) -> None:
    """Train from where the checkpoint stands, or from the start; keep the last weights."""
    training, world, total = arguments.training, trainer.world, trainer.settings.total_steps
    save = Path(training.save)
    checkpoint = save / CHECKPOINT
    if (checkpoint / HASHES).exists():
        check_hashes(checkpoint, world)
        trainer.load(checkpoint, json.loads((checkpoint / "step.json").read_bytes()))
    logger.truncate_after(trainer.step if trainer.step else -1)
    every = batches.steps_per_epoch if training.save_interval == -1 else training.save_interval
    losses: list[Tensor] = []
    for loss in trainer.train(batches, total - trainer.step, "velocity field"):
        losses.append(loss)
        step = trainer.step
        saves = step % every == 0 or step == total
        if saves or step % training.log_interval == 0:
            epoch = (step - 1) // batches.steps_per_epoch + 1
            logger.log({"step": step, "epoch": epoch, "loss": float(torch.stack(losses).mean())})
            losses = []
        if saves and world.is_main:
            save_checkpoint(trainer, checkpoint)
    if world.is_main:
        save_field(save, trainer.velocity_field, trainer.projector)
        write_json(save / FINISHED, {"step": trainer.step})
        remove_folder(checkpoint)
    logger.close()


def save_checkpoint(trainer: FieldTrainer, folder: Path) -> None:
    """Write all that the training depends on, atomically."""
    with atomic_folder(folder) as temporary:
        trainer.save(temporary)
        write_json(temporary / "step.json", trainer.step)
        write_hashes(temporary)


if __name__ == "__main__":
    run_as_script(main)
