"""Guarantees of distillm/models/adapters.py, and of adapters as `load_causal_lm` loads them."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model

from data_utils.errors import UserError
from distillm.models.adapters import add_lora
from distillm.models.checks import check_model_type
from distillm.models.loading import load_causal_lm, load_tokenizer, split_checkpoint
from distillm.models.split_model import SplitModel, freeze
from tests.distillm.tiny import make_batch, make_gpt2, make_llama, make_rows

BATCH = make_batch(make_rows(4), packed=False)
REAL = BATCH.attention_mask.bool()


def logits(model) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=BATCH.input_ids, attention_mask=BATCH.attention_mask).logits[REAL]


def test_an_adapter_of_another_model_is_refused(adapter_folder, tmp_path):
    make_llama(32, 4).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"cannot load {adapter_folder}: .*size mismatch"):
        load_causal_lm(str(tmp_path), adapter_path=str(adapter_folder))


def test_a_merged_adapter_gives_the_logits_of_the_adapted_model(llama_folder, adapter_folder):
    merged = load_causal_lm(str(llama_folder), adapter_path=str(adapter_folder))
    adapted = load_causal_lm(str(llama_folder), adapter_path=str(adapter_folder), trainable_adapter=True)
    plain = load_causal_lm(str(llama_folder))
    torch.testing.assert_close(logits(merged), logits(adapted), rtol=1e-4, atol=1e-4)
    assert (logits(merged) - logits(plain)).abs().max() > 0.1
    assert not any("lora" in name for name, _ in merged.named_parameters())
    teacher = SplitModel(freeze(merged), [1])
    torch.testing.assert_close(teacher.head(teacher.forward(BATCH).last)[REAL], logits(merged))


def test_an_adapter_given_as_a_model_stands_for_its_base_model_with_it(llama_folder, adapter_folder, tmp_path):
    folder = shutil.copytree(adapter_folder, tmp_path / "adapter")
    file = folder / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"base_model_name_or_path": str(llama_folder)}))
    expected = load_causal_lm(str(llama_folder), adapter_path=str(adapter_folder))
    torch.testing.assert_close(logits(load_causal_lm(str(folder))), logits(expected), rtol=0, atol=0)
    assert load_tokenizer(str(folder)).get_vocab() == load_tokenizer(str(llama_folder)).get_vocab()
    check_model_type(str(folder), "llama")
    for broken in ("{", json.dumps(settings | {"base_model_name_or_path": None})):
        file.write_text(broken)
        with pytest.raises(UserError, match="names no base model"):
            load_causal_lm(str(folder))
    assert split_checkpoint("hub/id", "adapter") == ("hub/id", "adapter")


def test_a_student_adapter_goes_on_training_and_its_base_stays(llama_folder, adapter_folder):
    model = load_causal_lm(str(llama_folder), adapter_path=str(adapter_folder), trainable_adapter=True)
    assert all(parameter.requires_grad == ("lora" in name) for name, parameter in model.named_parameters())


def test_fresh_lora_adapts_queries_and_values_only_and_changes_nothing_at_first():
    base = make_llama(16, 4)
    before = logits(base)
    model = add_lora(base, rank=4, alpha=12, dropout=0.2)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trainable) == 4 * 2 * 2 and all("lora_" in name for name in trainable)
    assert {name.split(".lora")[0].split(".")[-1] for name in trainable} == {"q_proj", "v_proj"}
    attention = SplitModel(model).blocks[0].self_attn
    assert attention.q_proj.scaling == {"default": 12 / 4} and attention.v_proj.r == {"default": 4}
    assert attention.q_proj.lora_dropout["default"].p == 0.2
    torch.testing.assert_close(logits(model), before)


def test_bug_the_folder_of_an_adapter_named_its_modules_in_the_order_of_the_process(llama_folder, tmp_path):
    add_lora(make_llama(16, 4), 4, 12, 0.0).save_pretrained(tmp_path / "one")
    model = load_causal_lm(str(llama_folder), adapter_path=str(tmp_path / "one"), trainable_adapter=True)
    model.save_pretrained(tmp_path / "two")
    for name in ("one", "two"):
        settings = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert settings["target_modules"] == ["q_proj", "v_proj"]


def test_bug_lora_on_a_model_without_query_projections_is_one_line():
    """PEFT's ValueError came through as a traceback."""
    with pytest.raises(UserError, match=r"adapts q_proj and v_proj, which GPT2LMHeadModel lacks; .* without --peft$"):
        add_lora(make_gpt2(16, 2), 4, 16, 0.0)


def test_an_adapter_of_other_modules_loads_too(llama_folder, tmp_path):
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=["o_proj"])
    get_peft_model(make_llama(16, 4), config).save_pretrained(tmp_path)
    model = load_causal_lm(str(llama_folder), adapter_path=str(tmp_path), trainable_adapter=True)
    assert SplitModel(model).blocks is not None
