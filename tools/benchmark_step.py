"""Time one training step of a method, beside a plain implementation and beside the arithmetic that it needs.

    python3 tools/benchmark_step.py --types srkl srkl-contra rkl-fdd --steps 5
    python3 tools/benchmark_step.py --types srkl --layers 2 3 --widths 64 96 --vocabulary 1000 --steps 2

Models have random weights and these shapes (defaults: GPT-2 small, teacher GPT-2 medium); rows have log-normal lengths
like Dolly's. For each type it prints the median step of this project, of the plain form (every row padded to
--max-length, whole-vocabulary softmaxes in fp32 over all positions, layers one by one, as published code does) and the
floor: the floating-point operations that the real tokens need, at the speed of a large matrix product measured in the
same run. Memory is what a step needs at its peak above weights, gradients, moments and teacher.
"""

import argparse
import ctypes
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import run_as_script

# isort: split

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from contra.projector import Projector
from contra.terms import AlignmentTerm
from contra.training import field_steps
from contra.velocity_field import VelocityField
from data_utils.batching import Row
from data_utils.response_pairs import Pair
from distillm.arguments import PRECISIONS, DistillationArguments, PairArguments, TrainingArguments
from distillm.distributed import World
from distillm.layer_schedule import layer_schedule
from distillm.method import Method
from distillm.models.loading import fuse_gelu
from distillm.models.precision import DTYPES, resolve_precision
from distillm.models.split_model import SplitModel, freeze
from distillm.objective import Objective
from distillm.terms import make_terms
from distillm.training.batches import StepBatches
from distillm.training.engine import TorchEngine
from distillm.training.schedule import Schedule
from distillm.training.steps import OptimiserSteps
from tools.command_line import ToolParser
from tools.plain_step import PlainStep

FIELD = "velocity-field"  # stage 1's step
PAD = 0


def parser() -> argparse.ArgumentParser:
    options = ToolParser(__doc__)
    options.add_argument("--types", nargs="+", default=["srkl"], help=f"methods as in --type, or {FIELD}")
    options.add_argument("--layers", nargs=2, type=int, default=[12, 24], metavar=("STUDENT", "TEACHER"))
    options.add_argument("--widths", nargs=2, type=int, default=[768, 1024], metavar=("STUDENT", "TEACHER"))
    options.add_argument("--vocabulary", type=int, default=50_257)
    options.add_argument("--num-distill-layers", type=int, default=6)
    options.add_argument("--velocity-d-model", type=int, default=1024)
    options.add_argument("--velocity-n-layers", type=int, default=4)
    options.add_argument("--batch-size", type=int, default=4)
    options.add_argument("--max-length", type=int, default=512)
    options.add_argument("--precision", choices=PRECISIONS, default="fp32")
    options.add_argument("--steps", type=int, default=5, help="timed ones, after one that is not")
    options.add_argument("--without-plain", action="store_true", help="time this project's step only")
    return options


def main() -> None:
    options = parser().parse_args()
    world = World(0, 1, torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))
    precision = resolve_precision(options.precision, world.device)
    print(f"{precision} on {world.device.type}, {torch.get_num_threads()} threads")
    for name in options.types:
        steps = build(name, options, precision, world)
        needed = flops(steps, options)
        ours = measure(steps.take, steps, options.steps, needed)
        print(f"{name}: ours {ours.describe()}; {ours.phases}", flush=True)
        if not options.without_plain and name != FIELD:
            plain = PlainStep(steps, Method.parse(name), options.max_length)
            theirs = measure(plain.take, steps, options.steps, needed)
            ratio = f"plain / ours: time {theirs.seconds / ours.seconds:.2f}, memory {theirs.memory / ours.memory:.2f}"
            print(f"{name}: plain {theirs.describe()}; {ratio}", flush=True)


