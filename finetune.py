"""Train a student: supervised fine-tuning, every distillation method, and CONTRA on top of each.

The smallest command, on a laptop, with what `bash runs/tiny/distillm.sh` has made:

    python3 finetune.py --type lm --model-path results/tiny/train/base/student \\
        --data-dir processed_data/dolly/full/tiny --max-length 128 --max-prompt-length 64 \\
        --save results/tiny/train/mine --do-train --do-valid

The paper's DistiLLM + CONTRA (`DRY_RUN=1` before it shows all its options):

    bash scripts/gpt2/distillm/contra_0.1B_1.5B.sh . 2012 1

In the end the save folder is the trained model (`AutoModelForCausalLM.from_pretrained(save)`, or a PEFT adapter)
with its tokenizer, `args.json`, `log.jsonl`, `training.log`, and for CONTRA the refreshed field and projector.
"""

from data_utils.errors import UserError, run_as_script

# isort: split
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from contra.field_files import check_field_models, load_field
from contra.term import AlignmentTerm
from contra.training import FieldRefresh, FieldSettings, FieldTrainer
from data_utils.batching import Row
from data_utils.response_pairs import PAIR_MODELS, PairDataset
from distillm.arguments import (
    TRAINING_OPTIONS,
    ContraArguments,
    DataArguments,
    DecodingArguments,
    DistillationArguments,
    LayerPairArguments,
    LoggingArguments,
    ModelArguments,
    OnPolicyArguments,
    PairArguments,
    TrainingArguments,
    VelocityFieldArguments,
)
from distillm.distributed import World, join_world, leave_world
from distillm.layer_schedule import layer_schedule
from distillm.method import Method
from distillm.models.generation import DecodingSettings, ResponseGenerator
from distillm.models.loading import load_tokenizer
from distillm.models.precision import resolve_precision
from distillm.models.split_model import SplitModel
from distillm.objective import Objective, Term
from distillm.on_policy import AdaptiveThreshold, DatasetRows, OnPolicyRows, OnPolicySettings, ReplayBuffer
from distillm.option_parser import assembled, merged, names_of, parse_arguments
from distillm.regeneration import ResponseRegeneration
from distillm.run.folder import is_finished, open_run
from distillm.run.header import run_header
from distillm.run.identity import STUDENT, TEACHER, input_files, note_other_models
from distillm.run.loggers import make_logger
from distillm.terms import make_terms
from distillm.training.batches import StepBatches
from distillm.training.deepspeed_engine import DeepSpeedEngine, load_config
from distillm.training.engine import Engine, TorchEngine
from distillm.training.option_use import check_option_use, check_save_folder
from distillm.training.overview import overview
from distillm.training.setup import first_rows, load_pairs, load_rows, load_student, load_teacher, step_batches
from distillm.training.trainer import EpochEnd, Trainer
from distillm.training.trainer_state import TrainerSettings
from distillm.training.validation import ValidationSettings, Validator


@dataclass
class Arguments:
    """All options of this script, by concern."""

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    decoding: DecodingArguments
    distillation: DistillationArguments
    on_policy: OnPolicyArguments
    pairs: PairArguments
    layer_pairs: LayerPairArguments
    contra: ContraArguments
    logging: LoggingArguments

    @classmethod
    def parse(cls) -> tuple["Arguments", Method]:
        every, given = parse_arguments(TRAINING_OPTIONS, __doc__ or "", names_of([VelocityFieldArguments]))
        arguments = assembled(cls, every)
        method = Method.parse(arguments.distillation.type)
        check_option_use(method, merged(every), given)
        check_save_folder(arguments.options())
        return arguments, method

    def options(self) -> dict:
        return merged(list(vars(self).values()))


@dataclass
class Models:
    """Student, teacher (if the method has one) and the tokenizer they share."""

    student: SplitModel
    teacher: SplitModel | None
    tokenizer: PreTrainedTokenizerBase


def main() -> None:
    arguments, method = Arguments.parse()
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
    trainer = setup(arguments, method, precision, world, header)
    status = 0
    if training.dry_run:
        trainer.dry_run()
    else:
        with open_run(training.save, header, training.resume, world):
            status = trainer.fit() if training.do_train else trainer.validate_only()
    leave_world(world, status)


