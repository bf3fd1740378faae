"""The step that published code takes, written independently of `distillm`: the baseline of `benchmark_step.py`.

Every row is padded to the whole length; softmaxes run over all positions and the whole vocabulary in fp32; all hidden
states are kept; layers are compared one by one.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from contra.terms import AlignmentTerm
from data_utils.response_pairs import Pair
from distillm.method import Method
from distillm.models.precision import autocast
from distillm.training.steps import OptimiserSteps


class PlainStep:
    """Takes the steps of a method on the rows of a project's own `OptimiserSteps`, with its models and optimiser."""

    def __init__(self, steps: OptimiserSteps, method: Method, max_length: int):
        assert steps.objective.teacher is not None
        self.method, self.device, self.precision = method, steps.world.device, steps.precision
        self.step_size = 0.5  # of CONTRA
        self.student, self.teacher = steps.objective.student, steps.objective.teacher
        self.optimizer = torch.optim.AdamW(self.student.model.parameters(), lr=1e-5, weight_decay=1e-2)
        self.terms = {term.name: term for term in steps.objective.terms}
        rows = steps.batches.rows(1)
        if isinstance(rows[0], Pair):
            rows = [pair.chosen for pair in rows] + [pair.rejected for pair in rows]
        self.ids = torch.zeros(len(rows), max_length, dtype=torch.long, device=self.device)
        self.labels = torch.full_like(self.ids, -100)
        self.mask = torch.zeros_like(self.ids)
        for index, row in enumerate(rows):
            ids = torch.tensor(row.prompt + row.response)
            size = len(ids) - 1
            self.ids[index, :size] = ids[:-1]
            self.mask[index, :size] = 1
            self.labels[index, len(row.prompt) - 1 : size] = ids[len(row.prompt) :]

    def take(self, number: int) -> Tensor:
        inputs = {"input_ids": self.ids, "attention_mask": self.mask, "output_hidden_states": True, "use_cache": False}
        with autocast(self.precision, self.device):
            student = self.student.model(**inputs)
            with torch.no_grad():
                teacher = self.teacher.model(**inputs)
            loss = self.output_loss(student.logits, teacher.logits)
            if self.method.fdd:
                loss = loss + self.fdd_loss(student.hidden_states, teacher.hidden_states)
            if self.method.contra:
                loss = loss + self.contra_loss(student.hidden_states)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def output_loss(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        counted = (self.labels != -100).float()
        if self.method.pairs is None:
            values = self.divergence(self.method.divergence or "", student_logits, teacher_logits)
            return (values * counted).sum() / counted.sum()
        sides = zip(("sfkl", "srkl"), student_logits.chunk(2), teacher_logits.chunk(2), counted.chunk(2), strict=True)
        total = student_logits.new_zeros(())
        for name, student, teacher, mask in sides:
            values = self.divergence(name, student, teacher, held=name == "srkl")
            total = total + ((values * mask).sum(1) / mask.sum(1)).mean()
        return total

    def divergence(self, name: str, student: Tensor, teacher: Tensor, held: bool = False, skew: float = 0.1) -> Tensor:
        """KL of the probabilities: fkl and rkl plain, sfkl and srkl against a mixture."""
        q, p = student.float().softmax(-1), teacher.float().softmax(-1)
        other = q.detach() if held else q
        first, second = {
            "fkl": (p, q),
            "rkl": (q, p),
            "sfkl": (p, skew * p + (1 - skew) * q),
            "srkl": (q, (1 - skew) * p + skew * other),
        }[name]
        return (first * (first.clamp_min(1e-30).log() - second.clamp_min(1e-30).log())).sum(-1)

    def fdd_loss(self, student_states: Any, teacher_states: Any) -> Tensor:
        logits = [
            [model.head(states[layer]) for layer in model.layers]
            for model, states in ((self.student, student_states), (self.teacher, teacher_states))
        ]
        counted = self.mask.float()
        trajectory = [
            F.kl_div((s / 2).float().log_softmax(-1), (t / 2).float().softmax(-1), reduction="none").sum(-1)
            for s, t in zip(*logits, strict=True)
        ]
        logs = [[z.float().log_softmax(-1) for z in of_model] for of_model in logits]
        changes = [[b - a for a, b in pairwise(of_model)] for of_model in logs]
        cosines = [1 - F.cosine_similarity(s, t, dim=-1, eps=1e-5) for s, t in zip(*changes, strict=True)]
        values = sum(trajectory) / len(trajectory) + sum(cosines) / len(cosines)
        return (values * counted).sum() / counted.sum()

    def contra_loss(self, student_states: Any) -> Tensor:
        term = self.terms["contra"]
        assert isinstance(term, AlignmentTerm)
        term.velocity_field.eval()
        counted = (self.labels != -100).float()
        total = counted.new_zeros(())
        for pair, layer in enumerate(self.student.layers):
            state = term.projector(student_states[layer])
            with torch.no_grad():
                target = state + self.step_size * term.velocity_field(state.flatten(0, 1), 0.0, pair).view_as(state)
            values = 1 - F.cosine_similarity(state.float(), target.float(), dim=-1)
            total = total + (values * counted).sum() / counted.sum()
        return total / len(self.student.layers)
