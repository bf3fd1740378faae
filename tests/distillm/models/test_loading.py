"""Guarantees of distillm/models/loading.py: what is not a sound checkpoint is refused in one line that names it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers.activations import NewGELUActivation

from data_utils.errors import UserError
from distillm.models.checks import check_model_type
from distillm.models.loading import load_causal_lm, load_tokenizer
from tests.distillm.tiny import make_gpt2


def change_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def cut(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])


def replace_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("weights")


# How a checkpoint is broken, the loaders that refuse it, and a word of their messages.
MODEL, BOTH = [load_causal_lm], [load_causal_lm, load_tokenizer]
BREAKS = {
    "no folder": (shutil.rmtree, BOTH, "does not exist"),
    "a file in its place": (replace_by_a_file, BOTH, "is a file"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), BOTH, "config.json"),
    "a configuration that is not JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        [*BOTH, lambda folder: check_model_type(folder, "llama")],
        "is broken",
    ),
    "empty weights": (lambda folder: cut(folder / "model.safetensors", 0), MODEL, "cannot load"),
    "weights cut off in their header": (lambda folder: cut(folder / "model.safetensors", 100), MODEL, "cannot load"),
    "weights cut off in their numbers": (lambda folder: cut(folder / "model.safetensors", 4000), MODEL, "cannot load"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), MODEL, "cannot load"),
    "weights of another width": (lambda folder: change_config(folder, hidden_size=32), MODEL, "cannot load"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_checkpoint_is_refused_in_one_line(what, damaged):
    break_, loaders, words = BREAKS[what]
    break_(damaged)
    for load in loaders:
        with pytest.raises(UserError) as error:
            load(str(damaged))
        assert str(damaged) in str(error.value) and words in str(error.value) and "\n" not in str(error.value)


def test_bug_weights_of_other_names_are_refused_and_not_left_random(damaged):
    """Transformers only warns about weights that it does not find, and leaves them random."""
    change_config(damaged, num_hidden_layers=6)
    with pytest.raises(UserError, match=r"its weights lack model\.layers\.4"):
        load_causal_lm(str(damaged))


def test_the_fused_activation_of_gpt2_computes_what_transformers_does(tmp_path):
    model = make_gpt2(16, 2)
    assert any(isinstance(module, NewGELUActivation) for module in model.modules())
    model.save_pretrained(tmp_path)
    fused = load_causal_lm(str(tmp_path))
    assert not any(isinstance(module, NewGELUActivation) for module in fused.modules())
    ids = torch.tensor([[1, 5, 9, 3]])
    torch.testing.assert_close(fused(input_ids=ids).logits, model.eval()(input_ids=ids).logits, rtol=1e-5, atol=1e-6)


def test_an_adapter_folder_without_an_adapter_is_refused(llama_folder, tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path} is not a checkpoint; expected .* adapter_config\.json"):
        load_causal_lm(str(llama_folder), adapter_path=str(tmp_path))


def test_a_tokenizer_without_padding_pads_with_eos(llama_folder):
    tokenizer = load_tokenizer(str(llama_folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_a_tokenizer_without_eos_is_refused(damaged, tokenizer_maker):
    tokenizer = tokenizer_maker()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(damaged)
    with pytest.raises(UserError, match=f"the tokenizer of {damaged} has no EOS token; responses could not end"):
        load_tokenizer(str(damaged))


def test_bug_a_tokenizer_that_is_a_sentencepiece_model_and_nothing_else_loads(llama_folder, tmp_path):
    """OpenLLaMA's on the hub is one; without the packages sentencepiece and protobuf it did not load."""
    import sentencepiece

    (tmp_path / "text").write_text("the cat sat on the mat, and the dog ate the rat\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        minloglevel=2,
    )
    shutil.copy(llama_folder / "config.json", tmp_path)
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))
    tokenizer = load_tokenizer(str(tmp_path))
    ids = tokenizer("the cat\n\nsat").input_ids
    assert ids[0] == tokenizer.bos_token_id and tokenizer.decode(ids, skip_special_tokens=True) == "the cat\n\nsat"