def setup(arguments: Arguments, method: Method, precision: str, world: World, header: dict) -> Trainer:
    """Build the trainer of a run: models, data, objective, and what happens after an epoch."""
    training = arguments.training
    models = setup_models(arguments, method, precision, world)
    rows, corpus_rows = setup_data(arguments, method, models)
    batches = step_batches(rows, training, arguments.data.max_length, models.tokenizer, world)
    log_gradients = arguments.distillation.log_term_gradients
    settings = TrainerSettings.of_run(training, batches.steps_per_epoch, precision, log_gradients)
    engine = setup_engine(arguments, models.student, precision, world)
    generator = setup_generator(arguments, models.tokenizer, world)
    terms = make_terms(
        method, arguments.distillation, arguments.pairs, models.student, models.teacher, corpus_rows is not None
    )
    callbacks: list[EpochEnd] = []
    field = None
    if isinstance(rows, PairDataset):
        note_other_models(Path(arguments.data.data_dir) / PAIR_MODELS, header, STUDENT + TEACHER, world)
        callbacks.append(setup_regeneration(arguments, rows, models, precision, world))
    if method.contra:
        check_field_models(arguments.contra, header, world)
        term, refresh = setup_contra(arguments, models, batches, settings, world)
        terms.append(term)
        callbacks.append(refresh)
        field = refresh.trainer
    corpus = None
    if corpus_rows is not None:
        corpus = step_batches(corpus_rows, training, arguments.data.max_length, models.tokenizer, world, "corpus order")
    return Trainer(
        engine=engine,
        objective=Objective(terms, models.student, models.teacher, world),
        batches=batches,
        corpus=corpus,
        policy=setup_policy(arguments, method, models.student, generator),
        validator=setup_validator(arguments, models, generator, world),
        callbacks=callbacks,
        tokenizer=models.tokenizer,
        logger=make_logger(training.save, world.rank, arguments.logging.report_to, header),
        overview=describe(arguments, method, models, field, rows, corpus_rows, settings, world),
        settings=settings,
        world=world,
    )


def describe(
    arguments: Arguments,
    method: Method,
    models: Models,
    field: FieldTrainer | None,
    rows: Sequence,
    corpus_rows: Sequence | None,
    settings: TrainerSettings,
    world: World,
) -> list[str]:
    """Return the lines that the run prints at its start."""
    paths, data = arguments.model, arguments.data
    all_models = {
        "student": (paths.model_path, models.student.model),
        "teacher": (paths.teacher_model_path, models.teacher.model if models.teacher else None),
        "velocity field and projector": (arguments.contra.velocity_field_path, field.learner if field else None),
    }
    all_rows = {"training data": (data.data_dir, rows), "corpus": (data.lm_data_dir, corpus_rows)}
    steps = settings.total_steps, settings.steps_per_epoch
    return overview(str(method), settings.precision, all_models, all_rows, arguments.training, *steps, world)


def setup_data(
    arguments: Arguments, method: Method, models: Models
) -> tuple[Sequence[Row] | PairDataset, Sequence[Row] | None]:
    """Open the training rows (or response pairs), and the corpus if its term counts."""
    data = arguments.data
    corpus = None
    if data.lm_data_dir is not None and arguments.distillation.lm_coef > 0:
        corpus = load_rows(data.lm_data_dir, "train", data, models.student, models.tokenizer)
    if method.needs_pairs:
        return load_pairs(data, models.student, models.tokenizer), corpus
    rows = load_rows(data.data_dir, "train", data, models.student, models.tokenizer)
    return first_rows(rows, data.train_num), corpus


def setup_regeneration(
    arguments: Arguments, pairs: PairDataset, models: Models, precision: str, world: World
) -> ResponseRegeneration:
    """Return the callback that generates new rejected responses, by plain sampling whatever validation uses."""
    data, training = arguments.data, arguments.training
    plain_sampling = DecodingSettings(data.max_length - data.max_prompt_length)
    generator = ResponseGenerator(models.tokenizer, plain_sampling, world, training.eval_batch_size)
    interval = arguments.pairs.generate_sgo_interval
    return ResponseRegeneration(
        pairs, models.student.model, generator, interval, data.max_length, training.seed, precision
    )


