"""`meta.json` of a processed folder: what it was made from, so that a mix-up shows at the start of a run.

A store that other tools wrote, such as Megatron's own, has none and is trusted.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_utils.errors import UserError
from data_utils.prompts import puts_bos_first

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

META_NAME = "meta.json"


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the smallest number above every id of the tokenizer."""
    return max(tokenizer.get_vocab().values()) + 1


def describe_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Return name and size of a tokenizer, and a fingerprint of what its ids mean.

    Tokens added by hand (a padding token, say) are left out of the fingerprint: they change no stored id.
    """
    added = tokenizer.get_added_vocab()
    vocabulary = sorted((index, token) for token, index in tokenizer.get_vocab().items() if token not in added)
    meaning = json.dumps([vocabulary, tokenizer.eos_token_id, puts_bos_first(tokenizer)])
    return {
        "name": tokenizer.name_or_path,
        "vocabulary_size": vocabulary_size(tokenizer),
        "fingerprint": hashlib.sha256(meaning.encode()).hexdigest(),
    }


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_tokenizer(folder: str | Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise if a folder was made with another tokenizer."""
    path = Path(folder) / META_NAME
    if not path.exists():
        return
    try:
        theirs = json.loads(path.read_bytes())["tokenizer"]
        name, size, fingerprint = (theirs[key] for key in ("name", "vocabulary_size", "fingerprint"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): process the data again") from error
    ours = describe_tokenizer(tokenizer)
    if fingerprint != ours["fingerprint"]:
        raise UserError(
            f"{folder} was made with the tokenizer {name} ({size} ids), "
            f"but the model has {ours['name']} ({ours['vocabulary_size']} ids): process the data with the model's"
        )


def check_length(folder: str | Path, max_length: int) -> None:
    """Raise if rows of prompt and response were cut to fewer ids than training asks for."""
    path = Path(folder) / META_NAME
    meta = json.loads(path.read_bytes()) if path.exists() else {}
    stored = meta.get("max_length", max_length)
    if "max_prompt_length" in meta and not (isinstance(stored, int) and stored >= max_length):
        raise UserError(
            f"{folder} holds rows of at most {stored} ids, but --max-length is {max_length}: "
            "process the data again with this length, or train with the stored one"
        )
