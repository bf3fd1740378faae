"""Train a student: supervised fine-tuning, every distillation method, and CONTRA on top of each.

The smallest command, on a laptop, with what `bash runs/tiny/distillm_contra.sh` has made:

    python3 finetune.py --type lm --model-path results/tiny/train/base/student \\
        --data-dir processed_data/dolly/full/tiny --max-length 128 --max-prompt-length 64 \\
        --save results/tiny/train/mine --do-train --do-valid

The paper's DistiLLM + CONTRA (`DRY_RUN=1` before it shows all its options):

    bash scripts/gpt2/distillm/contra_0.1B_1.5B.sh . 2012 1

At the end the save folder is the trained model (`AutoModelForCausalLM.from_pretrained(save)`, or a PEFT adapter)
with its tokenizer, `args.json`, `log.jsonl`, `training.log`, and for CONTRA the refreshed field and projector.
"""

from data_utils.errors import UserError, run_as_script

# isort: split
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from contra.field_files import check_field_models, load_field
from contra.terms import AlignmentTerm
from contra.training import FieldRefresh, field_steps
from data_utils.batching import Row
from data_utils.response_pairs import PAIR_MODELS, PairDataset
from distillm.arguments import Arguments, DecodingArguments, VelocityFieldArguments
from distillm.method import Method
from distillm.models.generation import ResponseGenerator
from distillm.models.split_model import SplitModel
from distillm.objective import Objective, Term
from distillm.on_policy import DatasetRows, OnPolicyRows
from distillm.option_parser import names_of, options_of, parse_arguments
from distillm.regeneration import ResponseRegeneration
from distillm.run.identity import STUDENT, TEACHER, note_other_models
from distillm.run.loggers import make_logger
from distillm.terms import make_terms
from distillm.training.batches import StepBatches
from distillm.training.deepspeed_engine import DeepSpeedEngine, load_config
from distillm.training.engine import Engine, TorchEngine
from distillm.training.launch import launch
from distillm.training.option_use import check_option_use, check_save_folder
from distillm.training.overview import overview
from distillm.training.schedule import Schedule
from distillm.training.setup import (
    Models,
    Run,
    load_models,
    load_pairs,
    load_rows,
    response_generator,
    step_batches,
)
from distillm.training.steps import OptimiserSteps
from distillm.training.trainer import EpochEnd, Trainer
from distillm.training.validation import Validator

UNREAD = names_of(VelocityFieldArguments)  # of a new field


def main() -> None:
    arguments, given = parse_arguments(Arguments, __doc__ or "", UNREAD)
    method = Method.parse(arguments.distillation.type)
    check_option_use(method, arguments, given)
    options = options_of(arguments, UNREAD)
    check_save_folder(options)
    launch(arguments, options, partial(build, method=method))


def build(run: Run, method: Method) -> Trainer:
    """Build the trainer of the student: models, data, objective, and what happens after an epoch."""
    arguments, world = run.arguments, run.world
    models = build_models(run, method)
    engine = build_engine(run, models.student)
    models.student.sharded = engine.sharded
    rows, corpus_rows = load_data(run, method, models)
    batches = step_batches(rows, models, run)
    schedule = Schedule.of_run(arguments.training, batches.steps_per_epoch)
    generator = response_generator(arguments.decoding, models, run)
    loss_options = arguments.distillation, arguments.pairs
    terms = make_terms(method, *loss_options, models.student, models.teacher, corpus_rows is not None)
    callbacks: list[EpochEnd] = []
    sizes = {
        "student": (arguments.model.model_path, models.student.model),
        "teacher": (arguments.model.teacher_model_path, models.teacher.model if models.teacher else None),
    }
    if isinstance(rows, PairDataset):
        callbacks.append(build_regeneration(run, rows, models))
    if method.contra:
        term, refresh = build_contra(run, models, batches, schedule)
        terms.append(term)
        callbacks.append(refresh)
        sizes["velocity field and projector"] = (arguments.contra.velocity_field_path, refresh.steps.engine.module)
    steps = OptimiserSteps(
        "training",
        engine=engine,
        objective=Objective(terms, models.student, models.teacher, world),
        watched=models.student.last_compared_block,
        batches=batches,
        corpus=None if corpus_rows is None else step_batches(corpus_rows, models, run, "corpus order"),
        policy=build_policy(run, method, models.student, generator),
        schedule=schedule,
        precision=run.precision,
        world=world,
        log_gradients=arguments.distillation.log_term_gradients,
    )
    data = {"training data": (arguments.data.data_dir, rows), "corpus": (arguments.data.lm_data_dir, corpus_rows)}
    return Trainer(
        steps,
        make_logger(arguments.training.save, world.rank, arguments.logging.report_to, run.header),
        overview(str(method), run, sizes, data, schedule),
        validator=build_validator(run, models, generator),
        callbacks=callbacks,
        tokenizer=models.tokenizer,
    )


