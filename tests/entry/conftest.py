"""A tiny world for the entry scripts: models of 5 and 6 narrow blocks, stores and test sets, made by the project's
own writers and tools, and ways to run the scripts in this process, in one that is killed, or in two."""

import copy
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import evaluate
import finetune
import train_velocity_field
from contra.field_files import save_field
from contra.projector import Projector
from contra.velocity_field import VelocityField
from data_utils.errors import run_as_script
from data_utils.instructions import EVALUATION_SETS
from data_utils.prompts import format_prompt
from tools import process_data_dolly, process_data_pretrain

COLOURS = ["red", "green", "blue", "black", "white", "pink", "brown", "grey"]
LENGTHS = ["--max-length", "64", "--max-prompt-length", "48"]
NUM_PAIRS, STUDENT_WIDTH, TEACHER_WIDTH = 3, 16, 24
LONGEST_RUN = 300  # seconds of one process


@dataclass
class Outcome:
    """How a script ended, and what it said."""

    status: int
    out: str = ""
    err: str = ""


@dataclass
class TinyWorld:
    """Folders that every test reads and none writes to."""

    root: Path
    student: Path  # dropout 0.1
    steady_student: Path  # the same weights, dropout 0
    teacher: Path
    foreign_teacher: Path  # of another vocabulary
    llama: Path
    data: Path  # raw instruction data and the five test sets
    store: Path
    corpus: Path
    field: Path
    steady_field: Path  # dropout 0

    def training(self, save: Path, *options: Any, type: str = "lm", student: Path | None = None) -> list[str]:
        """Return the options of `finetune.py` for 18 steps; `options` come last and override."""
        words = ["--type", type, "--model-path", student or self.student, "--data-dir", self.store, "--save", save]
        words += ["--do-train", "--do-valid", "--batch-size", 4, "--eval-batch-size", 8, "--epochs", 3, "--lr", 5e-3]
        words += ["--log-interval", 2, *LENGTHS]
        if type != "lm":
            words += ["--teacher-model-path", self.teacher, "--lm-data-dir", self.corpus]
        if "adaptive" in type:
            words += ["--init-threshold", 0.6, "--capacity", 12, "--replay-ratio", "constant"]
        if "contra" in type:
            words += ["--velocity-field-path", self.field, "--num-distill-layers", NUM_PAIRS]
        return [str(word) for word in (*words, *options)]

    def stage_1(self, save: Path, *options: Any) -> list[str]:
        """Return the options of `train_velocity_field.py` for 12 steps."""
        words = ["--model-path", self.student, "--teacher-model-path", self.teacher, "--data-dir", self.store]
        words += ["--save", save, "--batch-size", 4, "--epochs", 2, "--log-interval", 2, *LENGTHS]
        words += ["--velocity-d-model", 16, "--velocity-n-layers", 1, "--num-distill-layers", NUM_PAIRS]
        return [str(word) for word in (*words, *options)]

    def evaluation(self, save: Path, *options: Any) -> list[str]:
        """Return the options of `evaluate.py` for 2 sets and 2 seeds."""
        words = ["--model-path", self.student, "--data-dir", self.data, "--data-names", "dolly", "vicuna"]
        words += ["--seeds", 10, 20, "--save", save, *LENGTHS]
        return [str(word) for word in (*words, *options)]


