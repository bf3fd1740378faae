"""Answer every prompt of an instruction file: the responses that DistiLLM-2's pairs are made of.

    python3 tools/generate_responses.py --data data/dolly/train.jsonl --model-path results/gpt2/train/sft/gpt2-xlarge \\
        --output data/distillm2/gpt2/generated_train_teacher.jsonl

Output: one line per input row, in order: `prompt`, `generated_text`. Under torchrun every rank answers its share.
A killed run continues with the first row that it had not written; `<output>.args.json` says what it was made with, so
that other options, weights or prompts are refused. `--vllm` uses vLLM, if that is installed: in one process, on a
whole model, and without --no-repeat-ngram-size, which vLLM lacks.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, reason, run_as_script

# isort: split

from transformers import PreTrainedTokenizerBase

from data_utils.files import Writing, fsync_path, locked, remove_leftovers, write_json
from data_utils.instructions import read_jsonl
from data_utils.prompts import encode_prompt, prompt_of
from data_utils.randomness import keyed_seed
from distillm.arguments import CheckpointArguments, DecodingArguments
from distillm.distributed import World, join_world, leave_world
from distillm.models.generation import ResponseGenerator
from distillm.models.loading import load_causal_lm, load_tokenizer, split_checkpoint
from distillm.models.precision import DTYPES, autocast, resolve_precision
from distillm.models.split_model import freeze
from distillm.option_parser import free_options, options_of, parse_arguments
from distillm.options import amount, count, option
from distillm.progress_bar import progress_bar
from distillm.run.header import run_header
from distillm.run.identity import STUDENT, difference, input_files, must_agree, read_header

# Batches on every rank between two writes: the most that a killed run loses.
BATCHES_PER_ROUND = 4


@dataclass
class ResponseArguments(CheckpointArguments):
    """Which model answers which prompts."""

    data: str = option("", "instruction file (jsonl)", required="an instruction file (jsonl)")
    output: str = option("", "file to write (jsonl)", required="a file for the responses", free=True)
    train_num: int = option(-1, "rows to answer; -1: all", least=1, minus_one="all")
    max_prompt_length: int = count(256, "most ids in a prompt")
    max_new_tokens: int = count(512, "most ids in a response")
    eval_batch_size: int = count(32, "prompts per batch on one rank", free=True)
    seed: int = amount(42, "sampling seed")
    vllm: bool = option(False, "generate with vLLM instead of Transformers; its random numbers differ")


@dataclass
class Arguments:
    """All options of this tool."""

    responses: ResponseArguments
    decoding: DecodingArguments


Responder = Callable[[list[list[int]], list[int]], list[str]]  # answers prompts, given their ids and row numbers


def main() -> None:
    both, _ = parse_arguments(Arguments, __doc__ or "")
    arguments, decoding = both.responses, both.decoding
    prompts = read_prompts(arguments)
    output, partial, record = (Path(arguments.output + ending) for ending in ("", ".partial", ".args.json"))
    world = join_world()
    header = describe(both) | {"precision": resolve_precision(arguments.precision, world.device)}
    if output.exists() or partial.exists():
        check_same_responses(record, header, output)
    if output.exists():
        print(f"{output} exists: nothing to do")
        leave_world(world)
        return
    tokenizer = load_tokenizer(arguments.model_path)
    respond = (vllm_responder if arguments.vllm else transformers_responder)(arguments, decoding, tokenizer, world)
    encoded = [encode_prompt(tokenizer, prompt, arguments.max_prompt_length) for prompt in prompts]
    with ExitStack() as until_the_end:
        if world.is_main:
            with Writing(partial):
                partial.parent.mkdir(parents=True, exist_ok=True)
                until_the_end.enter_context(locked(partial))
        world.barrier()
        round_size = arguments.eval_batch_size * BATCHES_PER_ROUND * world.size
        done = resume(partial, prompts, world, round_size)
        if world.is_main:
            remove_leftovers(record.parent, record.name)
            write_json(record, header)
        with progress_bar(total=len(prompts), initial=done, desc="responses", rank=world.rank) as bar:
            for start in range(done, len(prompts), round_size):
                rows = list(range(start, min(start + round_size, len(prompts))))
                texts = respond([encoded[row] for row in rows], rows)
                if world.is_main:
                    answered = zip(rows, texts, strict=True)
                    append(partial, [{"prompt": prompts[row], "generated_text": text} for row, text in answered])
                bar.update(len(rows))
        world.barrier()
        if resume(partial, prompts, world) != len(prompts):
            raise UserError(f"{partial} was changed by another process; remove it to start again")
        if world.is_main:
            os.replace(partial, output)
    leave_world(world)


def read_prompts(arguments: ResponseArguments) -> list[str]:
    """Return the prompts to answer."""
    prompts = [prompt_of(record) for record in read_jsonl(arguments.data)]
    if not prompts:
        raise UserError(f"{arguments.data} holds no record")
    return prompts if arguments.train_num == -1 else prompts[: arguments.train_num]


def describe(both: Arguments) -> dict[str, Any]:
    """Return all that the responses depend on: options, and the hashes of the prompts and the weights."""
    arguments, options = both.responses, options_of(both, free_options(Arguments))
    inputs = input_files({name: options[name] for name in STUDENT}) | {"data": {"prompts": Path(arguments.data)}}
    return run_header(options, seed=arguments.seed, global_batch_size=arguments.eval_batch_size, inputs=inputs)


def check_same_responses(record: Path, header: dict[str, Any], output: Path) -> None:
    """Raise if an output, finished or not, has other options, weights or prompts; one without a record is trusted."""
    if not record.exists():
        return
    saved = read_header(record, f"remove it and {output}* to start again")
    other = difference(saved, header, must_agree(header, {"global batch size"}, output.exists()))
    if other is not None:
        raise UserError(f"{output} holds responses with {other}; remove it, or choose another --output")


def resume(partial: Path, prompts: list[str], world: World, round_size: int = 1) -> int:
    """Return how many rows an interrupted run has written in whole rounds; the rest is cut off.

    This way every row is in the same batch as without an interruption: in bf16 its response may depend on that.
    """
    complete = partial.read_bytes().split(b"\n")[:-1]
    try:
        written = [json.loads(line)["prompt"] for line in complete]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{partial} is broken; remove it to start again") from error
    if written != prompts[: len(written)]:
        raise UserError(f"{partial} answers other prompts; remove it, or choose another --output")
    complete_file = len(written) == len(prompts)
    whole_rounds = len(written) if complete_file else len(written) // round_size * round_size
    world.barrier()  # every rank has read the file before it changes
    if world.is_main:
        with open(partial, "r+b") as file:
            file.truncate(sum(len(line) + 1 for line in complete[:whole_rounds]))
    return whole_rounds


def append(path: Path, records: list[dict[str, Any]]) -> None:
    """Append lines and flush them to disk."""
    with Writing(path):
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        fsync_path(path)


def transformers_responder(
    arguments: ResponseArguments, decoding: DecodingArguments, tokenizer: PreTrainedTokenizerBase, world: World
) -> Responder:
    """Generate with Transformers, on all ranks, keyed by row."""
    precision = resolve_precision(arguments.precision, world.device)
    model = load_causal_lm(arguments.model_path, DTYPES[precision], adapter_path=arguments.peft_path)
    check_positions(model.config, arguments)
    model = freeze(model).to(world.device)
    generator = ResponseGenerator(tokenizer, decoding, arguments.max_new_tokens, arguments.eval_batch_size, world)

    def respond(prompts: list[list[int]], row_ids: list[int]) -> list[str]:
        with autocast(precision, world.device):
            responses = generator.respond(model, prompts, row_ids, seed=arguments.seed, purpose="response")
        return tokenizer.batch_decode(responses, skip_special_tokens=True)

    return respond


def check_positions(config: Any, arguments: ResponseArguments) -> None:
    """Raise if a prompt and its response may have more positions than the model."""
    known = getattr(config, "max_position_embeddings", None)
    if known is not None and arguments.max_prompt_length + arguments.max_new_tokens > known:
        raise UserError(
            f"--max-prompt-length {arguments.max_prompt_length} and --max-new-tokens {arguments.max_new_tokens} "
            f"are together more than the {known} positions of the model; choose smaller ones"
        )


def vllm_responder(
    arguments: ResponseArguments, decoding: DecodingArguments, tokenizer: PreTrainedTokenizerBase, world: World
) -> Responder:
    """Generate with vLLM, in one process that uses the GPU by itself."""
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise UserError("--vllm was given, but vLLM is not installed: pip install vllm, or leave it out") from error
    _, adapter = split_checkpoint(arguments.model_path, arguments.peft_path)
    if world.size > 1 or adapter is not None:
        raise UserError("--vllm runs in one process on a whole model: leave out torchrun, and give no adapter")
    if decoding.no_repeat_ngram_size:
        raise UserError(
            f"vLLM cannot do --no-repeat-ngram-size {decoding.no_repeat_ngram_size}: leave out that option, or --vllm"
        )
    dtype = DTYPES[resolve_precision(arguments.precision, world.device)]
    length = arguments.max_prompt_length + arguments.max_new_tokens
    limits = {"dtype": str(dtype).removeprefix("torch."), "max_model_len": length}
    try:
        engine = LLM(arguments.model_path, **limits, trust_remote_code=False)
    except ValueError as error:
        raise UserError(f"vLLM cannot load {arguments.model_path}: {reason(error)}") from error

    def respond(prompts: list[list[int]], row_ids: list[int]) -> list[str]:
        sampling = [
            SamplingParams(
                temperature=decoding.temperature if decoding.do_sample else 0.0,
                top_p=decoding.top_p,
                top_k=decoding.top_k or -1,
                repetition_penalty=decoding.repetition_penalty,
                max_tokens=arguments.max_new_tokens,
                seed=keyed_seed(arguments.seed, "response", row),
            )
            for row in row_ids
        ]
        answers = engine.generate([{"prompt_token_ids": ids} for ids in prompts], sampling)
        return [answer.outputs[0].text for answer in answers]

    return respond


if __name__ == "__main__":
    run_as_script(main)