def build_models(run: Run, method: Method) -> Models:
    """Load the models and schedule the layers whose hidden states the method compares."""
    models = load_models(run, method.needs_teacher)
    if method.needs_hidden_states:
        models.schedule_layers(run.arguments.layer_pairs.num_distill_layers)
    return models


def load_data(run: Run, method: Method, models: Models) -> tuple[Sequence[Row] | PairDataset, Sequence[Row] | None]:
    """Open the training rows (or response pairs), and the corpus if its term counts."""
    data, corpus = run.arguments.data, None
    if data.lm_data_dir is not None and run.arguments.distillation.lm_coef > 0:
        corpus = load_rows(data.lm_data_dir, "train", -1, data, models)
    if method.needs_pairs:
        return load_pairs(data, models), corpus
    return load_rows(data.data_dir, "train", data.train_num, data, models), corpus


def build_engine(run: Run, student: SplitModel) -> Engine:
    """Return DeepSpeed when a configuration is given, else plain torch."""
    training = run.arguments.training
    if training.deepspeed_config is None:
        return TorchEngine(student.model, training.weight_decay, training.clip_grad, run.precision, run.world)
    engine = DeepSpeedEngine(student.model, training.weight_decay, load_config(training, run.precision), run.world)
    if engine.sharded and run.arguments.distillation.log_term_gradients:
        raise UserError(
            f"--log-term-gradients needs whole gradients, but ZeRO 3 in {training.deepspeed_config} shards them; "
            "leave it out, or use ds_config_zero2.json"
        )
    return engine


def build_policy(
    run: Run, method: Method, student: SplitModel, generator: ResponseGenerator
) -> DatasetRows | OnPolicyRows:
    """Return where the rows of a step come from."""
    if method.sampling == "dataset":
        return DatasetRows()
    arguments = run.arguments
    return OnPolicyRows(method.sampling, arguments.on_policy, arguments.training.seed, student.model, generator)


def build_validator(run: Run, models: Models, generator: ResponseGenerator) -> Validator | None:
    training, data = run.arguments.training, run.arguments.data
    if not training.do_valid:
        return None
    dataset = load_rows(run.arguments.pairs.gt_data_dir or data.data_dir, "valid", data.dev_num, data, models)
    return Validator(dataset, models.tokenizer, generator, training, run.world)


def build_regeneration(run: Run, pairs: PairDataset, models: Models) -> ResponseRegeneration:
    """Return the callback that generates new rejected responses, by plain sampling whatever validation uses."""
    arguments = run.arguments
    note_other_models(Path(arguments.data.data_dir) / PAIR_MODELS, run.header, STUDENT + TEACHER, run.world)
    generator = response_generator(DecodingArguments(), models, run)
    interval, seed = arguments.pairs.generate_sgo_interval, arguments.training.seed
    return ResponseRegeneration(pairs, models.student.model, generator, interval, seed, run.precision)


def build_contra(run: Run, models: Models, batches: StepBatches, schedule: Schedule) -> tuple[Term, FieldRefresh]:
    """Load the field that stage 1 trained; return its term of the loss and its refresh after an epoch."""
    arguments, contra, teacher = run.arguments, run.arguments.contra, models.teacher
    assert teacher is not None and contra.velocity_field_path is not None
    check_field_models(contra, run.header, run.world)
    learner = load_field(
        contra.velocity_field_path,
        contra.projector_path or contra.velocity_field_path,
        models.student.config.hidden_size,
        teacher.config.hidden_size,
        arguments.layer_pairs.num_distill_layers,
    )
    for module in learner:
        module.to(run.world.device)
    term = AlignmentTerm(arguments.distillation.kd_ratio * contra.contra_weight, contra.curriculum, *learner)
    epochs = schedule.progress(schedule.total_steps).epochs
    total_steps = FieldRefresh.total_steps(epochs, batches.steps_per_epoch, contra)
    refreshes = Schedule(arguments.training, batches.steps_per_epoch, total_steps)
    steps = field_steps(*learner, models.student, teacher, batches, refreshes, run.precision, run.world)
    return term, FieldRefresh(steps, contra)


if __name__ == "__main__":
    run_as_script(main)