@pytest.fixture(scope="session")
def world(tmp_path_factory, tokenizer) -> TinyWorld:
    root = tmp_path_factory.mktemp("world")
    tiny = TinyWorld(root, **{name: root / name for name in TinyWorld.__annotations__ if name != "root"})
    tokenizer = with_template_tokens(tokenizer)
    size = len(tokenizer)
    for folder, model in {
        tiny.student: gpt2(size, 5, STUDENT_WIDTH, seed=1, dropout=0.1),
        tiny.steady_student: gpt2(size, 5, STUDENT_WIDTH, seed=1),
        tiny.teacher: gpt2(size, 6, TEACHER_WIDTH, seed=2),
        tiny.foreign_teacher: gpt2(size + 8, 6, TEACHER_WIDTH, seed=2),
        tiny.llama: llama(size),
    }.items():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write_raw_data(tiny.data)
    store_options = ["--model-path", tiny.student, "--data-process-workers", 1, *LENGTHS[:2]]
    for tool, name, save, options in (
        (process_data_dolly, "dolly", tiny.store, LENGTHS[2:]),
        (process_data_pretrain, "openwebtext", tiny.corpus, ["--dev-num", 2]),
    ):
        folders = ["--data-dir", tiny.data / name, "--processed-data-dir", save]
        assert call(tool.main, [*store_options, *folders, *options]) == 0
    make_field(tiny.field, dropout=0.1)
    make_field(tiny.steady_field, dropout=0.0)
    return tiny


def with_template_tokens(tokenizer):
    """Make every fixed line of the template one token, so that rows are short."""
    tokenizer = copy.deepcopy(tokenizer)
    lines = {line for text in ("", "x") for line in format_prompt({"instruction": "", "input": text}).splitlines()}
    tokenizer.add_tokens([AddedToken(line, normalized=False) for line in sorted(lines) if len(line) > 1])
    return tokenizer


def gpt2(vocabulary: int, layers: int, width: int, seed: int, dropout: float = 0.0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    shape = {"vocab_size": vocabulary, "n_positions": 64, "n_embd": width, "n_layer": layers, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**shape, **dropouts, bos_token_id=1, eos_token_id=1, initializer_range=0.3))


def llama(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(3)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, **shape)
    )


def make_field(folder: Path, dropout: float, student_width: int = STUDENT_WIDTH) -> None:
    torch.manual_seed(4)
    save_field(folder, VelocityField(TEACHER_WIDTH, 16, NUM_PAIRS, 1, dropout), Projector(student_width, TEACHER_WIDTH))


def write_raw_data(folder: Path) -> None:
    """Write 26 + 10 instructions, five test sets of 6 rows, and a corpus."""
    records = [
        {"instruction": f"Say {COLOURS[i % 8]}.", "input": "twice" if i % 3 else "", "output": f"{COLOURS[i % 8]} {i}"}
        for i in range(42)
    ]
    write_lines(folder / "dolly" / "train.jsonl", records[:26])
    write_lines(folder / "dolly" / "dev.jsonl", records[26:36])
    for path, _ in EVALUATION_SETS.values():
        write_lines(folder / path, [{**record, "output": [record["output"], "red"]} for record in records[36:]])
    (folder / "openwebtext").mkdir()
    documents = [f"A {colour} document about {other}.\n" for colour in COLOURS for other in COLOURS]
    (folder / "openwebtext" / "data.txt").write_text("".join(documents), encoding="utf-8")


def exchange_weights(folder: Path) -> None:
    """Give the model or field of a folder other weights of the same shapes."""
    for path in folder.glob("*.safetensors"):
        save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def call(main: Callable[[], None], options: list[Any]) -> int:
    """Run a script in this process, as its last line does; return its exit status."""
    script = Path(sys.modules[main.__module__].__file__ or "").name
    with mock.patch.object(sys, "argv", [script, *map(str, options)]):
        try:
            run_as_script(main)
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def in_child(function: Callable[[], int], environment: dict[str, str] | None = None) -> int:
    """Start `function` in a fork of this process (no import costs time); return its process id."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.environ.update(environment or {})
            status = function()
        finally:
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(status)
    return child


def wait_for(child: int) -> int:
    """Return the exit status of a child, minus the signal if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="session")
def call_script() -> Callable[[Callable[[], None], list[Any]], int]:
    return call


@pytest.fixture(scope="session")
def field_maker() -> Callable[..., None]:
    return make_field


