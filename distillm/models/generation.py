"""Responses of a model to prompts, the same on any number of processes and in batches of any size.

Transformers generates; we only choose the next token, by a pure function of the row's logits and of uniform numbers
keyed by (seed, purpose, step, row).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from data_utils.randomness import keyed_uniforms
from distillm.arguments import DecodingArguments
from distillm.distributed import World
from distillm.interruption import stop_if_asked
from distillm.models.split_model import eval_mode
from distillm.progress_bar import progress_bar


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


class SomeFinished(StoppingCriteria):
    """Stop a batch when a quarter of its rows have ended, so that the others go on without them."""

    def __init__(self, eos_id: int, prompt_width: int):
        self.eos_id, self.prompt_width = eos_id, prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor, **unused: Any) -> Tensor:
        ended = (input_ids[:, self.prompt_width :] == self.eos_id).any(1)
        return (4 * ended.sum() >= len(ended)).expand(len(ended))


class ResponseGenerator:
    """Generates the responses of one model; each rank answers its share of the prompts."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        decoding: DecodingArguments,
        max_new_tokens: int,
        batch_size: int,
        world: World,
        sharded: bool = False,
    ):
        """`batch_size` is per rank; `sharded`: each rank holds a piece of the model (`SplitModel.sharded`)."""
        self.decoding, self.max_new_tokens, self.batch_size = decoding, max_new_tokens, batch_size
        self.world, self.sharded = world, sharded
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
        """Return each prompt's response ids, including the first EOS, if there is one.

        Every rank passes all prompts and gets all responses, in order. A `description` marks work that takes long: it
        shows a progress bar, and lets training be interrupted between two batches.
        """
        uniforms = keyed_uniforms(seed, purpose, step, list(row_ids), self.max_new_tokens)
        return self.respond_with(model, prompts, uniforms, description)

    @torch.no_grad()
    def respond_with(
        self,
        model: nn.Module,
        prompts: Sequence[list[int]],
        uniforms: np.ndarray,
        description: str | None = None,
    ) -> list[list[int]]:
        """Like `respond`, with given uniform numbers: `[len(prompts), max_new_tokens]`."""
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
                elif self.sharded:  # repeat a prompt, because the other ranks wait for this one
                    self._respond_batch(model, [prompts[0]], uniforms[:1])
        bar.close()
        responses: list[list[int]] = [[] for _ in prompts]
        for index, answer in zip(by_length, self.world.collect(answers), strict=True):
            responses[index] = answer
        return responses

    def _respond_batch(self, model: nn.Module, prompts: list[list[int]], uniforms: np.ndarray) -> list[list[int]]:
        """Answer some prompts, dropping rows from the batch as they end."""
        device, cache = self.world.device, None
        numbers = torch.from_numpy(uniforms).to(device)
        ids = left_padded(prompts, self.pad_id).to(device)
        mask = left_padded([[1] * len(prompt) for prompt in prompts], 0).to(device)
        width = ids.shape[1]
        answers: list[list[int]] = [[] for _ in prompts]
        unfinished = list(range(len(prompts)))
        while unfinished:
            output = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=self._configuration(width + self.max_new_tokens - ids.shape[1]),
                logits_processor=self._processors(numbers, width),
                stopping_criteria=self._stopping(width),
                synced_gpus=self.sharded,
            )
            ids, cache = output.sequences, output.get("past_key_values")  # none: the next call begins anew
            for index, answer in zip(unfinished, ids[:, width:].tolist(), strict=True):
                answers[index] = until_eos(answer, self.eos_id)
            full = ids.shape[1] == width + self.max_new_tokens
            left = [i for i, index in enumerate(unfinished) if not (full or self.eos_id in answers[index])]
            if left:
                chosen = torch.tensor(left, device=device)
                if cache is not None:
                    cache.batch_select_indices(chosen)
                ids, mask, numbers = ids[chosen], mask[chosen], numbers[chosen]
                mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
            unfinished = [unfinished[i] for i in left]
        return answers

    def _configuration(self, max_new_tokens: int) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,  # `KeyedSampling` samples
            eos_token_id=self.eos_id,
            pad_token_id=self.pad_id,
            no_repeat_ngram_size=self.decoding.no_repeat_ngram_size,
            repetition_penalty=self.decoding.repetition_penalty,
            use_cache=True,
            return_dict_in_generate=True,
        )

    def _stopping(self, prompt_width: int) -> StoppingCriteriaList:
        if self.sharded:  # no rank stops before the others
            return StoppingCriteriaList()
        return StoppingCriteriaList([SomeFinished(self.eos_id, prompt_width)])

    def _processors(self, uniforms: Tensor, prompt_width: int) -> LogitsProcessorList:
        decoding = self.decoding
        processors = LogitsProcessorList()
        if not decoding.do_sample:
            return processors
        if decoding.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_k > 0:
            processors.append(TopKLogitsWarper(decoding.top_k))
        if decoding.top_p < 1.0:
            processors.append(TopPLogitsWarper(decoding.top_p))
        processors.append(KeyedSampling(uniforms, prompt_width))
        return processors


@contextmanager
def ready_to_generate(model: nn.Module) -> Iterator[None]:
    """Within the block, generate without dropout and without the checkpoint's own decoding settings (beams, …)."""
    causal_lm: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    settings = causal_lm.generation_config
    causal_lm.generation_config = GenerationConfig()
    try:
        with eval_mode(model):
            yield
    finally:
        causal_lm.generation_config = settings


def left_padded(rows: Sequence[list[int]], value: int) -> Tensor:
    """Return rows of ids, padded on the left to the longest: `[B, T]`."""
    return pad_sequence(list(map(torch.tensor, rows)), batch_first=True, padding_value=value, padding_side="left")


def until_eos(ids: list[int], eos_id: int) -> list[int]:
    """Return the ids up to and including the first EOS; all of them if there is none."""
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids
