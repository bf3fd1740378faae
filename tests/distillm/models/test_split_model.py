"""Guarantees of distillm/models/split_model.py."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, MambaConfig, MambaForCausalLM

from data_utils.errors import UserError
from distillm.models.adapters import add_lora
from distillm.models.loading import enable_gradient_checkpointing
from distillm.models.split_model import SplitModel, find_blocks
from distillm.reduction import gather
from tests.distillm.tiny import ALONE, VOCABULARY, make_batch, make_gpt2, make_llama, make_rows

BATCH = make_batch(make_rows(4), packed=False)
REAL = BATCH.attention_mask.bool()


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


@pytest.mark.parametrize("variant", ["gpt2", "llama", "llama with lora"])
def test_rows_packed_into_one_line_have_the_states_that_they_have_alone(variant):
    model = make_gpt2(16, 4) if variant == "gpt2" else make_llama(16, 4)
    student = SplitModel(add_lora(model, 4, 16, 0.0) if "lora" in variant else model, [1, 3])
    assert student.keeps_rows_apart(ALONE.device)
    packed, padded = (make_batch(make_rows(4), packed=packed) for packed in (True, False))
    assert len(packed.input_ids) < 4
    one, two = student.forward(packed), student.forward(padded)
    for ours, alone in zip([one.last, *one.scheduled], [two.last, *two.scheduled], strict=True):
        found, expected = (gather(x, b.token_positions) for x, b in ((ours, packed), (alone, padded)))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_model_whose_attention_mixes_packed_rows_is_noticed(student_model, monkeypatch):
    student = SplitModel(student_model)
    forward = type(student.body).forward

    def without_positions(body, input_ids=None, position_ids=None, **options):
        return forward(body, input_ids=input_ids, **options)

    monkeypatch.setattr(type(student.body), "forward", without_positions)
    assert not student.keeps_rows_apart(ALONE.device)


def test_a_model_that_takes_no_positions_is_not_packed():
    model = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2))
    assert not SplitModel(model).keeps_rows_apart(ALONE.device)


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
    with pytest.raises(UserError, match="Gemma2ForCausalLM changes its logits"):
        SplitModel(Gemma2ForCausalLM(config)).check_head(ALONE.device)
    config.final_logit_softcapping = None
    SplitModel(Gemma2ForCausalLM(config)).check_head(ALONE.device)


def test_the_head_check_leaves_the_mode_of_the_model(student_model):
    student_model.train()
    SplitModel(student_model).check_head(ALONE.device)
    assert student_model.training


def test_a_model_without_a_list_of_blocks_is_refused():
    with pytest.raises(UserError, match="no list of 5 blocks"):
        find_blocks(make_gpt2(16, 4).base_model, 5)
