"""Time student generation beside a plain `generate`, and ROUGE-L beside rouge-score.

    python3 tools/benchmark_generation.py
    python3 tools/benchmark_generation.py --layers 2 --width 64 --vocabulary 1000 --pairs 50

A model with random weights (by default of GPT-2's size) answers prompts with the lengths of Dolly's; each response is
made to end at a length like Dolly's. The plain form pads prompts to half of --max-length and keeps every row in the
batch until the longest response has ended. ROUGE-L compares pairs of texts of random words.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import run_as_script

# isort: split

import numpy as np
import torch
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from distillm.arguments import DecodingArguments
from distillm.distributed import World
from distillm.metrics import rouge_l
from distillm.models.generation import ResponseGenerator, left_padded
from tools.benchmark_step import make_model, make_rows, now
from tools.command_line import ToolParser

EOS = 0


def parser() -> ToolParser:
    options = ToolParser(__doc__)
    options.add_argument("--layers", type=int, default=12)
    options.add_argument("--width", type=int, default=768)
    options.add_argument("--vocabulary", type=int, default=50_257)
    options.add_argument("--max-length", type=int, default=512)
    options.add_argument("--batch-size", type=int, default=16, help="prompts")
    options.add_argument("--pairs", type=int, default=1000, help="of texts")
    return options


def main() -> None:
    options = parser().parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    plain, ours = generation_seconds(options, World(0, 1, device))
    print(f"generation: plain {plain:.2f} s, ours {ours:.2f} s; plain / ours {plain / ours:.2f}")
    plain, ours = rouge_seconds(options.pairs)
    print(
        f"ROUGE-L, ms per pair: rouge-score {1e3 * plain:.3f}, ours {1e3 * ours:.4f}; {plain / ours:.0f} times faster"
    )


class EndAt(LogitsProcessor):
    """Let no row end before its length, and every row there."""

    def __init__(self, lengths: Tensor, prompt_width: int):
        self.lengths, self.prompt_width = lengths, prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, EOS] = -torch.inf
        ends = input_ids.shape[1] - self.prompt_width + 1 >= self.lengths
        scores[ends, EOS] = torch.inf
        return scores


class EndingGenerator(ResponseGenerator):
    """Takes each row's length from its uniform numbers."""

    def _processors(self, uniforms: Tensor, prompt_width: int) -> LogitsProcessorList:
        return LogitsProcessorList([EndAt(uniforms[:, 0], prompt_width)])


def generation_seconds(options: Namespace, world: World) -> tuple[float, float]:
    """Return the seconds of the plain form and of ours; both must give the same responses."""
    model: Any = make_model(options.layers, options.width, options, seed=0)
    model.to(world.device).eval()
    rows, half = make_rows(options), options.max_length // 2
    prompts, lengths = [row.prompt for row in rows], [len(row.response) for row in rows]
    uniforms = np.repeat(np.array(lengths, dtype=np.float64)[:, None], half, axis=1)
    tokenizer: Any = SimpleNamespace(pad_token_id=EOS, eos_token_id=EOS)
    generator = EndingGenerator(tokenizer, DecodingArguments(), half, options.batch_size, world)
    ids = left_padded([[EOS] * half, *prompts], EOS)[1:].to(world.device)
    mask = left_padded([[0] * half, *([1] * len(prompt) for prompt in prompts)], 0)[1:].to(world.device)

    def plain() -> list[list[int]]:
        ends = LogitsProcessorList([EndAt(torch.tensor(lengths, device=world.device), half)])
        settings: dict[str, Any] = {"max_new_tokens": half, "do_sample": False, "pad_token_id": EOS}
        output = model.generate(input_ids=ids, attention_mask=mask, logits_processor=ends, **settings)
        return [answer[:length] for answer, length in zip(output[:, half:].tolist(), lengths, strict=True)]

    seconds, answers = timed(plain, world)
    ours, our_answers = timed(lambda: generator.respond_with(model, prompts, uniforms), world)
    differing = sum(one != two for one, two in zip(answers, our_answers, strict=True))
    print(f"{differing} of {len(rows)} responses differ (near ties of random weights)")
    return seconds, ours


def timed(function: Callable[[], Any], world: World) -> tuple[float, Any]:
    function()
    started = now(world.device)
    result = function()
    return now(world.device) - started, result


def rouge_seconds(num_pairs: int) -> tuple[float, float]:
    """Return the seconds per pair of rouge-score and of ours."""
    random = np.random.default_rng(0)
    words = np.array(["".join(random.choice(list("etaoinshrdlucm"), random.integers(2, 10))) for _ in range(3000)])

    def text() -> str:
        return " ".join(random.choice(words, max(1, int(random.lognormal(3.9, 0.8)))))

    pairs = [(text(), text()) for _ in range(num_pairs)]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    started = time.perf_counter()
    theirs = [scorer.score(reference, prediction)["rougeL"].fmeasure for prediction, reference in pairs]
    plain = time.perf_counter() - started
    started = time.perf_counter()
    ours = [rouge_l(*pair) for pair in pairs]
    elapsed = time.perf_counter() - started
    assert ours == theirs
    return plain / num_pairs, elapsed / num_pairs


if __name__ == "__main__":
    run_as_script(main)
