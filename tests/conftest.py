"""What all tests share: the precision they run in, and tiny tokenizers, made here: no test needs a network."""

import os
from collections.abc import Callable

# Before torch is imported: tests run side by side, and a child that is forked from a process with threads hangs.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

# isort: split

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from data_utils.prompts import format_prompt
from tests import precision

ANSWERS = ("Yes.", "No.", "The capital of France is Paris.", "1, 2, 3, 4 and 5")


def pytest_configure() -> None:
    precision.choose()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say which precision it is, in the quiet mode too, which has no header."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:  # the workers of pytest-xdist have none
        reporter.write_line(f"--precision auto is {precision.CHOSEN} in these tests, {precision.NATIVE} on this CPU")


def make_tokenizer(template: str = "$A", across_words: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE; `template` is what it does by default, `across_words` lets tokens span lines."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across_words)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ["### Response:\n" + answer for answer in ANSWERS] if across_words else [template_text() + "".join(ANSWERS)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def template_text() -> str:
    return format_prompt({"instruction": "", "input": ""}) + format_prompt({"instruction": "", "input": " "})


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Puts nothing around a text, like GPT-2's."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def bos_tokenizer() -> PreTrainedTokenizerFast:
    """Puts BOS before and EOS after a text, as some LLaMA tokenizers are set to."""
    return make_tokenizer("<s> $A </s>")


@pytest.fixture(scope="session")
def crossing_tokenizer() -> PreTrainedTokenizerFast:
    """Has tokens that hold the end of a prompt and the beginning of its response."""
    return make_tokenizer(across_words=True)


@pytest.fixture(scope="session")
def tokenizer_maker() -> Callable[..., PreTrainedTokenizerFast]:
    return make_tokenizer
