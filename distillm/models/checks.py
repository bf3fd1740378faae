"""What must fit together: models, their tokenizers, and the lengths of rows."""

from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from data_utils.errors import Reading, UserError
from data_utils.store_meta import describe_tokenizer
from distillm.models.loading import check_folder, fetch_hint, split_checkpoint
from distillm.models.split_model import SplitModel


def check_model_type(path: str, expected: str) -> None:
    """Raise unless the checkpoint's architecture is the one that the script names."""
    path, _ = split_checkpoint(path)
    check_folder(path, "config.json")
    with Reading(path, fetch_hint(path)):
        found = AutoConfig.from_pretrained(path, trust_remote_code=False).model_type
    if found != expected:
        raise UserError(f"{path} is a {found} model, but --model-type says {expected}; pass --model-type {found}")


def match_vocabulary(student: SplitModel, teacher: SplitModel, tokenizer_size: int) -> None:
    """Make the teacher score the student's vocabulary entries; the two models share a tokenizer.

    Sizes within a family differ by padding: entries that no token has. A teacher loses those that the student lacks.
    The student keeps all of its own; those without a gradient would drift and be generated, so it may not be the larger
    one.

    Raises:
        UserError: the teacher has fewer entries than the student, or the student fewer than the tokenizer.
    """
    if student.vocab_size < tokenizer_size:
        raise UserError(
            f"the student scores {student.vocab_size} vocabulary entries, but its tokenizer has {tokenizer_size}; "
            "enlarge the model's embeddings, or use the tokenizer that belongs to it"
        )
    if teacher.vocab_size < student.vocab_size:
        raise UserError(
            f"the student scores {student.vocab_size} vocabulary entries, but the teacher only {teacher.vocab_size}; "
            "distillation compares them entry by entry, so choose a teacher with at least as many"
        )
    if teacher.vocab_size > student.vocab_size:
        teacher.cut_vocabulary(student.vocab_size)


def check_max_length(config: Any, max_length: int) -> None:
    """Raise if rows of `max_length` ids have more positions than the model."""
    known = getattr(config, "max_position_embeddings", None)
    if known is not None and max_length > known:
        raise UserError(f"--max-length {max_length} is more than the {known} positions of the model; lower it")


def check_same_tokenizer(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Raise if the two models' tokenizers give the ids different meanings."""
    if describe_tokenizer(student)["fingerprint"] != describe_tokenizer(teacher)["fingerprint"]:
        raise UserError(
            f"the tokenizers of {student.name_or_path} and {teacher.name_or_path} differ; distillation compares the "
            "two models id by id, so choose two models that share a tokenizer"
        )
