"""Make the `tiny` family's tokenizer and its two GPT-2-shaped models with random weights.

    python3 tools/make_tiny_models.py --world data/tiny --output checkpoints/tiny

writes <output>/{teacher,student}: config, weights and the byte-level BPE trained on the world's text.
Needs no network; the same options give the same bytes. Both are to be pretrained on the corpus first.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from data_utils.files import atomic_folder
from data_utils.prompts import format_prompt
from tools.make_tiny_world import positive

END_OF_TEXT = "<|endoftext|>"


def template_lines() -> list[str]:
    """Return the fixed lines of the prompt template: one token each, which halves a row's length."""
    prompts = [format_prompt({"instruction": "", "input": text}) for text in ("", "x")]
    lines = {line for prompt in prompts for line in prompt.splitlines() if len(line) > 1}
    return sorted(lines)


def world_text(world: Path) -> Iterator[str]:
    """Yield the corpus and the teacher's rows, as the pieces between the fixed lines of the template."""
    corpus, rows = world / "openwebtext" / "data.txt", world / "teacher" / "train.jsonl"
    for path in (corpus, rows):
        if not path.is_file():
            raise UserError(f"{path} is missing: make it with tools/make_tiny_world.py --output {world}")
    with open(corpus, encoding="utf-8") as stream:
        yield from stream
    with open(rows, encoding="utf-8") as stream:
        for record in map(json.loads, stream):
            yield from (f"\n{record['instruction']}\n\n", f"\n{record['input']}\n\n", f"\n{record['output']}")


def train_tokenizer(world: Path, vocabulary: int, max_length: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    lines = template_lines()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(lines),
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(world_text(world), trainer)
    tokenizer.add_tokens([AddedToken(line, normalized=False) for line in lines])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=max_length,
    )


def random_model(
    tokenizer: PreTrainedTokenizerFast, layers: int, width: int, heads: int, dropout: float, seed: int
) -> GPT2LMHeadModel:
    if width % heads:
        raise UserError(f"a width of {width} cannot be split over {heads} heads: choose a multiple")
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=tokenizer.model_max_length,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--world", type=Path, default=Path("data/tiny"), help="what make_tiny_world.py wrote")
    parser.add_argument("--output", type=Path, default=Path("checkpoints/tiny"), help="folder to write to")
    parser.add_argument("--vocabulary", type=positive, default=900, help="tokens")
    parser.add_argument("--max-length", type=positive, default=256, help="positions of both models")
    for role, layers, width, heads in (("teacher", 5, 128, 4), ("student", 5, 48, 4)):
        parser.add_argument(f"--{role}-layers", type=positive, default=layers)
        parser.add_argument(f"--{role}-width", type=positive, default=width)
        parser.add_argument(f"--{role}-heads", type=positive, default=heads)
    parser.add_argument("--dropout", type=float, default=0.0, help="of both models, everywhere")
    parser.add_argument("--seed", type=int, default=10)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    tokenizer = train_tokenizer(options.world, options.vocabulary, options.max_length)
    for offset, role in enumerate(("teacher", "student")):
        layers, width, heads = (getattr(options, f"{role}_{name}") for name in ("layers", "width", "heads"))
        model = random_model(tokenizer, layers, width, heads, options.dropout, options.seed + offset)
        with atomic_folder(options.output / role) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        print(f"wrote {options.output / role}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    run_as_script(main)