@pytest.fixture
def run(capfd):
    """Run a script in this process: its status and what it said."""

    def run_script(main: Callable[[], None], options: list[Any]) -> Outcome:
        capfd.readouterr()
        status = call(main, options)
        return Outcome(status, *capfd.readouterr())

    return run_script


@pytest.fixture
def train(run, world):
    """Run `finetune.py`: its status and what it said."""

    def run_training(save: Path, *options: Any, **kinds: Any) -> Outcome:
        return run(finetune.main, world.training(save, *options, **kinds))

    return run_training


@pytest.fixture
def train_field(run, world):
    def run_stage_1(save: Path, *options: Any) -> Outcome:
        return run(train_velocity_field.main, world.stage_1(save, *options))

    return run_stage_1


@pytest.fixture
def score(run, world):
    """Run `evaluate.py`: its status and what it said."""

    def run_evaluation(save: Path, *options: Any) -> Outcome:
        return run(evaluate.main, world.evaluation(save, *options))

    return run_evaluation


@pytest.fixture
def run_killed():
    """Run a script in a child that is killed at the n-th call of a method; nothing gets a chance to clean up."""

    def run_and_kill(main: Callable[[], None], options: list[Any], owner: Any, method: str, count: int) -> None:
        original, calls = getattr(owner, method), 0

        def kill_when_due(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)

        def child() -> int:
            with mock.patch.object(owner, method, kill_when_due):
                return call(main, options)

        assert wait_for(in_child(child)) == -signal.SIGKILL, "the run ended before it was killed"

    return run_and_kill


@pytest.fixture
def run_on():
    """Run a script in several processes that exchange values with gloo, as torchrun would start them."""

    def run_on_all(count: int, main: Callable[[], None], options: list[Any], status: int = 0) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])

        def child() -> int:
            signal.alarm(LONGEST_RUN)  # processes that wait for each other for ever are killed
            return call(main, options)

        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        children = [in_child(child, environment) for environment in ranks]
        assert [wait_for(child) for child in children] == [status] * count

    return run_on_all


@pytest.fixture
def run_on_two(run_on):
    return partial(run_on, 2)


@pytest.fixture
def validation_losses(monkeypatch):
    """Replace the losses of the next run's validations, the one before training first; return the embeddings then."""

    def script_losses(*losses: float) -> list[torch.Tensor]:
        remaining, seen = iter(losses), []

        def next_loss(validator: Any, student: Any) -> float:
            seen.append(student.model.get_input_embeddings().weight.detach().clone())
            return next(remaining)

        monkeypatch.setattr("distillm.training.validation.Validator._loss", next_loss)
        return seen

    return script_losses


@pytest.fixture
def read_log():
    """Return the records of a run's `log.jsonl`."""

    def read(save: Path) -> list[dict]:
        return [json.loads(line) for line in (save / "log.jsonl").read_text().splitlines()]

    return read


@pytest.fixture
def contents():
    """Return everything below a folder, files with their bytes; nothing for a folder that does not exist."""

    def read(folder: Path) -> dict[str, bytes]:
        paths = sorted(folder.rglob("*"))
        return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in paths}

    return read


@pytest.fixture
def refused(run, contents):
    """Assert that a script refuses its options in one line that holds these words, and writes nothing."""

    def assert_refused(main, options, save, *words):
        before = save.exists(), contents(save), hidden(save.parent)
        outcome = run(main, options)
        assert_one_line(outcome.status, outcome.err, *words)
        assert (save.exists(), contents(save), hidden(save.parent)) == before, "something was written"

    return assert_refused


def hidden(folder: Path) -> set[str]:
    """Return the names of what lies in a folder out of sight: half-written files, and pytest's own lock."""
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def assert_one_line(status, said, *words):
    assert status == 1
    assert "Traceback" not in said
    lines = said.splitlines()
    assert len(lines) == 1, f"not one line but {len(lines)}: {said}"
    assert ".py: error: " in lines[0]
    for word in words:
        assert str(word) in lines[0]
