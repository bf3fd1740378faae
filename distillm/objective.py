"""One loss from several terms, with one rule for the normaliser (docs/methods.md).

    L = Σ_terms weight · (sum over the term's valid items) / max(1, number of valid items in the whole step)

The whole step means all its micro-batches on all ranks, so the gradient does not depend on how a step is split.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from data_utils.batching import TokenBatch
from distillm.distributed import World
from distillm.models.split_model import HiddenStates, SplitModel
from distillm.reduction import gather
from distillm.token_losses import cross_entropy_per_token, sum_over_logits

# A micro-batch: one batch for each source of rows ("instruction", "corpus").
MicroBatch = Mapping[str, TokenBatch]


@dataclass(frozen=True)
class Progress:
    """How far a run has come; `step` and `epoch` count from 1."""

    step: int
    total_steps: int
    epoch: int
    epochs: int


class Term(Protocol):
    """A part of the loss: which rows it reads, what it counts, and the sum it adds."""

    name: str
    weight: float
    source: str
    needs_teacher: bool

    def count(self, batch: TokenBatch) -> int:
        """Return the number of valid items."""
        ...

    def total(
        self, batch: TokenBatch, student: HiddenStates, teacher: HiddenStates | None, progress: Progress
    ) -> Tensor:
        """Return the sum over the valid items, a scalar with a gradient to the student."""
        ...


class CrossEntropyTerm:
    """Cross-entropy on the response tokens (in a corpus row every token counts)."""

    needs_teacher = False

    def __init__(self, name: str, weight: float, source: str, student: SplitModel):
        self.name, self.weight, self.source, self.student = name, weight, source, student

    def count(self, batch: TokenBatch) -> int:
        return len(batch.response_positions)

    def total(
        self, batch: TokenBatch, student: HiddenStates, teacher: HiddenStates | None, progress: Progress
    ) -> Tensor:
        return cross_entropy_sum(self.student, student.last, batch)


class DivergenceTerm:
    """A divergence between teacher and student predictions on the response tokens (docs/methods.md)."""

    source, needs_teacher = "instruction", True

    def __init__(
        self,
        name: str,
        weight: float,
        divergence: Callable[[Tensor, Tensor], Tensor],
        student: SplitModel,
        teacher: SplitModel,
    ):
        self.name, self.weight = name, weight
        self.divergence, self.student, self.teacher = divergence, student, teacher

    def count(self, batch: TokenBatch) -> int:
        return len(batch.response_positions)

    def total(
        self, batch: TokenBatch, student: HiddenStates, teacher: HiddenStates | None, progress: Progress
    ) -> Tensor:
        assert teacher is not None
        states, teacher_states = (gather(model.last, batch.response_positions) for model in (student, teacher))
        return sum_over_logits(self.divergence, self.student, states, teacher=(self.teacher, teacher_states))


def cross_entropy_sum(model: SplitModel, states: Tensor, batch: TokenBatch) -> Tensor:
    """Return the summed cross-entropy of the response tokens, given the last hidden states `[B, T, D]`."""
    states = gather(states, batch.response_positions)
    return sum_over_logits(cross_entropy_per_token, model, states, batch.labels.unsqueeze(-1))


class Objective:
    """The terms of a method, evaluated together on one student (and teacher) forward for each source."""

    def __init__(
        self,
        terms: Sequence[Term],
        student: SplitModel,
        teacher: SplitModel | None,
        world: World,
        student_learns: bool = True,
    ):
        """Without `student_learns` no gradient reaches the student: something else learns from its states."""
        assert len({term.name for term in terms}) == len(terms), "term names identify terms in the log"
        self.terms, self.student, self.teacher, self.world = list(terms), student, teacher, world
        self.student_learns = student_learns
        self.sources = sorted({term.source for term in terms})

    def normalisers(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Return each term's number of valid items in the whole step, clamped at 1: `[terms]`."""
        counts = [sum(term.count(batch[term.source]) for batch in micro_batches) for term in self.terms]
        return self.world.sum(torch.tensor(counts, dtype=torch.float32).to(self.world.device)).clamp(min=1.0)

    def term_values(self, micro_batch: MicroBatch, normalisers: Tensor, progress: Progress) -> Tensor:
        """Return this micro-batch's share of every term, unweighted: `[terms]`."""
        return torch.stack(self.separate_values(micro_batch, normalisers, progress))

    def separate_values(self, micro_batch: MicroBatch, normalisers: Tensor, progress: Progress) -> list[Tensor]:
        """Return the same numbers one by one: the gradient of one does not pass through the others."""
        forwards = {source: self._forward(source, micro_batch[source]) for source in self.sources}
        totals = [term.total(micro_batch[term.source], *forwards[term.source], progress) for term in self.terms]
        return [total.float() / normaliser for total, normaliser in zip(totals, normalisers, strict=True)]

    def loss(self, term_values: Tensor) -> Tensor:
        """Return the weighted sum of the terms, a scalar."""
        return (term_values * term_values.new_tensor([term.weight for term in self.terms])).sum()

    def _forward(self, source: str, batch: TokenBatch) -> tuple[HiddenStates, HiddenStates | None]:
        teacher_states = None
        if self.teacher is not None and any(term.needs_teacher for term in self.terms if term.source == source):
            with torch.no_grad():
                teacher_states = self.teacher.forward(batch)
        with torch.set_grad_enabled(self.student_learns and torch.is_grad_enabled()):
            return self.student.forward(batch), teacher_states
