import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import Gemma2Config, Gemma2ForCausalLM

from data_utils.errors import UserError
from distillm.models.adapters import add_lora
from distillm.models.checks import check_model_type, match_vocabulary
from distillm.models.loading import enable_gradient_checkpointing, load_causal_lm, load_tokenizer, split_checkpoint
from distillm.models.split_model import SplitModel, find_blocks, freeze
from tests.distillm.tiny import ALONE, VOCABULARY, make_batch, make_gpt2, make_llama, make_rows

BATCH = make_batch(make_rows(4))
REAL = BATCH.attention_mask.bool()


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory, tokenizer) -> Path:
    """A whole checkpoint: weights, configuration, tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    make_llama(16, 4).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter_folder(tmp_path_factory) -> Path:
    """An adapter of `llama_folder`'s model that changes its logits."""
    folder = tmp_path_factory.mktemp("adapter")
    adapted = add_lora(make_llama(16, 4), 4, 16, 0.1)
    torch.manual_seed(3)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(llama_folder, tmp_path) -> Path:
    """A copy of `llama_folder` to break."""
    return Path(shutil.copytree(llama_folder, tmp_path / "checkpoint"))


def logits(model) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=BATCH.input_ids, attention_mask=BATCH.attention_mask).logits[REAL]


def assert_one_line(error, *parts) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("variant", ["gpt2", "llama", "llama with lora"])
def test_captured_states_are_the_hidden_states_of_the_scheduled_indices(variant, checkpointing):
    model = make_gpt2(16, 4) if variant == "gpt2" else make_llama(16, 4)
    if "lora" in variant:
        model = add_lora(model, 4, 16, 0.0)
    if checkpointing:
        enable_gradient_checkpointing(model)
    model.train()
    student = SplitModel(model, [1, 3])
    states = student.forward(BATCH)
    whole = model(
        input_ids=BATCH.input_ids, attention_mask=BATCH.attention_mask, output_hidden_states=True, use_cache=False
    )
    for captured, index in zip(states.scheduled, [1, 3], strict=True):
        torch.testing.assert_close(captured[REAL], whole.hidden_states[index][REAL])
        assert captured.requires_grad
    torch.testing.assert_close(student.head(states.last)[REAL], whole.logits[REAL])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_of_a_captured_state_reaches_the_blocks_below_it_and_no_others(checkpointing, student_model):
    if checkpointing:
        enable_gradient_checkpointing(student_model)
    student_model.train()
    student = SplitModel(student_model, [2])
    student.forward(BATCH).scheduled[0].square().sum().backward()
    reached = [any(p.grad is not None for p in block.parameters()) for block in student.blocks]
    assert reached == [True, True, False, False]


def test_nothing_is_captured_after_a_forward_pass(student_model):
    student = SplitModel(student_model, [1, 2])
    student.forward(BATCH)
    assert not any(block._forward_hooks for block in student.blocks)


def test_a_model_that_caps_its_logits_is_refused():
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=1.0,
        final_logit_softcapping=30.0,
    )
    torch.manual_seed(0)
    with pytest.raises(UserError, match="Gemma2ForCausalLM changes its logits") as error:
        SplitModel(Gemma2ForCausalLM(config)).check_head(ALONE.device)
    assert_one_line(error)
    config.final_logit_softcapping = None
    SplitModel(Gemma2ForCausalLM(config)).check_head(ALONE.device)


def test_the_head_check_leaves_the_mode_of_the_model(student_model):
    student_model.train()
    SplitModel(student_model).check_head(ALONE.device)
    assert student_model.training


def test_a_model_without_a_list_of_blocks_is_refused():
    with pytest.raises(UserError, match="no list of 5 blocks"):
        find_blocks(make_gpt2(16, 4).base_model, 5)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    for load in (load_causal_lm, load_tokenizer):
        with pytest.raises(UserError) as error:
            load(str(tmp_path / "nothing"))
        assert_one_line(error, tmp_path / "nothing", "does not exist")


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    for load in (load_causal_lm, load_tokenizer):
        with pytest.raises(UserError) as error:
            load(str(tmp_path))
        assert_one_line(error, tmp_path, "config.json")


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "model.bin").write_text("weights")
    with pytest.raises(UserError) as error:
        load_causal_lm(str(tmp_path / "model.bin"))
    assert_one_line(error, tmp_path / "model.bin", "is a file")


@pytest.mark.parametrize("kept", [0, 100, 4000])
def test_truncated_weights_are_refused(kept, damaged):
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(UserError) as error:
        load_causal_lm(str(damaged))
    assert_one_line(error, "cannot load", damaged)


