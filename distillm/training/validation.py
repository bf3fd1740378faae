"""Validation: cross-entropy per response token, and the ROUGE-L of one response to each prompt."""

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from data_utils.batching import Row, collate
from data_utils.errors import UserError
from data_utils.instructions import InstructionDataset
from distillm.arguments import TrainingArguments
from distillm.distributed import World
from distillm.interruption import stop_if_asked
from distillm.metrics import compute_metrics
from distillm.models.generation import ResponseGenerator
from distillm.models.split_model import SplitModel, eval_mode
from distillm.objective import cross_entropy_sum


class Validator:
    """Scores the student on the dev set, each rank its share of the rows."""

    def __init__(
        self,
        dataset: InstructionDataset,
        tokenizer: PreTrainedTokenizerBase,
        generator: ResponseGenerator,
        training: TrainingArguments,
        world: World,
    ):
        self.dataset, self.tokenizer, self.generator = dataset, tokenizer, generator
        self.training, self.world = training, world
        self.rows = [dataset[index] for index in range(len(dataset))]
        if training.eval_gen:
            dataset.references(0)  # refuses data without references before anything is trained

    def validate(self, student: SplitModel, step: int) -> dict[str, float]:
        """Return `dev_loss` and, when asked for, `dev_rougeL` and `dev_exact_match`.

        Raises:
            UserError: the loss is not finite, so neither a model nor on-policy rows can be chosen by it.
        """
        with eval_mode(student.model):
            scores = {"dev_loss": self._loss(student)}
        if not math.isfinite(scores["dev_loss"]):
            raise UserError(
                f"the dev loss after step {step} is {scores['dev_loss']:g}; "
                "what was saved before is intact; lower --lr, choose another --precision, or look at the dev rows"
            )
        if self.training.eval_gen:
            scores |= self._generation_scores(student, step)
        return scores

    def describe(self, best: float) -> str:
        """Return a `score` in words."""
        return f"ROUGE-L {best:.4g}" if self.training.eval_gen else f"dev loss {-best:.4g}"

    @torch.no_grad()
    def _loss(self, student: SplitModel) -> float:
        """Return the mean over all response tokens of the set."""
        by_length = sorted(self.rows, key=len)
        mine: Sequence[Row] = self.world.share(by_length)
        sums = torch.zeros(2, dtype=torch.float64)
        size = self.training.eval_batch_size
        for number in range(-(-len(by_length) // (size * self.world.size))):
            stop_if_asked(self.world)
            rows = mine[number * size :][:size]
            if not rows and not student.sharded:
                continue
            batch = collate(rows or self.rows[:1], self.tokenizer.pad_token_id, packed=student.packs)  # type: ignore[arg-type]
            batch = batch.to(self.world.device)
            total = cross_entropy_sum(student, student.forward(batch).last, batch)
            if rows:  # else the other ranks wait for this one
                sums += torch.tensor([float(total), len(batch.labels)], dtype=torch.float64)
        total, count = self.world.sum(sums.to(self.world.device)).tolist()
        return total / max(1.0, count)

    def _generation_scores(self, student: SplitModel, step: int) -> dict[str, float]:
        responses = self.generator.respond(
            student.model,
            [row.prompt for row in self.rows],
            [row.row_id for row in self.rows],
            seed=self.training.seed,
            purpose="validation",
            step=step,
            description="validation",
        )
        texts = self.tokenizer.batch_decode(responses, skip_special_tokens=True)
        metrics = compute_metrics(texts, [self.dataset.references(row.row_id) for row in self.rows])
        return {f"dev_{name}": value for name, value in metrics.items()}


def score(scores: dict[str, float]) -> float:
    """Return the one number that selects a checkpoint, higher is better: ROUGE-L, else minus the dev loss."""
    return scores.get("dev_rougeL", -scores["dev_loss"])
