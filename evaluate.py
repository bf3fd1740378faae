"""Score a model: ROUGE-L and exact match of sampled responses, on several test sets with several seeds.

The smallest command, on a laptop, with what `bash runs/tiny/distillm_contra.sh` has made:

    python3 evaluate.py --model-path results/tiny/train/sft/student --data-dir data/tiny --data-names dolly \\
        --max-length 128 --max-prompt-length 64 --seeds 10 --save results/tiny/eval_main/mine

The paper's protocol (5 seeds, 5 sets, one model load):

    bash scripts/gpt2/eval/run_eval.sh 0 contra/distillm/0.1B_1.5B

Output: `<save>/<set>-<max-length>/<seed>/{args.json, answers.jsonl, metrics.json, log.txt}`. Finished pairs of set
and seed are skipped. All sets and seeds share one stream of batches; a row's answer depends on (seed, set, row) alone.
"""

from data_utils.errors import UserError, run_as_script

# isort: split
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from data_utils.files import atomic_folder, write_json
from data_utils.instructions import EVALUATION_SETS, load_evaluation_set, references
from data_utils.prompts import encode_prompt
from data_utils.randomness import keyed_uniforms
from distillm.arguments import CheckpointArguments, DecodingArguments, check_lengths
from distillm.distributed import join_world, leave_world
from distillm.metrics import mean_scores, score_rows
from distillm.models.checks import check_max_length
from distillm.models.generation import ResponseGenerator
from distillm.models.loading import load_causal_lm, load_tokenizer, split_checkpoint
from distillm.models.precision import DTYPES, autocast, resolve_precision
from distillm.models.split_model import freeze
from distillm.option_parser import free_options, options_of, parse_arguments
from distillm.options import amount, count, option
from distillm.run.header import run_header
from distillm.run.identity import STUDENT, difference, fingerprint, input_files, read_header
from distillm.run.loggers import format_record

# Prompts that are answered before their results are written: the most that a killed evaluation loses.
PROMPTS_PER_ROUND = 20_000