def setup_models(arguments: Arguments, method: Method, precision: str, world: World) -> Models:
    """Load the models and schedule the layers whose hidden states the method compares."""
    student = load_student(arguments.model, precision, world, arguments.training.seed)
    teacher = load_teacher(arguments.model, student, precision, world) if method.needs_teacher else None
    if method.needs_hidden_states:
        assert teacher is not None
        for model in (student, teacher):
            model.layers = layer_schedule(model.config.num_hidden_layers, arguments.layer_pairs.num_distill_layers)
    return Models(student, teacher, load_tokenizer(arguments.model.model_path))


def setup_engine(arguments: Arguments, student: SplitModel, precision: str, world: World) -> Engine:
    """Return DeepSpeed when a configuration is given, else plain torch."""
    training = arguments.training
    if training.deepspeed_config is None:
        return TorchEngine(student.model, training.weight_decay, training.clip_grad, precision, world)
    config = load_config(
        training.deepspeed_config,
        training.batch_size,
        training.gradient_accumulation_steps,
        training.clip_grad,
        precision,
    )
    engine = DeepSpeedEngine(student.model, training.weight_decay, config, world)
    if engine.zero_stage == 3 and arguments.distillation.log_term_gradients:
        raise UserError(
            f"--log-term-gradients needs whole gradients, ZeRO 3 of {training.deepspeed_config} scatters them; "
            "leave it out, or use ds_config_zero2.json"
        )
    return engine


def setup_generator(arguments: Arguments, tokenizer: PreTrainedTokenizerBase, world: World) -> ResponseGenerator:
    room = arguments.data.max_length - arguments.data.max_prompt_length
    settings = DecodingSettings(room, **vars(arguments.decoding))
    return ResponseGenerator(tokenizer, settings, world, arguments.training.eval_batch_size)


def setup_policy(
    arguments: Arguments, method: Method, student: SplitModel, generator: ResponseGenerator
) -> DatasetRows | OnPolicyRows:
    """Return where the rows of a step come from."""
    if method.sampling == "dataset":
        return DatasetRows()
    options = arguments.on_policy
    settings = OnPolicySettings(
        method.sampling,
        options.mixed_alpha,
        options.replay_ratio,
        arguments.data.max_length,
        arguments.training.seed,
    )
    threshold = AdaptiveThreshold(options.init_threshold, options.loss_eps)
    return OnPolicyRows(settings, threshold, ReplayBuffer(options.capacity), student.model, generator)


def setup_validator(
    arguments: Arguments, models: Models, generator: ResponseGenerator, world: World
) -> Validator | None:
    training, data = arguments.training, arguments.data
    if not training.do_valid:
        return None
    folder = arguments.pairs.gt_data_dir or data.data_dir
    dataset = load_rows(folder, "valid", data, models.student, models.tokenizer)
    num_rows = len(first_rows(dataset, data.dev_num))
    settings = ValidationSettings(training.eval_batch_size, data.max_length, training.eval_gen, training.seed)
    return Validator(dataset, num_rows, models.tokenizer, generator, settings, world)


def setup_contra(
    arguments: Arguments, models: Models, batches: StepBatches, settings: TrainerSettings, world: World
) -> tuple[Term, FieldRefresh]:
    """Load the field that stage 1 trained; return its term of the loss and its refresh after an epoch."""
    contra, training, teacher = arguments.contra, arguments.training, models.teacher
    assert teacher is not None and contra.velocity_field_path is not None
    velocity_field, projector = load_field(
        contra.velocity_field_path,
        contra.projector_path or contra.velocity_field_path,
        models.student.config.hidden_size,
        teacher.config.hidden_size,
        arguments.layer_pairs.num_distill_layers,
    )
    for module in (velocity_field, projector):
        module.to(world.device)
    term = AlignmentTerm(
        arguments.distillation.kd_ratio * contra.contra_weight, contra.curriculum, velocity_field, projector
    )
    total_steps = FieldRefresh.total_steps(
        settings.epochs, contra.velocity_update_interval, contra.velocity_epochs, batches.steps_per_epoch
    )
    optimisation = FieldSettings.of_run(training, total_steps, settings.precision)
    trainer = FieldTrainer(velocity_field, projector, models.student, teacher, optimisation, world)
    return term, FieldRefresh(trainer, batches, contra.velocity_epochs, contra.velocity_update_interval)


if __name__ == "__main__":
    run_as_script(main)