def test_a_configuration_that_is_not_json_is_refused(damaged):
    (damaged / "config.json").write_text("{")
    for load in (load_causal_lm, load_tokenizer):
        with pytest.raises(UserError) as error:
            load(str(damaged))
        assert_one_line(error, damaged)
    with pytest.raises(UserError) as error:
        check_model_type(str(damaged), "llama")
    assert_one_line(error, damaged)


def test_weights_of_another_width_are_refused(damaged):
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(UserError) as error:
        load_causal_lm(str(damaged))
    assert_one_line(error, "cannot load", damaged)


def test_missing_weights_are_refused(damaged):
    (damaged / "model.safetensors").unlink()
    with pytest.raises(UserError) as error:
        load_causal_lm(str(damaged))
    assert_one_line(error, "cannot load", damaged)


def test_bug_weights_of_other_names_are_refused_and_not_left_random(damaged):
    """Transformers only warns of weights that it does not find and leaves them random."""
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 6}))
    with pytest.raises(UserError) as error:
        load_causal_lm(str(damaged))
    assert_one_line(error, damaged, "model.layers.4")


def test_an_adapter_folder_without_an_adapter_is_refused(llama_folder, tmp_path):
    with pytest.raises(UserError) as error:
        load_causal_lm(str(llama_folder), adapter_path=str(tmp_path))
    assert_one_line(error, tmp_path, "adapter_config.json")


def test_an_adapter_of_another_model_is_refused(adapter_folder, tmp_path):
    make_llama(32, 4).save_pretrained(tmp_path)
    with pytest.raises(UserError) as error:
        load_causal_lm(str(tmp_path), adapter_path=str(adapter_folder))
    assert_one_line(error, adapter_folder)


def test_a_checkpoint_of_another_type_than_the_option_says_is_refused(llama_folder):
    check_model_type(str(llama_folder), "llama")
    with pytest.raises(UserError) as error:
        check_model_type(str(llama_folder), "gpt2")
    assert_one_line(error, llama_folder, "llama", "gpt2")


@pytest.mark.parametrize("tied", [True, False])
def test_a_teacher_with_more_padding_is_cut_to_the_entries_of_the_student(tied):
    teacher = SplitModel(make_gpt2(16, 2, vocabulary=VOCABULARY + 8))
    if not tied:
        teacher.head.weight = torch.nn.Parameter(teacher.head.weight.detach().clone())
    whole = teacher.head(teacher.forward(BATCH).last)
    match_vocabulary(SplitModel(make_gpt2(16, 2)), teacher, VOCABULARY - 3)
    assert teacher.vocab_size == VOCABULARY
    torch.testing.assert_close(teacher.head(teacher.forward(BATCH).last), whole[..., :VOCABULARY])
    assert teacher.model.get_output_embeddings().weight.shape[0] == VOCABULARY + 8


@pytest.mark.parametrize(("teacher_size", "tokenizer_size"), [(VOCABULARY - 1, 40), (VOCABULARY, VOCABULARY + 2)])
def test_vocabularies_that_do_not_cover_the_student_or_the_tokenizer_are_refused(teacher_size, tokenizer_size):
    """A student entry without a gradient would drift, and be generated."""
    student, teacher = SplitModel(make_gpt2(16, 2)), SplitModel(make_gpt2(16, 2, vocabulary=teacher_size))
    with pytest.raises(UserError) as error:
        match_vocabulary(student, teacher, tokenizer_size)
    assert_one_line(error, VOCABULARY, teacher_size if teacher_size < VOCABULARY else tokenizer_size)


def test_a_tokenizer_without_padding_pads_with_eos(llama_folder):
    tokenizer = load_tokenizer(str(llama_folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_a_tokenizer_without_eos_is_refused(damaged, tokenizer_maker):
    tokenizer = tokenizer_maker()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(damaged)
    with pytest.raises(UserError, match="no EOS") as error:
        load_tokenizer(str(damaged))
    assert_one_line(error, damaged)


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


def test_bug_a_tokenizer_that_is_a_sentencepiece_model_and_nothing_else_loads(llama_folder, tmp_path):
    """As OpenLLaMA's on the Hub; without the packages sentencepiece and protobuf it did not."""
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
    with pytest.raises(UserError) as error:
        add_lora(make_gpt2(16, 2), 4, 16, 0.0)
    assert_one_line(error, "q_proj", "GPT2LMHeadModel")


def test_an_adapter_of_other_modules_loads_too(llama_folder, tmp_path):
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=["o_proj"])
    get_peft_model(make_llama(16, 4), config).save_pretrained(tmp_path)
    model = load_causal_lm(str(llama_folder), adapter_path=str(tmp_path), trainable_adapter=True)
    assert SplitModel(model).blocks is not None
