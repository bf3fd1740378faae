"""The training loop: steps, validation, checkpoints, and the choice of the model that is kept."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data_utils.errors import STOPPED
from data_utils.files import Writing, atomic_folder, move_file, remove_folder, write_json
from distillm.interruption import FAREWELL, Interrupted, listening
from distillm.objective import Progress
from distillm.progress_bar import progress_bar
from distillm.run.folder import FINISHED
from distillm.run.loggers import SPEED, Logger
from distillm.training.checkpoint import Checkpointable, Checkpoints
from distillm.training.overview import describe_end
from distillm.training.steps import OptimiserSteps
from distillm.training.validation import Validator, score


class EpochEnd(Checkpointable, Protocol):
    """Something to do after an epoch, with state of its own (a refresh of CONTRA's field, say)."""

    def __call__(self, done: Progress) -> dict[str, float]:
        """Act after the last step of an epoch; return numbers for the log. Called outside autocast."""
        ...

    def export(self, folder: Path) -> None:
        """Write this callback's files beside an exported model."""
        ...


@dataclass
class TrainerState:
    """What the loop must remember to resume; `step` counts finished steps."""

    step: int = 0
    work_done: int = 0  # finished pieces of the work after this step
    records: int = 0  # in the log
    best_score: float | None = None  # of the validations so far, the one before training included
    best_step: int = 0  # 0: nothing has beaten the start yet
    # What each step since the last log line adds to the next one: its terms, then its gradient norm: `[terms + 1]`.
    pending: list[Tensor] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        pending = [result.tolist() for result in self.pending]
        write_json(folder / "trainer.json", {**vars(self), "pending": pending})

    def load(self, folder: Path) -> None:
        state = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
        vars(self).update(state, pending=[torch.tensor(result) for result in state["pending"]])


@dataclass
class Speed:
    """What the steps since the last log line took."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0

    def add(self, seconds: float, tokens: int) -> None:
        self.steps, self.seconds, self.tokens = self.steps + 1, self.seconds + seconds, self.tokens + tokens

    def read(self) -> dict[str, float]:
        """Return the means and begin anew; nothing after a resumption without a step."""
        if self.steps == 0:
            return {}
        means = self.seconds / self.steps, self.tokens / self.seconds
        self.steps, self.seconds, self.tokens = 0, 0.0, 0
        return dict(zip(SPEED, means, strict=True))


class Trainer:
    """Takes the steps of a schedule to its end and leaves the best model in the save folder."""

    def __init__(
        self,
        steps: OptimiserSteps,
        logger: Logger,
        overview: Sequence[str],
        *,
        validator: Validator | None = None,
        callbacks: Sequence[EpochEnd] = (),
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        """`tokenizer` is written beside an exported model."""
        self.steps, self.schedule, self.training = steps, steps.schedule, steps.schedule.training
        self.validator, self.callbacks, self.tokenizer = validator, callbacks, tokenizer
        self.logger, self.overview, self.world = logger, overview, steps.world
        self.save = Path(self.training.save)
        self.state = TrainerState()
        self.speed = Speed()
        parts = [self.state, steps.policy, *callbacks]
        self.checkpoints = Checkpoints(self.save / "checkpoints", steps.engine, parts, self.world)

    def fit(self) -> int:
        """Train from the newest checkpoint, or from the start; return the process's exit status.

        With a validator but without --do-train, nothing is trained.
        """
        if self.validator is not None and not self.training.do_train:
            return self._validate_only(self.validator)
        self.checkpoints.clean()
        latest = self.checkpoints.latest()
        if latest is not None:
            self.checkpoints.load(latest)
        self.logger.begin(self.overview, self.state.step if latest else None, self.state.records)
        started = time.monotonic()
        with listening():
            try:
                self._train()
            except Interrupted:
                return self._stop()
            kept = self._finish()
        self.logger.say(describe_end(started, self.state.step, kept, str(self.save)))
        self.logger.close()
        return 0

    def dry_run(self) -> int:
        """Run one forward pass of everything and print each term; nothing is written. Return the exit status."""
        line = self.steps.dry_run()
        if self.world.is_main:
            print("dry run:", line)
        return 0

    def _validate_only(self, validator: Validator) -> int:
        self.logger.begin(self.overview, None, 0)
        self._record(self.steps.autocast(validator.validate, self.steps.objective.student, 0))
        self.logger.close()
        return 0

    def _train(self) -> None:
        state, total = self.state, self.schedule.total_steps
        with progress_bar(total=total, initial=state.step, desc=self.steps.name, rank=self.world.rank) as bar:
            self._after_step()  # before the first step: a validation; after an interruption: the unfinished work
            while state.step < total:
                if self.steps.interrupted:
                    raise Interrupted
                started = time.perf_counter()
                state.pending.append(self.steps.take(state.step + 1))
                self.speed.add(time.perf_counter() - started, self.steps.tokens)
                state.step, state.work_done = state.step + 1, 0
                bar.update()
                self._after_step()

    def _stop(self) -> int:
        """Save where the run was interrupted; before the first step there is nothing to save."""
        step = self.state.step
        if step > 0:
            self.checkpoints.save(step)
        self.logger.say(FAREWELL.format(step))
        self.logger.close()
        return STOPPED

    def _after_step(self) -> None:
        """Log, validate, run callbacks and save, if due; work that was done before an interruption is not repeated."""
        step = self.state.step
        work: list[Callable[[], None]] = [self._log, self._validate]
        work += [partial(self._call_back, callback) for callback in self.callbacks]
        left = work[self.state.work_done :]
        for piece in left:
            piece()
            self.state.work_done += 1
        saves = self._is_due(self.training.save_interval) and 0 < step < self.schedule.total_steps
        if left and saves and not self.steps.interrupted:  # otherwise it is saved already, or when the run stops
            self.checkpoints.save(step)

    def _is_due(self, interval: int) -> bool:
        return self.schedule.is_due(interval, self.state.step)

    def _log(self) -> None:
        """Write the means since the last line."""
        state, steps = self.state, self.steps
        if not state.pending or not any(map(self._is_due, (self.training.log_interval, self.training.eval_interval))):
            return
        means = torch.stack([result.cpu() for result in state.pending]).mean(0)
        state.pending = []
        terms, norm = means[:-1], float(means[-1])
        record = {"loss": float(steps.objective.loss(terms)), **steps.named(terms), "gradient_norm": norm}
        record |= {"lr": self.schedule.learning_rate(state.step), **steps.policy.description(), **self.speed.read()}
        if steps.term_gradients.gradients:
            record |= steps.term_gradients.norms()
        self._record(record)

    def _validate(self) -> None:
        """Validate, update the on-policy threshold, and keep the model if it is the best so far."""
        state = self.state
        if self.validator is None or not self._is_due(self.training.eval_interval):
            return
        scores = self.steps.autocast(self.validator.validate, self.steps.objective.student, state.step)
        self.steps.policy.update(scores["dev_loss"])
        best = state.best_score is None or score(scores) > state.best_score
        if best:
            state.best_score = score(scores)
        if best and state.step > 0:
            state.best_step = state.step
        self._record(scores)
        if best and state.step > 0 and not self.training.only_save_last:
            self._export(self.save / "best")

    def _call_back(self, callback: EpochEnd) -> None:
        """Let a callback act after an epoch."""
        step = self.state.step
        if step > 0 and self.schedule.is_epoch_end(step):
            numbers = callback(self.schedule.progress(step))
            if numbers:
                self._record(numbers)

    def _record(self, record: dict[str, Any]) -> None:
        """Log numbers; `epoch` is the number of passes over the rows so far."""
        step = self.state.step
        self.logger.log({"step": step, "epoch": step / self.schedule.steps_per_epoch, **record})
        self.state.records += 1

    def _export(self, folder: Path) -> None:
        """Write a loadable model, its tokenizer, and what the add-ons want beside it."""
        if not self.world.is_main:
            self.steps.engine.export(folder)
            return
        with atomic_folder(folder) as temporary:
            self.steps.engine.export(temporary)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(temporary)
            for callback in self.callbacks:
                callback.export(temporary)

    def _finish(self) -> str:
        """Move the kept model into the save folder, remove the training state, and say which model it is."""
        state, best = self.state, self.save / "best"
        chooses = self.validator is not None and not self.training.only_save_last
        keeps_best = chooses and state.best_step > 0
        if not keeps_best:
            if chooses:
                self._record({"warning": "no validation beat the score before training; the last model is kept"})
            self._export(best)
        kept = state.best_step if keeps_best else state.step
        if self.world.is_main:
            # If the run is killed here, some files are already moved when it resumes; the rest is still in `best`.
            with Writing(self.save):
                for file in sorted(best.iterdir()) if best.exists() else []:
                    move_file(file, self.save / file.name)
                remove_folder(best)
            write_json(self.save / FINISHED, {"step": state.step, "kept_step": kept, "best": state.best_score})
        self.checkpoints.delete()
        if keeps_best and self.validator is not None and state.best_score is not None:
            return f"the best model is kept, of step {kept} ({self.validator.describe(state.best_score)})"
        return f"the last model is kept, of step {kept}"
