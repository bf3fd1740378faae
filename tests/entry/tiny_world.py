"""Tiny models of 5 and 6 narrow blocks, stores, test sets and velocity fields, and the options that use them."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from contra.field_files import save_field
from contra.projector import Projector
from contra.velocity_field import VelocityField
from data_utils.instructions import EVALUATION_SETS
from data_utils.prompts import format_prompt
from tests.entry.processes import call
from tools import process_data_dolly, process_data_pretrain

COLOURS = ["red", "green", "blue", "black", "white", "pink", "brown", "grey"]
LENGTHS = ["--max-length", "64", "--max-prompt-length", "48"]
NUM_PAIRS, STUDENT_WIDTH, TEACHER_WIDTH = 3, 16, 24
STEPS_PER_EPOCH = 6  # of 4 rows: 26 rows, of which two have to wait for the next epoch


@dataclass
class TinyWorld:
    """Folders that every test reads and no test writes to."""

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

    def answering(self, output: Path, *options: Any, split: str = "train") -> list[str]:
        """Return the options of `generate_responses.py` for the 26 training prompts (or the 10 of `dev`)."""
        words = ["--data", self.data / "dolly" / f"{split}.jsonl", "--model-path", self.student, "--output", output]
        words += ["--eval-batch-size", 2, "--max-prompt-length", 48, "--max-new-tokens", 16]
        return [str(word) for word in (*words, *options)]


def make_world(root: Path, tokenizer: Any) -> TinyWorld:
    """Write the models, and with the project's own tools the stores."""
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


def with_template_tokens(tokenizer: Any) -> Any:
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


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def exchange_weights(folder: Path) -> None:
    """Give the model or field of a folder other weights of the same shapes."""
    for path in folder.glob("*.safetensors"):
        save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
