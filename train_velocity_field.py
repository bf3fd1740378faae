"""Stage 1 of CONTRA: train the velocity field and the projector on a frozen student and teacher.

The smallest command, on a laptop, with what `bash runs/tiny/distillm_contra.sh` has made:

    python3 train_velocity_field.py --model-path results/tiny/train/init/student \\
        --teacher-model-path results/tiny/train/sft/teacher --data-dir processed_data/dolly/full/tiny \\
        --max-length 128 --max-prompt-length 64 --num-distill-layers 4 --velocity-d-model 64 \\
        --save results/tiny/train/my_field

The paper's (`DRY_RUN=1` before it shows all its options):

    bash scripts/gpt2/train_velocity_field.sh . 2012 1

At the end the save folder holds `velocity_field.{json,safetensors}` and `projector.{json,safetensors}`, which
`finetune.py --type …-contra` takes as `--velocity-field-path`, with `args.json`, `log.jsonl` and `training.log`.
"""

from data_utils.errors import UserError, run_as_script

# isort: split
import torch

from contra.projector import Projector
from contra.training import field_steps
from contra.velocity_field import VelocityField
from data_utils.randomness import keyed_seed
from distillm.arguments import (
    Arguments,
    ContraArguments,
    DecodingArguments,
    DistillationArguments,
    OnPolicyArguments,
    PairArguments,
)
from distillm.models.split_model import freeze
from distillm.option_parser import declared, names_of, options_of, parse_arguments
from distillm.run.loggers import make_logger
from distillm.training.launch import launch
from distillm.training.option_use import check_save_folder, warn_of_ignored
from distillm.training.overview import overview
from distillm.training.schedule import Schedule
from distillm.training.setup import Models, Run, load_models, load_training_rows, step_batches
from distillm.training.trainer import Trainer

# Stage 1 has no clipping, no validation and no corpus, but scripts pass it the options of all training runs.
STUDENT_ONLY = {name for name, metadata in declared(Arguments).items() if not metadata["stage_1"]}
OF_STAGE_2 = names_of(DecodingArguments, DistillationArguments, OnPolicyArguments, PairArguments, ContraArguments)
UNREAD = STUDENT_ONLY | OF_STAGE_2


def main() -> None:
    arguments, given = parse_arguments(Arguments, __doc__ or "", UNREAD)
    if arguments.training.deepspeed:
        raise UserError("the velocity field is too small for DeepSpeed: leave out --deepspeed and its configuration")
    warn_of_ignored("stage 1 of CONTRA", given & OF_STAGE_2)
    options = options_of(arguments, UNREAD)
    check_save_folder(options)
    launch(arguments, options, build)


def build(run: Run) -> Trainer:
    """Build the trainer of a new field and projector; both models are frozen."""
    arguments, world = run.arguments, run.world
    models = load_models(run, needs_teacher=True)
    assert models.teacher is not None
    freeze(models.student.model)
    models.schedule_layers(arguments.layer_pairs.num_distill_layers)
    rows = load_training_rows(arguments.data, models)
    batches = step_batches(rows, models, run)
    schedule = Schedule.of_run(arguments.training, batches.steps_per_epoch)
    learner = new_field(run, models)
    steps = field_steps(*learner, models.student, models.teacher, batches, schedule, run.precision, world)
    sizes = {
        "student": (arguments.model.model_path, models.student.model),
        "teacher": (arguments.model.teacher_model_path, models.teacher.model),
        "velocity field and projector": ("new", steps.engine.module),
    }
    return Trainer(
        steps,
        make_logger(arguments.training.save, world.rank, arguments.logging.report_to, run.header),
        overview("velocity field", run, sizes, {"training data": (arguments.data.data_dir, rows)}, schedule),
    )


def new_field(run: Run, models: Models) -> tuple[VelocityField, Projector]:
    """Return a field and a projector that fit the models; the seed decides their first weights."""
    assert models.teacher is not None
    shape, num_pairs = run.arguments.velocity_field, run.arguments.layer_pairs.num_distill_layers
    student_size, teacher_size = models.student.config.hidden_size, models.teacher.config.hidden_size
    torch.manual_seed(keyed_seed(run.arguments.training.seed, "velocity field weights"))
    velocity_field = VelocityField(teacher_size, shape.velocity_d_model, num_pairs, shape.velocity_n_layers)
    projector = Projector(student_size, teacher_size)
    return velocity_field.to(run.world.device), projector.to(run.world.device)


if __name__ == "__main__":
    run_as_script(main)
