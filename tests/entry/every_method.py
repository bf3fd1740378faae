"""A short run of each method, and of stage 1, on the tiny world, by name; and DistiLLM-2's pairs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import finetune
import train_velocity_field
from data_utils.instructions import read_jsonl
from data_utils.prompts import format_prompt
from tests.entry.tiny_world import COLOURS, write_lines
from tools import build_response_pairs

LORA = ["--model-type", "llama", "--peft", "lora", "--peft-lora-r", 4, "--peft-lora-dropout", 0.1]
# name: the method, and what else its run needs
METHODS: dict[str, tuple[str, list[Any]]] = {
    "lm": ("lm", []),
    **{name: (name, []) for name in ("kd", "rkl", "jsd", "tvd", "sfkl", "srkl", "adaptive-srkl", "mixed-jsd")},
    "srkl-fdd": ("srkl-fdd", ["--num-distill-layers", 3]),
    "adaptive-srkl-contra": ("adaptive-srkl-contra", []),
    "rkl-contra-fdd": ("rkl-contra-fdd", []),
    "distillm2-v1": ("distillm2-v1", []),
    "distillm2-v2-contra": ("distillm2-v2-contra", ["--gradual-beta"]),
    "lm with LoRA": ("lm", LORA),
    "adaptive-srkl with LoRA": ("adaptive-srkl", LORA),
}
# `kd` represents every divergence: each adds only one function of two distributions.
PATHS = [name for name in METHODS if name not in ("rkl", "jsd", "tvd", "sfkl", "srkl")]
FIELDS = ["velocity field on rows", "velocity field on pairs"]


def options_of(world: Any, pairs: Path, name: str, save: Path, *more: Any, student: Path | None = None) -> list[str]:
    """Return the options of `finetune.py` for a method of `METHODS`; `more` come last and override."""
    method, needs = METHODS[name]
    words = [*needs, *more]
    if method.startswith("distillm2"):
        words = ["--data-dir", pairs, "--gt-data-dir", world.store, *words]
    return world.training(save, *words, type=method, student=world.llama if "--peft" in needs else student)


def command_of(
    world: Any, pairs: Path, name: str, save: Path, *more: Any, student: Path | None = None
) -> tuple[Callable[[], None], list[str]]:
    """Return the script and the options of a method of `METHODS`, or of stage 1 on one of `FIELDS`."""
    if name not in FIELDS:
        return finetune.main, options_of(world, pairs, name, save, *more, student=student)
    data = pairs if "pairs" in name else world.store
    words = ["--model-path", student or world.student, "--data-dir", data, *more]
    return train_velocity_field.main, world.stage_1(save, *words)


def make_pairs(world: Any, folder: Path, call_script: Callable[..., int]) -> Path:
    """Write responses of a made-up teacher and student to all prompts, and pair them; return the folder of pairs."""
    responses = folder / "responses"
    for split in ("train", "dev"):
        prompts = [format_prompt(record) for record in read_jsonl(world.data / "dolly" / f"{split}.jsonl")]
        for side, text in (("teacher", "The colour {}."), ("student", "{} {number}")):
            lines = [
                {"prompt": prompt, "generated_text": text.format(COLOURS[number % 8], number=number)}
                for number, prompt in enumerate(prompts)
            ]
            write_lines(responses / f"generated_{split}_{side}.jsonl", lines)
    pairs = folder / "pairs"
    assert call_script(build_response_pairs.main, ["--responses", responses, "--output", pairs]) == 0
    shutil.rmtree(responses)
    return pairs