@dataclass
class EvaluationArguments(CheckpointArguments):
    """Which model is evaluated, and on which data."""

    data_dir: str = option("data", "folder with the raw test sets (dolly/valid.jsonl, …)")
    data_names: list[str] = option(list(EVALUATION_SETS), "test sets", list(EVALUATION_SETS), free=True)
    seeds: list[int] = amount([10, 20, 30, 40, 50], "sampling seeds", free=True)
    num_rows: int = option(-1, "rows of each set to use; -1: all", least=1, minus_one="all")
    max_length: int = count(512, "most ids in a row, prompt and response")
    max_prompt_length: int = count(256, "most ids in a prompt; the rest of max-length is for the response")
    eval_batch_size: int = count(64, "prompts per batch on one rank", free=True)
    save: str = option("", "folder for the results", required="a folder for the results", free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lengths(self.max_length, self.max_prompt_length)


@dataclass
class Arguments:
    """All options of this script."""

    evaluation: EvaluationArguments
    decoding: DecodingArguments


@dataclass
class Job:
    """One pair of test set and seed."""

    name: str
    seed: int
    folder: Path
    records: list[dict[str, Any]]
    header: dict[str, Any]


def main() -> None:
    arguments, _ = parse_arguments(Arguments, __doc__ or "")
    options = arguments.evaluation
    options.model_path, options.peft_path = split_checkpoint(options.model_path, options.peft_path)
    jobs = [job for job in open_jobs(options, options_of(arguments, free_options(Arguments))) if not is_done(job)]
    if not jobs:
        print(f"{options.save} holds all of these results: nothing to do")
        return
    world = join_world()
    precision = resolve_precision(options.precision, world.device)
    tokenizer = load_tokenizer(options.model_path)
    model = load_causal_lm(options.model_path, DTYPES[precision], adapter_path=options.peft_path)
    check_max_length(model.config, options.max_length)
    model = freeze(model).to(world.device)
    room = options.max_length - options.max_prompt_length
    generator = ResponseGenerator(tokenizer, arguments.decoding, room, options.eval_batch_size, world)
    for group in rounds(jobs):
        with autocast(precision, world.device):
            answers = generate(model, tokenizer, generator, group, options.max_prompt_length)
        if world.is_main:
            for job, texts in zip(group, answers, strict=True):
                write_results(job, texts)
    leave_world(world)


def open_jobs(arguments: EvaluationArguments, options: dict[str, Any]) -> list[Job]:
    """Return the pairs of set and seed; raise at once if data are missing. `options` identify the results."""
    limit = None if arguments.num_rows == -1 else arguments.num_rows
    models = input_files({name: options[name] for name in STUDENT})
    common = run_header(options, seed=0, global_batch_size=arguments.eval_batch_size, inputs=models)
    jobs = []
    for name in arguments.data_names:
        records = load_evaluation_set(arguments.data_dir, name)[:limit]
        rows = {name: fingerprint(Path(arguments.data_dir) / EVALUATION_SETS[name][0])}
        header = common | {"inputs": common["inputs"] | {"data_dir": rows}}
        for seed in arguments.seeds:
            folder = Path(arguments.save) / f"{name}-{arguments.max_length}" / str(seed)
            jobs.append(Job(name, seed, folder, records, header | {"seed": seed, "data_name": name}))
    return jobs


def is_done(job: Job) -> bool:
    """Say whether a job's results exist and belong to these options, weights and data; report stale ones."""
    if not (job.folder / "metrics.json").exists():
        return False
    try:
        saved = read_header(job.folder / "args.json", "it is evaluated again")
    except (FileNotFoundError, UserError):
        saved = None
    if saved is not None and difference(saved, job.header, lambda name: name != "global batch size") is None:
        return True
    print(f"{job.folder} holds results of other options, weights or data: evaluated again")
    return False


def rounds(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Group jobs so that their prompts fill batches together."""
    group: list[Job] = []
    for job in jobs:
        if group and sum(len(other.records) for other in group) + len(job.records) > PROMPTS_PER_ROUND:
            yield group
            group = []
        group.append(job)
    yield group


def generate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    generator: ResponseGenerator,
    jobs: Sequence[Job],
    max_prompt_length: int,
) -> list[list[str]]:
    """Return the answers of each job, in the order of its records."""
    prompts = {
        job.name: [encode_prompt(tokenizer, record["prompt"], max_prompt_length) for record in job.records]
        for job in {job.name: job for job in jobs}.values()
    }
    room = generator.max_new_tokens
    uniforms = [
        keyed_uniforms(job.seed, f"evaluation of {job.name}", 0, list(range(len(job.records))), room) for job in jobs
    ]
    all_prompts = [prompt for job in jobs for prompt in prompts[job.name]]
    responses = generator.respond_with(model, all_prompts, np.concatenate(uniforms), "evaluation")
    texts = iter(tokenizer.batch_decode(responses, skip_special_tokens=True))
    return [[next(texts) for _ in job.records] for job in jobs]


def write_results(job: Job, answers: list[str]) -> None:
    """Write one job's folder, atomically."""
    scores = score_rows(answers, [references(record) for record in job.records])
    metrics = mean_scores(scores) | {"rows": len(scores)}
    with atomic_folder(job.folder) as temporary:
        write_json(temporary / "args.json", job.header)
        with open(temporary / "answers.jsonl", "w", encoding="utf-8") as file:
            for record, answer, score in zip(job.records, answers, scores, strict=True):
                line = {"prompt": record["prompt"], "answer": answer, "references": references(record), **score}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        summary = format_record({"set": job.name, "seed": job.seed, **metrics})
        (temporary / "log.txt").write_text(summary + "\n", encoding="utf-8")
        write_json(temporary / "metrics.json", metrics)
    print(summary)


if __name__ == "__main__":
    run_as_script(main)
