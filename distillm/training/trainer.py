"""The training loop: steps, validation, checkpoints, and the choice of the model that is kept."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data_utils.errors import STOPPED, UserError
from data_utils.files import Writing, atomic_folder, move_file, remove_folder, write_json
from data_utils.randomness import keyed_seed
from distillm.distributed import World
from distillm.interruption import FAREWELL, Interrupted, listening, request
from distillm.models.precision import autocast
from distillm.objective import MicroBatch, Objective, Progress
from distillm.on_policy import DatasetRows, OnPolicyRows
from distillm.progress_bar import progress_bar
from distillm.run.folder import FINISHED
from distillm.run.loggers import Logger, format_record
from distillm.term_gradients import TermGradients
from distillm.training.batches import StepBatches
from distillm.training.checkpoint import Checkpointable, Checkpoints
from distillm.training.engine import Engine, NonFiniteError
from distillm.training.overview import describe_end
from distillm.training.trainer_state import TrainerSettings, TrainerState
from distillm.training.validation import Validator, score


class EpochEnd(Checkpointable, Protocol):
    """Something to do after an epoch, with state of its own (a refresh of CONTRA's field, say)."""

    def __call__(self, done: Progress) -> dict[str, float]:
        """Act after the last step of an epoch; return numbers for the log. Called outside autocast."""
        ...

    def export(self, folder: Path) -> None:
        """Write beside an exported model what belongs to it."""
        ...


class Trainer:
    """Trains the student of an objective to the end and leaves the best model in the save folder."""

    def __init__(
        self,
        *,
        engine: Engine,
        objective: Objective,
        batches: StepBatches,
        corpus: StepBatches | None,
        policy: DatasetRows | OnPolicyRows,
        validator: Validator | None,
        callbacks: Sequence[EpochEnd],
        tokenizer: PreTrainedTokenizerBase,
        logger: Logger,
        overview: Sequence[str],
        settings: TrainerSettings,
        world: World,
    ):
        self.engine, self.objective, self.policy = engine, objective, policy
        self.batches, self.corpus = batches, corpus
        self.validator, self.callbacks, self.tokenizer = validator, callbacks, tokenizer
        self.logger, self.overview, self.settings, self.world = logger, overview, settings, world
        self.state = TrainerState()
        self.term_gradients = TermGradients(objective, world)
        self.interrupted = False  # some process was asked to stop
        parts = [self.state, policy, *callbacks]
        self.checkpoints = Checkpoints(settings.save / "checkpoints", engine, parts, world)

    def fit(self) -> int:
        """Train from the newest checkpoint, or from the start; return the process's exit status."""
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
        self.logger.say(describe_end(started, self.state.step, kept, str(self.settings.save)))
        self.logger.close()
        return 0

    def _train(self) -> None:
        state, total = self.state, self.settings.total_steps
        with progress_bar(total=total, initial=state.step, desc="training", rank=self.world.rank) as bar:
            self._after_step()  # before the first step: a validation; after an interruption: the unfinished work
            while state.step < total:
                if self.interrupted:
                    raise Interrupted
                state.pending.append(self._train_step(state.step + 1))
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

    def validate_only(self) -> int:
        """Score the student as it is; nothing is trained or saved. Return the process's exit status."""
        assert self.validator is not None
        scores = self._autocast(self.validator.validate, self.objective.student, 0)
        self.logger.log({"step": 0, **scores})
        return 0

    def dry_run(self) -> None:
        """Run one forward pass of everything and print each term; nothing is written."""
        done = self.settings.progress(1)
        micro_batches = self._autocast(self.prepare, 1)
        with torch.no_grad():
            normalisers = self.objective.normalisers(micro_batches)
            parts = [self._autocast(self.objective.term_values, m, normalisers, done) for m in micro_batches]
        values = self.world.sum(torch.stack(parts).sum(0)).tolist()
        record = {term.name: value for term, value in zip(self.objective.terms, values, strict=True)}
        if self.world.is_main:
            print("dry run:", format_record(record))

    def prepare(self, step: int) -> list[MicroBatch]:
        """Return this rank's micro-batches of a step (from 1), generated rows included."""
        rows = self.policy.rows(step, self.settings.total_steps, self.batches.rows(step - 1))
        instructions = self.batches.split(rows)
        if self.corpus is None:
            return [{"instruction": batch} for batch in instructions]
        corpora = self.corpus.split(self.corpus.rows(step - 1))
        return [{"instruction": batch, "corpus": corpus} for batch, corpus in zip(instructions, corpora, strict=True)]

    def _train_step(self, step: int) -> Tensor:
        """Take one optimiser step; return its terms, summed over all ranks, and its gradient norm: `[terms + 1]`."""
        settings, done = self.settings, self.settings.progress(step)
        micro_batches = self._autocast(self.prepare, step)
        # Dropout is keyed like every other random number, so a resumed run draws the same masks.
        torch.manual_seed(keyed_seed(settings.seed, "dropout", step, self.world.rank))
        self.engine.module.train()
        normalisers = self.objective.normalisers(micro_batches)
        summed = torch.zeros_like(normalisers)
        for micro_batch in micro_batches:
            terms = self._autocast(self.objective.term_values, micro_batch, normalisers, done)
            if settings.log_term_gradients and settings.is_due(settings.log_interval, step):
                self.term_gradients.add(terms)
            self.engine.backward(self.objective.loss(terms))
            summed += terms.detach()
        try:
            terms, asked = self.world.sum(torch.cat([summed, request(summed)])).split([len(summed), 1])
            if not terms.isfinite().all():  # on any rank, so that none waits for another
                raise NonFiniteError("the loss is not finite")
            self.interrupted = bool(asked > 0)
            norm = self.engine.step(settings.learning_rate(step))
            return torch.cat([terms, norm.to(terms).reshape(1)])
        except NonFiniteError as error:
            raise UserError(self._diverged(step, normalisers, summed, micro_batches, error)) from error

    def _diverged(
        self, step: int, normalisers: Tensor, summed: Tensor, micro_batches: list[MicroBatch], error: NonFiniteError
    ) -> str:
        """Describe a step that was not taken: each term's value and its own gradient, and all the rows."""
        self.term_gradients.gradients = []
        torch.manual_seed(keyed_seed(self.settings.seed, "dropout", step, self.world.rank))
        for micro_batch in micro_batches:
            done = self.settings.progress(step)
            self.term_gradients.add(self._autocast(self.objective.separate_values, micro_batch, normalisers, done))
        norms = self.term_gradients.norms()
        values = ", ".join(
            f"{term.name} {value:g} with gradient {norms[f'gradient_{term.name}']:g}"
            for term, value in zip(self.objective.terms, summed.tolist(), strict=True)
        )
        rows = "; ".join(
            f"{source} rows {[row for batch in micro_batches for row in batch[source].row_ids.tolist()]}"
            for source in self.objective.sources
        )
        return (
            f"step {step} was not taken: {error} ({values}; {rows}, on rank {self.world.rank}); "
            "the last checkpoint is intact: lower --lr, or look at these rows"
        )

    def _autocast(self, function: Callable, *arguments):
        with autocast(self.settings.precision, self.world.device):
            return function(*arguments)

    def _after_step(self) -> None:
        """Log, validate, run callbacks and save, if due; work that was done before an interruption is not repeated."""
        step, settings = self.state.step, self.settings
        work: list[Callable[[], None]] = [self._log, self._validate]
        work += [partial(self._call_back, callback) for callback in self.callbacks]
        left = work[self.state.work_done :]
        for piece in left:
            piece()
            self.state.work_done += 1
        saves = settings.is_due(settings.save_interval, step) and 0 < step < settings.total_steps
        if left and saves and not self.interrupted:  # otherwise it is saved already, or will be when the run stops
            self.checkpoints.save(step)

    def _log(self) -> None:
        """Write the means since the last line."""
        state, settings = self.state, self.settings
        if not state.pending or not any(map(self._is_due, (settings.log_interval, settings.eval_interval))):
            return
        means = torch.stack([result.cpu() for result in state.pending]).mean(0)
        state.pending = []
        terms, norm = means[:-1], float(means[-1])
        record = {
            "loss": float(self.objective.loss(terms)),
            **{term.name: value for term, value in zip(self.objective.terms, terms.tolist(), strict=True)},
            "gradient_norm": norm,
            "lr": settings.learning_rate(state.step),
            **self.policy.description(),
        }
        if self.term_gradients.gradients:
            record |= self.term_gradients.norms()
        self._record(record)

    def _validate(self) -> None:
        """Validate, tell the on-policy threshold, and keep the model if it is the best so far."""
        state = self.state
        if self.validator is None or not self._is_due(self.settings.eval_interval):
            return
        scores = self._autocast(self.validator.validate, self.objective.student, state.step)
        self.policy.update(scores["dev_loss"])
        best = state.best_score is None or score(scores) > state.best_score
        if best:
            state.best_score = score(scores)
        if best and state.step > 0:
            state.best_step = state.step
        self._record(scores)
        if best and state.step > 0 and not self.settings.only_save_last:
            self._export(self.settings.save / "best")

    def _call_back(self, callback: EpochEnd) -> None:
        """Let a callback act after an epoch."""
        step = self.state.step
        if step > 0 and self.settings.is_epoch_end(step):
            numbers = callback(self.settings.progress(step))
            if numbers:
                self._record(numbers)

    def _is_due(self, interval: int) -> bool:
        return self.settings.is_due(interval, self.state.step)

    def _record(self, record: dict[str, Any]) -> None:
        """Log numbers; `epoch` is the number of passes over the rows so far, as everywhere."""
        step = self.state.step
        self.logger.log({"step": step, "epoch": step / self.settings.steps_per_epoch, **record})
        self.state.records += 1

    def _export(self, folder: Path) -> None:
        """Write a loadable model, its tokenizer, and what the add-ons want beside it."""
        if not self.world.is_main:
            self.engine.export(folder)
            return
        with atomic_folder(folder) as temporary:
            self.engine.export(temporary)
            self.tokenizer.save_pretrained(temporary)
            for callback in self.callbacks:
                callback.export(temporary)

    def _finish(self) -> str:
        """Put the model that is kept into the save folder and drop the training state; say which one it is."""
        state, save, best = self.state, self.settings.save, self.settings.save / "best"
        chooses = self.validator is not None and not self.settings.only_save_last
        keeps_best = chooses and state.best_step > 0
        if not keeps_best:
            if chooses:
                self._record({"warning": "no validation beat the score before training; the last model is kept"})
            self._export(best)
        kept = state.best_step if keeps_best else state.step
        if self.world.is_main:
            # If the run is killed here, some files are already moved when it resumes; the rest is still in `best`.
            with Writing(save):
                for file in sorted(best.iterdir()) if best.exists() else []:
                    move_file(file, save / file.name)
                remove_folder(best)
            write_json(save / FINISHED, {"step": state.step, "kept_step": kept, "best": state.best_score})
        self.checkpoints.delete()
        if keeps_best and self.validator is not None and state.best_score is not None:
            return f"the best model is kept, of step {kept} ({self.validator.describe(state.best_score)})"
        return f"the last model is kept, of step {kept}"
