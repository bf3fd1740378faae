"""DistiLLM-2's refresh: after some epochs the current student rewrites the rejected responses (docs/methods.md)."""

import json
from pathlib import Path

from torch import nn

from data_utils.files import write_json
from data_utils.response_pairs import PairDataset
from distillm.models.generation import ResponseGenerator
from distillm.models.precision import autocast
from distillm.objective import Progress

STATE = "rejected_responses.json"


class ResponseRegeneration:
    """After every `interval` epochs except the last, replace the rejected side of every pair."""

    def __init__(
        self,
        pairs: PairDataset,
        student: nn.Module,
        generator: ResponseGenerator,
        interval: int,
        seed: int,
        precision: str,
    ):
        self.pairs, self.student, self.generator = pairs, student, generator
        self.interval, self.seed, self.precision = interval, seed, precision

    def __call__(self, done: Progress) -> dict[str, float]:
        if done.epoch == done.epochs or done.epoch % self.interval:
            return {}
        with autocast(self.precision, self.generator.world.device):
            responses = self.generator.respond(
                self.student,
                self.pairs.prompts,
                range(len(self.pairs)),
                seed=self.seed,
                purpose="rejected response",
                step=done.epoch,
                description="rejected responses",
            )
        self.pairs.replace_rejected(responses)
        return {"mean_rejected_length": sum(map(len, responses)) / len(responses)}

    def export(self, folder: Path) -> None:
        """Nothing is exported with the model."""

    def save(self, folder: Path) -> None:
        write_json(folder / STATE, self.pairs.rejected)

    def load(self, folder: Path) -> None:
        self.pairs.replace_rejected(json.loads((folder / STATE).read_text(encoding="utf-8")))
