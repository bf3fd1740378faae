"""The training loop: steps, validation, checkpoints, and the choice of the model that is kept."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data_utils.errors import UserError
from data_utils.files import Writing, atomic_folder, move_file, remove_folder, write_json
from data_utils.randomness import keyed_seed
from distillm.batches import StepBatches
from distillm.checkpoint import Checkpointable, Checkpoints
from distillm.distributed import World
from distillm.engine import Engine, NonFiniteError, autocast
from distillm.objective import MicroBatch, Objective, Progress
from distillm.on_policy import DatasetRows, OnPolicyRows
from distillm.reporting import Logger, format_record, progress
from distillm.run_folder import FINISHED
from distillm.schedule import learning_rate
from distillm.term_gradients import TermGradients
from distillm.validation import Validator, score


@dataclass(frozen=True)
class TrainerSettings:
    """What the loop itself reads; intervals count optimiser steps, -1 means once an epoch."""

    save: Path
    total_steps: int
    steps_per_epoch: int
    seed: int
    precision: str
    lr: float
    lr_min: float
    warmup_iters: int
    lr_decay_style: str
    log_interval: int
    eval_interval: int
    save_interval: int
    only_save_last: bool
    log_term_gradients: bool

    @property
    def epochs(self) -> int:
        return -(-self.total_steps // self.steps_per_epoch)

    def is_due(self, interval: int, step: int) -> bool:
        """Say whether something with this interval is due after `step` (from 1); always after the last."""
        every = self.steps_per_epoch if interval == -1 else interval
        return step == self.total_steps or step % every == 0

    def is_epoch_end(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0

    def progress(self, step: int) -> Progress:
        """Describe `step`, counted from 1."""
        return Progress(step, self.total_steps, (step - 1) // self.steps_per_epoch + 1, self.epochs)

    def learning_rate(self, step: int) -> float:
        return learning_rate(step - 1, self.total_steps, self.lr, self.lr_min, self.warmup_iters, self.lr_decay_style)


class EpochEnd(Checkpointable, Protocol):
    """Something to do after an epoch, with state of its own (a refresh of CONTRA's field, say)."""

    def __call__(self, done: Progress) -> dict[str, float]:
        """Act after the last step of an epoch; return numbers for the log. Called outside autocast."""
        ...

    def export(self, folder: Path) -> None:
        """Write beside an exported model what belongs to it."""
        ...


@dataclass
class TrainerState:
    """What the loop must remember to go on; `step` counts the finished ones."""

    step: int = 0
    best_score: float | None = None  # of the validations so far, the one before training included
    best_step: int = 0  # 0: nothing has beaten the start yet

    def save(self, folder: Path) -> None:
        write_json(folder / "trainer.json", asdict(self))

    def load(self, folder: Path) -> None:
        for name, value in json.loads((folder / "trainer.json").read_text(encoding="utf-8")).items():
            setattr(self, name, value)


@dataclass
class StepResult:
    """What one optimiser step leaves for the log, still on the device."""

    terms: Tensor  # [terms], this rank's share
    gradient_norm: Tensor


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
        settings: TrainerSettings,
        world: World,
    ):
        self.engine, self.objective, self.policy = engine, objective, policy
        self.batches, self.corpus = batches, corpus
        self.validator, self.callbacks, self.tokenizer = validator, callbacks, tokenizer
        self.logger, self.settings, self.world = logger, settings, world
        self.state = TrainerState()
        self.term_gradients = TermGradients(objective, world)
        self.pending: list[StepResult] = []  # the steps of the next log line
        parts = [self.state, policy, *callbacks]
        self.checkpoints = Checkpoints(settings.save / "checkpoints", engine, parts, world)

    def fit(self) -> None:
        """Train from where the newest checkpoint stands, or from the start."""
        self.checkpoints.clean()
        latest = self.checkpoints.latest()
        if latest is not None:
            self.checkpoints.load(latest)
        self.logger.truncate_after(self.state.step if latest else -1)
        if latest is None:
            self._validate()
        total = self.settings.total_steps
        with progress(total=total, initial=self.state.step, desc="training", rank=self.world.rank) as bar:
            while self.state.step < total:
                step = self.state.step + 1
                self.pending.append(self._train_step(step))
                self.state.step = step
                bar.update()
                self._after_step(step)
        self._finish()

    def validate_only(self) -> None:
        """Score the student as it is; nothing is trained or saved."""
        assert self.validator is not None
        scores = self._autocast(self.validator.validate, self.objective.student, 0)
        self.logger.log({"step": 0, **scores})

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

    def _train_step(self, step: int) -> StepResult:
        """Take one optimiser step."""
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
            if self.world.sum((~summed.isfinite()).any().float()) > 0:  # on any rank, so that none waits for another
                raise NonFiniteError("the loss is not finite")
            return StepResult(summed, self.engine.step(settings.learning_rate(step)))
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
            "the last checkpoint stands: lower --lr, or look at these rows"
        )

    def _autocast(self, function: Callable, *arguments):
        with autocast(self.settings.precision, self.world.device):
            return function(*arguments)

    def _after_step(self, step: int) -> None:
        """Log, validate, call back and save, as far as it is due."""
        settings = self.settings
        validates, saves = (settings.is_due(every, step) for every in (settings.eval_interval, settings.save_interval))
        # A checkpoint never falls inside a log interval, so a resumed run writes the same lines.
        if validates or saves or settings.is_due(settings.log_interval, step):
            self._log(step)
        if validates:
            self._validate()
        if settings.is_epoch_end(step):
            for callback in self.callbacks:
                numbers = callback(settings.progress(step))
                if numbers:
                    self.logger.log({"step": step, **numbers})
        if saves and step < settings.total_steps:
            self.checkpoints.save(step)

    def _log(self, step: int) -> None:
        """Write the means since the last line."""
        steps, self.pending = self.pending, []
        terms = self.world.sum(torch.stack([result.terms for result in steps]).mean(0))
        record = {
            "step": step,
            "epoch": self.settings.progress(step).epoch,
            "loss": float(self.objective.loss(terms)),
            **{term.name: value for term, value in zip(self.objective.terms, terms.tolist(), strict=True)},
            "gradient_norm": float(torch.stack([result.gradient_norm for result in steps]).mean()),
            "lr": self.settings.learning_rate(step),
            **self.policy.description(),
        }
        if self.term_gradients.gradients:
            record |= self.term_gradients.norms()
        self.logger.log(record)

    def _validate(self) -> None:
        """Validate, tell the on-policy threshold, and keep the model if it is the best so far."""
        if self.validator is None:
            return
        state = self.state
        scores = self._autocast(self.validator.validate, self.objective.student, state.step)
        self.policy.update(scores["dev_loss"])
        best = state.best_score is None or score(scores) > state.best_score
        if best:
            state.best_score = score(scores)
        if best and state.step > 0:
            state.best_step = state.step
        self.logger.log({"step": state.step, "epoch": state.step / self.settings.steps_per_epoch, **scores})
        if best and state.step > 0 and not self.settings.only_save_last:
            self._export(self.settings.save / "best")

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

    def _finish(self) -> None:
        """Put the model that is kept into the save folder and drop the training state."""
        save, best = self.settings.save, self.settings.save / "best"
        keeps_best = self.state.best_step > 0 and not self.settings.only_save_last
        if not keeps_best:
            if self.validator is not None and not self.settings.only_save_last:
                note = "no validation beat the score before training; the last model is kept"
                self.logger.log({"step": self.state.step, "warning": note})
            self._export(best)
        if self.world.is_main:
            # A run killed in here comes back with some files moved already; the rest still lies in `best`.
            with Writing(save):
                for file in sorted(best.iterdir()) if best.exists() else []:
                    move_file(file, save / file.name)
                remove_folder(best)
            kept = self.state.best_step if keeps_best else self.state.step
            write_json(save / FINISHED, {"step": self.state.step, "kept_step": kept, "best": self.state.best_score})
        self.checkpoints.delete()
        self.logger.close()
