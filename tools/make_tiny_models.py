"""Make the `tiny` family's tokenizer and its two GPT-2-shaped models with random weights.

    python3 tools/make_tiny_models.py --world data/tiny --output checkpoints/tiny

writes <output>/{teacher,student}: config, weights and the byte-level BPE trained on the synthetic text.
Needs no network; the same options give the same bytes. Pretrain both on the corpus before anything else.
"""

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
from data_utils.instructions import read_jsonl
from data_utils.prompts import format_prompt
from tools.command_line import ToolParser, positive

END_OF_TEXT = "<|endoftext|>"


def template_lines() -> list[str]:
    """Return the fixed lines of the prompt template: one token each, which halves a row's length."""
    prompts = [format_prompt({"instruction": "", "input": text}) for text in ("", "x")]
    return sorted({line for prompt in prompts for line in prompt.splitlines() if len(line) > 1})


def world_text(world: Path) -> Iterator[str]:
    """Yield the corpus and the teacher's rows, as the pieces between the fixed lines of the template."""
    corpus, rows = world / "openwebtext" / "data.txt", world / "teacher" / "train.jsonl"
    for path in (corpus, rows):
        if not path.is_file():
            raise UserError(f"{path} is missing: make it with tools/make_tiny_world.py --output {world}")
    yield from corpus.read_text(encoding="utf-8").splitlines(keepends=True)
    for record in read_jsonl(rows):
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
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, model_max_length=max_length
    )


def random_model(tokenizer: PreTrainedTokenizerFast, layers: int, width: int, heads: int, seed: int) -> GPT2LMHeadModel:
    """Return a model without dropout: a run of minutes is too short to overfit much."""
    if width % heads:
        raise UserError(f"a width of {width} cannot be split over {heads} heads: choose a multiple")
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=tokenizer.model_max_length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2LMHeadModel(config)


def main() -> None:
    parser = ToolParser(__doc__)
    parser.add_argument("--world", type=Path, default=Path("data/tiny"), help="what make_tiny_world.py wrote")
    parser.add_argument("--output", type=Path, default=Path("checkpoints/tiny"), help="folder to write to")
    parser.add_argument("--vocabulary", type=positive, default=900, help="tokens")
    parser.add_argument("--max-length", type=positive, default=256, help="positions of both models")
    for role, width in (("teacher", 128), ("student", 48)):
        parser.add_argument(f"--{role}-layers", type=positive, default=5)
        parser.add_argument(f"--{role}-width", type=positive, default=width)
        parser.add_argument(f"--{role}-heads", type=positive, default=4)
    parser.add_argument("--seed", type=int, default=10)
    options = parser.parse_args()
    tokenizer = train_tokenizer(options.world, options.vocabulary, options.max_length)
    for offset, role in enumerate(("teacher", "student")):
        layers, width, heads = (getattr(options, f"{role}_{name}") for name in ("layers", "width", "heads"))
        model = random_model(tokenizer, layers, width, heads, options.seed + offset)
        with atomic_folder(options.output / role) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        print(f"wrote {options.output / role}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    run_as_script(main)
