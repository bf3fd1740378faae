"""Guarantees of tools/prune_depth.py."""

import json
from itertools import pairwise

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from data_utils.errors import UserError
from tools import prune_depth as tool
from tools.prune_depth import kept_layers, prune_depth, pruned_config

SIZES = {"vocab_size": 330, "bos_token_id": 0, "eos_token_id": 1}
LLAMA_SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, **SIZES}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=7, initializer_range=0.5, **LLAMA_SIZES)).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=7, n_embd=16, n_head=2, initializer_range=0.5, **SIZES)).eval()


@pytest.fixture(params=[llama, gpt2])
def source(request, tmp_path, tokenizer):
    model = request.param()
    model.save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    return model, tmp_path / "source"


@pytest.mark.parametrize("num_layers", range(2, 41))
def test_both_ends_are_kept_and_gaps_differ_by_at_most_one(num_layers):
    for num_kept in range(2, num_layers + 1):
        kept = kept_layers(num_layers, num_kept)
        gaps = {after - before for before, after in pairwise(kept)}
        assert (kept[0], kept[-1], len(kept)) == (0, num_layers - 1, num_kept)
        assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


def test_ten_of_thirty():
    assert kept_layers(30, 10) == [0, 3, 6, 10, 13, 16, 19, 23, 26, 29]


def test_the_copy_loads_plainly_and_generates_the_same_with_and_without_cache(source, run, tmp_path):
    printed = run(tool, "--model-path", source[1], "--num-layers", 3, "--save", tmp_path / "small")
    assert "kept blocks [0, 3, 6]" in printed
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "small")
    assert model.config.num_hidden_layers == 3 and (tmp_path / "small" / "model.safetensors").exists()
    prompt = tokenizer("The capital", return_tensors="pt").input_ids
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
    answers = [model.generate(prompt, use_cache=use_cache, **options) for use_cache in (True, False)]
    assert torch.equal(*answers)
    assert answers[0].shape == (1, prompt.shape[1] + 12)


def test_the_copy_computes_what_the_kept_blocks_compute(source):
    model, _ = source
    pruned = prune_depth(model, [0, 3, 6])
    ids = torch.arange(10).unsqueeze(0)
    blocks = model.model.layers if isinstance(model, LlamaForCausalLM) else model.transformer.h
    skipped = [index for index in range(7) if index not in (0, 3, 6)]
    for index in skipped:
        blocks[index].forward = lambda hidden_states, *_, **__: hidden_states
    with torch.no_grad():
        assert torch.equal(pruned(ids).logits, model(ids, use_cache=False).logits)


def test_the_original_is_left_alone(source):
    model, _ = source
    pruned = prune_depth(model, [0, 6])
    with torch.no_grad():
        for weight in pruned.parameters():
            weight.zero_()
    assert model.config.num_hidden_layers == 7
    assert all(weight.any() for name, weight in model.named_parameters() if name.endswith("weight"))


def test_per_layer_configuration_follows_its_blocks():
    types = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    config = Qwen2Config(
        num_hidden_layers=4, layer_types=types, sliding_window=4, use_sliding_window=True, **LLAMA_SIZES
    )
    assert pruned_config(config, [0, 2]).layer_types == ["full_attention", "sliding_attention"]
    assert config.layer_types == types
    pruned = prune_depth(Qwen2ForCausalLM(config), [0, 2])
    assert [block.self_attn.layer_idx for block in pruned.model.layers] == [0, 1]
    assert pruned.model.layers[1].self_attn.sliding_window == 4


@pytest.mark.parametrize("num_layers", [-1, 0, 1, 8])
def test_an_impossible_depth_is_one_clear_line_and_writes_nothing(source, run, tmp_path, num_layers):
    with pytest.raises(UserError, match=rf"cannot keep {num_layers} of 7 blocks: .* must be 2 to 7"):
        run(tool, "--model-path", source[1], "--num-layers", num_layers, "--save", tmp_path / "small")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_nothing_is_overwritten(source, run, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        run(tool, "--model-path", source[1], "--num-layers", 2, "--save", source[1])


def test_half_precision_is_saved_as_such(source, run, tmp_path):
    options = ("--num-layers", 2, "--save", tmp_path / "small", "--dtype", "bfloat16")
    run(tool, "--model-path", source[1], *options)
    assert json.loads((tmp_path / "small" / "config.json").read_text())["dtype"] == "bfloat16"
