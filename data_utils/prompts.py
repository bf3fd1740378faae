"""The prompt template of all families, and how prompts and responses become token ids."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data_utils.errors import UserError

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed here
    from transformers import PreTrainedTokenizerBase

RESPONSE_MARKER = "### Response:"

WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n" + RESPONSE_MARKER + "\n"
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n" + RESPONSE_MARKER + "\n"
)


def format_prompt(record: Mapping[str, Any]) -> str:
    """Fill the template with a record's `instruction` and, when there is one, its `input`."""
    template = WITH_INPUT if record.get("input") else WITHOUT_INPUT
    return template.format(instruction=record["instruction"], input=record.get("input"))


def prompt_of(record: Mapping[str, Any]) -> str:
    """Return a record's own `prompt`, unchanged, or the filled template if it has none."""
    return record.get("prompt") or format_prompt(record)


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Return the ids of `text` alone, without BOS or EOS, however long it is."""
    return tokenizer.encode(text, add_special_tokens=False, verbose=False)


def puts_bos_first(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Say whether the tokenizer starts a text with BOS by default."""
    ids = tokenizer.encode("a", add_special_tokens=True)
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str, max_prompt_length: int) -> list[int]:
    """Return at most `max_prompt_length` ids of a prompt, BOS first if that is the tokenizer's default.

    A longer prompt loses its middle: its beginning and everything from "### Response:" on are kept.
    """
    ids = encode_text(tokenizer, prompt)
    if puts_bos_first(tokenizer):
        assert tokenizer.bos_token_id is not None
        ids = [tokenizer.bos_token_id, *ids]
    if len(ids) <= max_prompt_length:
        return ids
    tail = _length_from_marker(tokenizer, prompt)
    if tail > max_prompt_length:
        raise UserError(
            f"--max-prompt-length {max_prompt_length} must be at least {tail}, the ids from {RESPONSE_MARKER!r} on"
        )
    return ids[: max_prompt_length - tail] + ids[len(ids) - tail :]


def encode_example(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, response: str, max_prompt_length: int
) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt, as `encode_prompt` gives them, and of its response with EOS at the end.

    Prompt and response are encoded as one text, and the response's ids are those that follow the prompt's;
    if a token spans both, so that the prompt's ids are not a prefix, the response is encoded separately.
    """
    assert tokenizer.eos_token_id is not None, "refused when the tokenizer was loaded"
    prompt_only = encode_text(tokenizer, prompt)
    together = encode_text(tokenizer, prompt + response)
    if together[: len(prompt_only)] == prompt_only:
        response_ids = together[len(prompt_only) :]
    else:
        response_ids = encode_text(tokenizer, response)
    return encode_prompt(tokenizer, prompt, max_prompt_length), [*response_ids, tokenizer.eos_token_id]


def _length_from_marker(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> int:
    """Count the prompt's last ids that cover "### Response:" and what follows it, 0 without a marker."""
    start = prompt.rfind(RESPONSE_MARKER)
    if start < 0:
        return 0
    encoding = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return sum(end > start for _, end in encoding["offset_mapping"])
