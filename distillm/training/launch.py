"""How training starts and ends: the same for the student and for CONTRA's velocity field."""

from collections.abc import Callable, Mapping
from typing import Any

from distillm.arguments import Arguments
from distillm.distributed import join_world, leave_world
from distillm.models.precision import resolve_precision
from distillm.run.folder import is_finished, open_run
from distillm.run.header import run_header
from distillm.run.identity import input_files
from distillm.training.setup import Run
from distillm.training.trainer import Trainer


def launch(arguments: Arguments, options: Mapping[str, Any], build: Callable[[Run], Trainer]) -> None:
    """Build a trainer and run it in its save folder, unless that already holds the same run, finished.

    `options` are those that the script reads; they and the content of the files that they name identify the run.
    """
    training, world = arguments.training, join_world()
    precision = resolve_precision(arguments.model.precision, world.device)
    header = {"precision": precision} | run_header(
        options,
        seed=training.seed,
        global_batch_size=training.rows_per_step(world.size),
        inputs=input_files(options),
    )
    if not training.dry_run and is_finished(training.save, header, training.resume, world):
        print(f"{training.save} holds this finished run: nothing to do (to start again, pass --resume never)")
        return leave_world(world)
    trainer = build(Run(arguments, world, precision, header))
    if training.dry_run:
        return leave_world(world, trainer.dry_run())
    with open_run(training.save, header, training.resume, world):
        status = trainer.fit()
    leave_world(world, status)