def make_model(layers: int, width: int, options: argparse.Namespace, seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"n_layer": layers, "n_embd": width, "n_head": width // 64 or 1}
    shape |= {"vocab_size": options.vocabulary, "n_positions": options.max_length, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    fuse_gelu(model)
    return model


def make_rows(options: argparse.Namespace) -> list[Row]:
    """Return rows of random tokens: prompts of 60, responses of 90 tokens on average, log-normal with sigma 0.8."""
    random = np.random.default_rng(0)

    def ids(mean: float, most: int) -> list[int]:
        size = int(np.clip(random.lognormal(np.log(mean) - 0.32, 0.8), 4, most))
        return random.integers(1, options.vocabulary, size).tolist()

    half = options.max_length // 2
    return [Row(ids(60, half), ids(90, half), index) for index in range(options.batch_size)]


def build(name: str, options: argparse.Namespace, precision: str, world: World) -> OptimiserSteps:
    """Return the steps of a method, or of stage 1."""
    method = Method(contra=True) if name == FIELD else Method.parse(name)
    models: list[Any] = [make_model(options.layers[i], options.widths[i], options, seed=i) for i in (0, 1)]
    student, teacher = (SplitModel(model.to(world.device)) for model in models)
    freeze(teacher.model)
    if precision != "fp32":
        teacher.model.to(DTYPES[precision])
    for model in (student, teacher):
        if method.needs_hidden_states:
            model.layers = layer_schedule(model.config.num_hidden_layers, options.num_distill_layers)
        model.packs = model.keeps_rows_apart(world.device)
    rows: list[Any] = make_rows(options)
    if method.needs_pairs:
        rows = [Pair(row, Row(row.prompt, row.response[::-1], row.row_id)) for row in rows]
    training = TrainingArguments(save="unused", batch_size=options.batch_size, lr=1e-5)
    batches = StepBatches(rows, training, PAD, world, packed=student.packs and teacher.packs)
    schedule = Schedule(training, 1, 1000)
    field = (
        VelocityField(
            options.widths[1], options.velocity_d_model, options.num_distill_layers, options.velocity_n_layers
        ),
        Projector(*options.widths),
    )
    for module in field:
        module.to(world.device)
    if name == FIELD:
        freeze(student.model)
        return field_steps(*field, student, teacher, batches, schedule, precision, world)
    terms = make_terms(method, DistillationArguments(type=name), PairArguments(), student, teacher, corpus=False)
    if method.contra:
        terms.append(AlignmentTerm(1.0, "epoch", *field))
    return OptimiserSteps(
        "benchmark",
        engine=TorchEngine(student.model, training.weight_decay, training.clip_grad, precision, world),
        objective=Objective(terms, student, teacher, world),
        watched=student.last_compared_block,
        batches=batches,
        schedule=schedule,
        precision=precision,
        world=world,
    )


# ---- measuring ---------------------------------------------------------------------------------------------------


class Measured:
    """The median step beside its floor (both of the same minutes), its phases, its tokens and its peak memory."""

    def __init__(
        self, seconds: list[float], floors: list[float], phases: dict[str, list[float]], tokens: int, memory: int
    ):
        self.seconds, self.floor = statistics.median(seconds), statistics.median(floors)
        self.tokens, self.memory = tokens, memory
        medians = {name: statistics.median(values) for name, values in phases.items() if values}
        self.phases = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())

    def describe(self) -> str:
        times = f"{self.seconds:.2f} s ({self.seconds / self.floor:.2f} x floor of {self.floor:.2f})"
        return f"{times}, {self.tokens / self.seconds:.0f} tokens/s, {self.memory >> 20} MiB"


def measure(take: Callable[[int], Any], steps: OptimiserSteps, count: int, flops: float) -> Measured:
    """Time `count` steps after one that warms up, each beside the speed that the machine has at that moment."""
    take(1)
    phases: dict[str, list[float]] = defaultdict(list)
    seconds, floors = [], []
    for number in range(2, count + 2):
        floors.append(flops / matmul_speed(steps.precision, steps.world.device))
        with phases_of(steps, phases):
            started = now(steps.world.device)
            take(number)
            seconds.append(now(steps.world.device) - started)
    resting = reset_peak(steps.world.device)
    take(count + 2)
    gradients = sum(p.numel() * p.element_size() for p in steps.engine.module.parameters() if p.requires_grad)
    memory = peak(steps.world.device) - resting - gradients
    batches = [batch for part in steps.prepare(1) for batch in part.values()]
    return Measured(seconds, floors, phases, sum(len(batch.token_positions) for batch in batches), memory)


@contextmanager
def phases_of(steps: OptimiserSteps, phases: dict[str, list[float]]) -> Iterator[None]:
    """Within the block, record the seconds of each phase of a step."""
    objective = steps.objective
    watched: list[tuple[Any, str, str]] = [
        (objective.student, "forward", "student forward"),
        (objective.teacher, "forward", "teacher forward"),
        *((term, "total", f"loss {term.name}") for term in objective.terms),
        (steps.engine, "backward", "backward"),
        (steps.engine, "step", "optimiser"),
    ]
    for owner, method, name in watched:
        setattr(owner, method, timed(getattr(owner, method), phases[name], steps.world.device))
    try:
        yield
    finally:
        for owner, method, _ in watched:
            delattr(owner, method)


def timed(function: Callable, seconds: list[float], device: torch.device) -> Callable:
    def run(*arguments: Any, **options: Any) -> Any:
        started = now(device)
        result = function(*arguments, **options)
        seconds.append(now(device) - started)
        return result

    return run


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak(device: torch.device) -> int:
    """Start to watch the peak memory anew; return what is in use now, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps is not in use
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def matmul_speed(precision: str, device: torch.device) -> float:
    """Return the floating-point operations per second of a large matrix product."""
    dtype = DTYPES[precision]
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(8):
        started = now(device)
        a @ b
        seconds.append(now(device) - started)
    return 2 * size**3 / statistics.median(seconds)


# ---- the floor ---------------------------------------------------------------------------------------------------


def flops(steps: OptimiserSteps, options: argparse.Namespace) -> float:
    """Return the floating-point operations that a step's real tokens need, recomputing nothing.

    A product of n numbers per token takes 2n operations forward, and 4n backward where it learns.
    """
    objective = steps.objective
    student, teacher = objective.student, objective.teacher
    assert teacher is not None
    batch = steps.prepare(1)[0]["instruction"]
    counts, tokens, responses = batch.token_counts.double(), len(batch.token_positions), len(batch.response_positions)
    learns = 3 if objective.student_learns else 1
    total = 0.0
    for model, factor in ((student, learns), (teacher, 1)):
        blocks = list(model.blocks)[: model.layers[-1] if objective.terms[0].name == "velocity_field" else None]
        matrices = sum(p.numel() for block in blocks for p in block.parameters() if p.ndim == 2)
        attention = 2 * len(blocks) * model.config.hidden_size * float((counts * (counts + 1) / 2).sum())
        total += factor * 2 * (matrices * tokens + attention)
    widths = student.config.hidden_size, teacher.config.hidden_size
    head = 2 * options.vocabulary * (3 * widths[0] + widths[1])
    field = options.velocity_d_model * (2 * widths[1] + 8 * options.velocity_n_layers * options.velocity_d_model)
    projector = widths[0] * widths[1]
    pairs = options.num_distill_layers
    of_terms = {
        "fdd": head * pairs * tokens,
        "contra": 2 * pairs * responses * (field + 2 * projector),
        "velocity_field": 2 * pairs * tokens * 3 * (field + projector),
    }
    return total + sum(of_terms.get(term.name, head * responses) for term in objective.terms)


if __name__ == "__main__":
    run_as_script(main)
