"""GGUF files: one clear line, or all the weights in them; never a hang, never gigabytes for a small file."""

import resource
import signal
from contextlib import contextmanager
from pathlib import Path

import gguf
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from data_utils.errors import UserError
from tests.hostile.cases import cases, is_one_clear_line
from tests.hostile.damage import damages
from tests.tools.test_import_gguf import HEADS, WIDTH, write_gguf
from tools.import_gguf import load_gguf

LONGEST, LARGEST = 20, 1 << 20  # seconds, KiB that one file may take
HUGE = (100_000, 10**8, 2**31 - 1, 2**32 - 1)


@pytest.fixture(scope="module")
def sound(tokenizer, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape))
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    write_gguf(path, model, tokenizer)
    load(path)
    return path


@contextmanager
def within_limits():
    def late(*ignored):
        raise TimeoutError(f"more than {LONGEST} seconds")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < LARGEST


def load(path: Path) -> LlamaForCausalLM | None:
    """Load a file as the tool does; return None if it refuses in one line."""
    with within_limits():
        try:
            model, _ = load_gguf(path, torch.float32)
        except UserError as error:
            assert is_one_clear_line(error)
            return None
    return model


def names(model) -> set[str]:
    return set(model.state_dict())


@cases(60, damage=damages("flip", "truncate", "halves", "append", "foreign"))
def test_a_damaged_gguf_file_is_refused_or_loads_whole(sound, tmp_path, damage):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(sound.read_bytes())
    damage.apply(path)
    model = load(path)
    assert model is None or names(model) == names(load(sound))


def changed_field(sound: Path, path: Path, name: str, value: int) -> None:
    """Copy a file with another number in its header."""
    field = gguf.GGUFReader(sound).fields[name]
    before = 0 if name.startswith("GGUF.") else sum(part.nbytes for part in field.parts[:-1])
    content, start = bytearray(sound.read_bytes()), field.offset + before
    content[start : start + 4] = value.to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("value", [0, 1, 3, 900, *HUGE])
@pytest.mark.parametrize("name", ["GGUF.tensor_count", "llama.block_count", "llama.vocab_size"])
def test_bug_a_wrong_count_in_the_header_gave_random_weights_or_took_for_ever(sound, tmp_path, name, value):
    changed_field(sound, tmp_path / "changed.gguf", name, value)
    assert load(tmp_path / "changed.gguf") is None


@pytest.mark.parametrize("name", ["llama.context_length", "llama.embedding_length", "llama.feed_forward_length"])
def test_other_absurd_sizes_in_the_header_are_refused_or_do_no_harm(sound, tmp_path, name):
    for value in HUGE:
        changed_field(sound, tmp_path / "changed.gguf", name, value)
        assert load(tmp_path / "changed.gguf") is None or name == "llama.context_length"
