"""Responses of a model to prompts, the same on any number of processes and in batches of any size.

Transformers generates; what is ours is the choice of the next token, a pure function of the row's logits and of
uniform numbers keyed by (seed, purpose, step, row).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from data_utils.batching import collate_prompts
from data_utils.errors import UserError
from data_utils.randomness import keyed_uniforms
from distillm.distributed import World, is_sharded
from distillm.interruption import stop_if_asked
from distillm.models.split_model import eval_mode
from distillm.progress_bar import progress_bar


@dataclass(frozen=True)
class DecodingSettings:
    """How the next token is chosen. `top_k` 0 and `top_p` 1.0 keep the whole vocabulary."""

    max_new_tokens: int
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.no_repeat_ngram_size == 1:
            raise UserError("--no-repeat-ngram-size 1 would forbid every token of the prompt; use 2 or more, or 0")


class KeyedSampling(LogitsProcessor):
    """Choose each row's token by inverting its cumulative distribution at that row's uniform number.

    Every other token's score becomes -inf, so that greedy decoding picks the sampled one.
    """

    def __init__(self, uniforms: Tensor, prompt_width: int):
        self.uniforms = uniforms  # [B, max_new_tokens] float64
        self.prompt_width = prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[B, V]` → `[B, V]`."""
        position = input_ids.shape[1] - self.prompt_width
        cumulative = scores.double().softmax(-1).cumsum(-1)
        # Below the total (1 up to rounding), so that a token of probability 0 is never chosen.
        thresholds = self.uniforms[:, position : position + 1] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, thresholds, right=True)
        chosen = chosen.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


class ResponseGenerator:
    """Generates the responses of one model; each rank answers its share of the prompts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: DecodingSettings, world: World, batch_size: int):
        self.settings, self.world, self.batch_size = settings, world, batch_size
        self.pad_id, self.eos_id = tokenizer.pad_token_id, tokenizer.eos_token_id

    @torch.no_grad()
    def respond(
        self,
        model: nn.Module,
        prompts: Sequence[list[int]],
        row_ids: Sequence[int],
        *,
        seed: int,
        purpose: str,
        step: int = 0,
        description: str | None = None,
    ) -> list[list[int]]:
        """Return each prompt's response ids, its first EOS included if it was produced.

        Every rank passes all prompts and gets all responses, in order. A `description` marks work that takes long: it
        shows a progress bar, and lets a training be interrupted between two batches.
        """
        uniforms = keyed_uniforms(seed, purpose, step, list(row_ids), self.settings.max_new_tokens)
        return self.respond_with(model, prompts, uniforms, description)

    @torch.no_grad()
    def respond_with(
        self,
        model: nn.Module,
        prompts: Sequence[list[int]],
        uniforms: np.ndarray,
        description: str | None = None,
    ) -> list[list[int]]:
        """As `respond`, with the uniform numbers given: `[len(prompts), max_new_tokens]`."""
        by_length = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        mine = self.world.share(by_length)
        bar = progress_bar(total=len(mine), desc=description or "", rank=self.world.rank if description else -1)
        answers: list[list[int]] = []
        with ready_to_generate(model):
            for number in range(-(-len(prompts) // (self.batch_size * self.world.size))):
                if description:
                    stop_if_asked(self.world)
                batch = mine[number * self.batch_size :][: self.batch_size]
                if batch:
                    answers += self._respond_batch(model, [prompts[i] for i in batch], uniforms[batch])
                    bar.update(len(batch))
                elif is_sharded(model):  # the other ranks wait for this one: it answers a prompt once more
                    self._respond_batch(model, [prompts[0]], uniforms[:1])
        bar.close()
        responses: list[list[int]] = [[] for _ in prompts]
        for index, answer in zip(by_length, self.world.collect(answers), strict=True):
            responses[index] = answer
        return responses

    def _respond_batch(self, model: nn.Module, prompts: list[list[int]], uniforms: np.ndarray) -> list[list[int]]:
        device = self.world.device
        batch = collate_prompts(prompts, range(len(prompts)), self.pad_id).to(device)
        width = batch.input_ids.shape[1]
        output = model.generate(  # type: ignore[operator]
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            generation_config=self._configuration(),
            logits_processor=self._processors(torch.from_numpy(uniforms).to(device), width),
            synced_gpus=is_sharded(model),
        )
        return [until_eos(answer, self.eos_id) for answer in output[:, width:].tolist()]

    def _configuration(self) -> GenerationConfig:
        settings = self.settings
        return GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,  # `KeyedSampling` samples
            eos_token_id=self.eos_id,
            pad_token_id=self.pad_id,
            no_repeat_ngram_size=settings.no_repeat_ngram_size,
            repetition_penalty=settings.repetition_penalty,
            use_cache=True,
        )

    def _processors(self, uniforms: Tensor, prompt_width: int) -> LogitsProcessorList:
        settings = self.settings
        processors = LogitsProcessorList()
        if not settings.do_sample:
            return processors
        if settings.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k > 0:
            processors.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1.0:
            processors.append(TopPLogitsWarper(settings.top_p))
        processors.append(KeyedSampling(uniforms, prompt_width))
        return processors


@contextmanager
def ready_to_generate(model: nn.Module) -> Iterator[None]:
    """Keep dropout, and the checkpoint's own decoding settings (beams, suppressed tokens, …), out of generation."""
    causal_lm: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    settings = causal_lm.generation_config
    causal_lm.generation_config = GenerationConfig()
    try:
        with eval_mode(model):
            yield
    finally:
        causal_lm.generation_config = settings


def until_eos(ids: list[int], eos_id: int) -> list[int]:
    """Return the ids up to and including the first EOS; all of them if there is none."""
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids
