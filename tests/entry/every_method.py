"""A short run of each method on the tiny world, by name; and DistiLLM-2's pairs, made by the project's own tool."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_utils.instructions import read_jsonl
from data_utils.prompts import format_prompt
from tools import build_response_pairs

LORA = ["--model-type", "llama", "--peft", "lora", "--peft-lora-r", 4, "--peft-lora-dropout", 0.1]
FEATURES = ["--num-distill-layers", 3]
# name: the method, and what its run needs beside
METHODS: dict[str, tuple[str, list[Any]]] = {
    "lm": ("lm", []),
    **{name: (name, []) for name in ("kd", "rkl", "jsd", "tvd", "sfkl", "srkl", "adaptive-srkl", "mixed-jsd")},
    "srkl-fdd": ("srkl-fdd", FEATURES),
    "adaptive-srkl-contra": ("adaptive-srkl-contra", []),
    "rkl-contra-fdd": ("rkl-contra-fdd", []),
    "distillm2-v1": ("distillm2-v1", []),
    "distillm2-v2-contra": ("distillm2-v2-contra", ["--gradual-beta"]),
    "lm with LoRA": ("lm", LORA),
    "adaptive-srkl with LoRA": ("adaptive-srkl", LORA),
}
COLOURS = ["red", "green", "blue", "black", "white", "pink", "brown", "grey"]


def options_of(world: Any, pairs: Path, name: str, save: Path, *more: Any, student: Path | None = None) -> list[str]:
    """Return the options of `finetune.py` for a method of `METHODS`; `more` come last and override."""
    method, needs = METHODS[name]
    words = [*needs, *more]
    if method.startswith("distillm2"):
        words = ["--data-dir", pairs, "--gt-data-dir", world.store, *words]
    return world.training(save, *words, type=method, student=world.llama if "--peft" in needs else student)


def make_pairs(world: Any, folder: Path, call_script: Callable[..., int]) -> Path:
    """Write responses of an imagined teacher and student to all prompts, and pair them; return the folder of pairs."""
    responses = folder / "responses"
    responses.mkdir(parents=True)
    for split in ("train", "dev"):
        prompts = [format_prompt(record) for record in read_jsonl(world.data / "dolly" / f"{split}.jsonl")]
        for side, text in (("teacher", "The colour {}."), ("student", "{} {number}")):
            lines = [
                {"prompt": prompt, "generated_text": text.format(COLOURS[number % 8], number=number)}
                for number, prompt in enumerate(prompts)
            ]
            path = responses / f"generated_{split}_{side}.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    pairs = folder / "pairs"
    assert call_script(build_response_pairs.main, ["--responses", responses, "--output", pairs]) == 0
    shutil.rmtree(responses)
    return pairs
