"""Miniatures in the places of the real models and data: 8 narrow blocks each, in the shape of the family."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.scripts.commands import REPOSITORY
from tools.make_tiny_models import train_tokenizer

FEW_ROWS = ["--train-num=12", "--teacher-train-num=12", "--dev-num=4", "--test-num=2", "--documents=200"]
LLAMA_SHAPE = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
Pair = tuple[PreTrainedTokenizerFast, PreTrainedModel]
POSITIONS = 768  # as many as the 256 + 512 that DistiLLM-2's responses may take
LAYERS = {"gpt2": 8, "openllama2": 8, "llama2": 8, "qwen2.5": 8, "smollm2": 12}


def make_world(root: Path) -> Path:
    """Make raw data in the places of Dolly, the test sets and OpenWebText."""
    words = [f"--output={root}/data", *FEW_ROWS]
    command = [sys.executable, "tools/make_tiny_world.py", *words]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, env=os.environ)
    return root / "data"


def make_models(family: str, folder: Path, world: Path) -> None:
    """Write `teacher` and `student` of a family: its architecture, its tokenizer's habits, its padded vocabularies."""
    tokenizer = train_tokenizer(world, 600, POSITIONS)
    for role, width in (("teacher", 24), ("student", 16)):
        own, model = MAKERS[family](tokenizer, width, LAYERS[family], role)
        model.save_pretrained(folder / role)
        own.save_pretrained(folder / role)


def gpt2(tokenizer: PreTrainedTokenizerFast, width: int, layers: int, role: str) -> Pair:
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=width,
        n_layer=layers,
        n_head=2,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return tokenizer, GPT2LMHeadModel(config)


def llama(tokenizer: PreTrainedTokenizerFast, width: int, layers: int, role: str) -> Pair:
    """LLaMA's tokenizer puts a BOS first and has no padding token."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.add_special_tokens(["<s>"])
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    own = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=tokenizer.eos_token)
    config = LlamaConfig(
        vocab_size=len(own),
        max_position_embeddings=POSITIONS,
        hidden_size=width,
        num_hidden_layers=layers,
        **LLAMA_SHAPE,
    )
    return own, LlamaForCausalLM(config)


def qwen2(tokenizer: PreTrainedTokenizerFast, width: int, layers: int, role: str) -> Pair:
    """Qwen2.5's ids need 32 bits, its embeddings are tied, and its larger models pad their vocabulary more."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts["model"]["vocab"]["<|end|>"] = 70_000
    backend = Tokenizer.from_str(json.dumps(parts))
    own = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token=tokenizer.eos_token)
    padding = 128 if role == "teacher" else 8
    config = Qwen2Config(
        vocab_size=70_001 + padding,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=own.eos_token_id,
        max_position_embeddings=POSITIONS,
        hidden_size=width,
        num_hidden_layers=layers,
        **LLAMA_SHAPE,
    )
    return own, Qwen2ForCausalLM(config)


MAKERS = {"gpt2": gpt2, "openllama2": llama, "llama2": llama, "qwen2.5": qwen2, "smollm2": llama}
