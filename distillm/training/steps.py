"""The optimiser steps of one engine: the student's, or those of CONTRA's velocity field."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from data_utils.errors import UserError
from data_utils.randomness import keyed_seed
from distillm.distributed import World
from distillm.interruption import request
from distillm.models.precision import autocast
from distillm.objective import MicroBatch, Objective
from distillm.on_policy import DatasetRows, OnPolicyRows
from distillm.run.loggers import format_record
from distillm.term_gradients import TermGradients
from distillm.training.batches import StepBatches
from distillm.training.engine import Engine, NonFiniteError
from distillm.training.schedule import Schedule


class OptimiserSteps:
    """Takes any step of a schedule: it prepares the rows, adds up the gradient of all micro-batches, and updates."""

    def __init__(
        self,
        name: str,
        *,
        engine: Engine,
        objective: Objective,
        watched: nn.Module,
        batches: StepBatches,
        schedule: Schedule,
        precision: str,
        world: World,
        corpus: StepBatches | None = None,
        policy: DatasetRows | OnPolicyRows | None = None,
        log_gradients: bool = False,
    ):
        """`watched` is the module whose gradient is compared between terms."""
        self.name, self.engine, self.objective = name, engine, objective
        self.batches, self.corpus, self.policy = batches, corpus, policy or DatasetRows()
        self.schedule, self.precision, self.world = schedule, precision, world
        self.log_gradients = log_gradients
        self.term_gradients = TermGradients(objective, watched.parameters(), world)
        self.interrupted = False  # some process was asked to stop
        self.tokens = 0  # of the last step, on all processes

    def take(self, step: int) -> Tensor:
        """Take a step (from 1); return its terms, summed over all ranks, and its gradient norm: `[terms + 1]`.

        Raises:
            UserError: a loss or gradient is not finite; the step was not taken.
        """
        micro_batches = self.autocast(self.prepare, step)
        self._seed_dropout(step)
        self.engine.module.train()
        normalisers = self.objective.normalisers(micro_batches)
        summed = torch.zeros_like(normalisers)
        for micro_batch in micro_batches:
            terms = self.autocast(self.objective.term_values, micro_batch, normalisers, self.schedule.progress(step))
            if self.log_gradients and self.schedule.is_due(self.schedule.training.log_interval, step):
                self.term_gradients.add(terms)
            self.engine.backward(self.objective.loss(terms))
            summed += terms.detach()
        try:
            tokens = sum(int(batch.token_counts.sum()) for part in micro_batches for batch in part.values())
            numbers = self.world.sum(torch.cat([summed, summed.new_tensor([tokens]), request(summed)]))
            terms, self.tokens, asked = numbers[:-2], int(numbers[-2]), numbers[-1]
            if not terms.isfinite().all():  # on any rank, so that none waits for another
                raise NonFiniteError("the loss is not finite")
            self.interrupted = bool(asked > 0)
            norm = self.engine.step(self.schedule.learning_rate(step))
            return torch.cat([terms, norm.to(terms).reshape(1)])
        except NonFiniteError as error:
            raise UserError(self._describe_divergence(step, normalisers, summed, micro_batches, error)) from error

    def prepare(self, step: int) -> list[MicroBatch]:
        """Return this rank's micro-batches of a step, generated rows included."""
        rows = self.policy.rows(step, self.schedule.total_steps, self.batches.rows(step))
        instructions = self.batches.split(rows)
        if self.corpus is None:
            return [{"instruction": batch} for batch in instructions]
        corpora = self.corpus.split(self.corpus.rows(step))
        return [{"instruction": batch, "corpus": corpus} for batch, corpus in zip(instructions, corpora, strict=True)]

    @torch.no_grad()
    def dry_run(self) -> str:
        """Run the forward pass of the first step; return its terms as a line.

        Raises:
            UserError: one of them is not finite.
        """
        micro_batches = self.autocast(self.prepare, 1)
        self._seed_dropout(1)
        evaluate = partial(self.objective.term_values, progress=self.schedule.progress(1))
        normalisers = self.objective.normalisers(micro_batches)
        values = torch.stack([self.autocast(evaluate, batch, normalisers) for batch in micro_batches])
        terms = self.world.sum(values.sum(0))
        line = format_record(self.named(terms))
        if not terms.isfinite().all():
            raise UserError(
                f"{self.name}: the loss of step 1 is not finite ({line}); look at the models and their data"
            )
        return line

    def named(self, terms: Tensor) -> dict[str, float]:
        """Return the terms' values by name: `[terms]`."""
        return {term.name: value for term, value in zip(self.objective.terms, terms.tolist(), strict=True)}

    def autocast(self, function: Callable, *arguments: Any) -> Any:
        """Call a function in the run's precision."""
        with autocast(self.precision, self.world.device):
            return function(*arguments)

    def _seed_dropout(self, step: int) -> None:
        """Key dropout like every other random number, so that a resumed run draws the same masks."""
        seed = self.schedule.training.seed
        torch.manual_seed(keyed_seed(seed, f"{self.name} dropout", step - 1, self.world.rank))

    def _describe_divergence(
        self, step: int, normalisers: Tensor, summed: Tensor, micro_batches: list[MicroBatch], error: NonFiniteError
    ) -> str:
        """Say why a step was not taken: each term's value and its own gradient, and all the rows."""
        self.term_gradients.gradients = []
        self._seed_dropout(step)
        for micro_batch in micro_batches:
            done = self.schedule.progress(step)
            self.term_gradients.add(self.autocast(self.objective.separate_values, micro_batch, normalisers, done))
        norms = self.term_gradients.norms()
        values = ", ".join(
            f"{name} {value:g} with gradient {norms[f'gradient_{name}']:g}"
            for name, value in self.named(summed).items()
        )
        rows = "; ".join(
            f"{source} rows {[row for batch in micro_batches for row in batch[source].row_ids.tolist()]}"
            for source in self.objective.sources
        )
        return (
            f"{self.name}: step {step} was not taken: {error} ({values}; {rows}, on rank {self.world.rank}); "
            "the last checkpoint is intact: lower --lr, or look at these rows"
        )
