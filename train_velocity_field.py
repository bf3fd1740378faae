"""Stage 1 of CONTRA: train the velocity field and the projector on a frozen student and teacher.

The smallest command, on a laptop, with what `bash runs/tiny/distillm.sh` has made:

    python3 train_velocity_field.py --model-path results/tiny/train/init/student \\
        --teacher-model-path results/tiny/train/sft/teacher --data-dir processed_data/dolly/full/tiny \\
        --max-length 128 --max-prompt-length 64 --num-distill-layers 4 --velocity-d-model 64 \\
        --save results/tiny/train/my_field

The paper's (`DRY_RUN=1` before it shows all its options):

    bash scripts/gpt2/train_velocity_field.sh . 2012 1

In the end the save folder holds `velocity_field.{json,safetensors}` and `projector.{json,safetensors}`, which
`finetune.py --type …-contra` takes as `--velocity-field-path`, with `args.json`, `log.jsonl` and `training.log`.
"""

from data_utils.errors import STOPPED, UserError, run_as_script

# isort: split
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
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
)
from distillm.distributed import World, join_world, leave_world
from distillm.interruption import FAREWELL, Interrupted, listening
from distillm.layer_schedule import layer_schedule
from distillm.models.loading import load_tokenizer
from distillm.models.precision import resolve_precision
from distillm.models.split_model import SplitModel, freeze
from distillm.option_parser import assembled, merged, names_of, parse_arguments
from distillm.progress_bar import progress_bar
from distillm.run.folder import FINISHED, is_finished, open_run
from distillm.run.header import run_header
from distillm.run.identity import input_files
from distillm.run.loggers import Logger, make_logger
from distillm.training.batches import StepBatches
from distillm.training.checkpoint import HASHES, check_hashes, write_hashes
from distillm.training.option_use import check_save_folder, warn_of_ignored
from distillm.training.overview import describe_end, overview
from distillm.training.setup import first_rows, load_pairs, load_rows, load_student, load_teacher, step_batches

CHECKPOINT = "checkpoint"
# Stage 1 has no clipping, no validation and no corpus, but scripts pass it the options of every training.
UNREAD = {"gradient_checkpointing", "lm_data_dir", "dev_num", "do_train", "do_valid", "eval_gen", "eval_batch_size"}
UNREAD |= {"eval_interval", "only_save_last", "clip_grad", "deepspeed", "deepspeed_config"}


@dataclass
class Arguments:
    """The options of stage 1, by concern; it keeps the last weights."""

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    layer_pairs: LayerPairArguments
    velocity_field: VelocityFieldArguments
    logging: LoggingArguments

    @classmethod
    def parse(cls) -> "Arguments":
        of_others = names_of(set(TRAINING_OPTIONS) - set(cls.__annotations__.values()))
        every, given = parse_arguments(TRAINING_OPTIONS, __doc__ or "", UNREAD | of_others)
        arguments = assembled(cls, every)
        options = arguments.options()
        check_save_folder(options)
        warn_of_ignored("stage 1 of CONTRA", sorted(given & of_others))
        return arguments

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
    status = 0
    if training.dry_run:
        print(f"dry run: velocity_field_loss {float(trainer.dry_run(batches)):.4g}")
    else:
        logger = make_logger(training.save, world.rank, arguments.logging.report_to, header)
        with open_run(training.save, header, training.resume, world):
            status = fit(trainer, batches, arguments, logger)
    leave_world(world, status)


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


@dataclass
class Log:
    """The state of the log, which the loop saves besides the trainer's state."""

    records: int = 0
    losses: list[float] = field(default_factory=list)  # of the steps since the last record


def fit(trainer: FieldTrainer, batches: StepBatches, arguments: Arguments, logger: Logger) -> int:
    """Train from the checkpoint, or from the start, and keep the last weights; return the exit status."""
    world, log, save = trainer.world, Log(), Path(arguments.training.save)
    checkpoint = save / CHECKPOINT
    if (checkpoint / HASHES).exists():
        load_checkpoint(trainer, log, checkpoint)
    logger.begin(describe(trainer, batches, arguments), trainer.step or None, log.records)
    started = time.monotonic()
    with listening():
        try:
            train(trainer, batches, arguments.training, log, logger)
        except Interrupted:
            if world.is_main and trainer.step > 0:
                save_checkpoint(trainer, log, checkpoint)
            logger.say(FAREWELL.format(trainer.step))
            logger.close()
            return STOPPED
        if world.is_main:
            save_field(save, trainer.velocity_field, trainer.projector)
            write_json(save / FINISHED, {"step": trainer.step})
            remove_folder(checkpoint)
    logger.say(describe_end(started, trainer.step, "the last weights are kept", str(save)))
    logger.close()
    return 0


def describe(trainer: FieldTrainer, batches: StepBatches, arguments: Arguments) -> list[str]:
    """Return the lines that the training prints at its start."""
    models = {
        "student": (arguments.model.model_path, trainer.student.model),
        "teacher": (str(arguments.model.teacher_model_path), trainer.teacher.model),
        "velocity field and projector": ("new", trainer.learner),
    }
    rows = {"training data": (arguments.data.data_dir, batches.dataset)}
    steps = trainer.settings.total_steps, batches.steps_per_epoch
    precision = trainer.settings.precision
    return overview("velocity field", precision, models, rows, arguments.training, *steps, trainer.world)


def train(trainer: FieldTrainer, batches: StepBatches, training: TrainingArguments, log: Log, logger: Logger) -> None:
    """Take the remaining steps, with log lines and checkpoints."""
    total = trainer.settings.total_steps
    every = batches.steps_per_epoch if training.save_interval == -1 else training.save_interval
    steps, rank = range(trainer.step + 1, total + 1), trainer.world.rank
    with (
        trainer.learning(),
        progress_bar(steps, total=total, initial=trainer.step, desc="velocity field", rank=rank) as bar,
    ):
        for step in bar:
            log.losses.append(float(trainer.train_step(batches)))
            if step % training.log_interval == 0 or step == total:
                epoch = step / batches.steps_per_epoch
                logger.log({"step": step, "epoch": epoch, "loss": float(torch.tensor(log.losses).mean())})
                log.records, log.losses = log.records + 1, []
            if step % every == 0 and step < total and trainer.world.is_main:
                save_checkpoint(trainer, log, Path(training.save) / CHECKPOINT)


def save_checkpoint(trainer: FieldTrainer, log: Log, folder: Path) -> None:
    """Write all that the training depends on, atomically."""
    with atomic_folder(folder) as temporary:
        trainer.save(temporary)
        write_json(temporary / "loop.json", {"step": trainer.step, **vars(log)})
        write_hashes(temporary)


def load_checkpoint(trainer: FieldTrainer, log: Log, folder: Path) -> None:
    """Read what `save_checkpoint` wrote."""
    check_hashes(folder, trainer.world)
    state = json.loads((folder / "loop.json").read_bytes())
    trainer.load(folder, state.pop("step"))
    vars(log).update(state)


if __name__ == "__main__":
    run_as_script(main)
