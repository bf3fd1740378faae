"""Guarantees of tools/model_folder.py: what a tool writes is the model that it made, and decodes like it."""

import copy

import pytest
import torch

from data_utils.errors import UserError
from tests.distillm.tiny import make_gpt2, make_llama
from tools.model_folder import check_cache, check_same_weights


def test_a_model_that_changes_by_saving_and_loading_is_refused():
    model = make_gpt2(16, 2)
    other = copy.deepcopy(model)
    check_same_weights(model, other)
    other.transformer.h[1].mlp.c_fc.weight.data[0, 0] += 1
    with pytest.raises(UserError, match=r"changes when saved and loaded, e\.g\. transformer\.h\.1\.mlp\.c_fc\.weight"):
        check_same_weights(model, other)


@pytest.mark.parametrize("make", [make_gpt2, make_llama])
def test_a_model_that_forgets_with_its_cache_is_refused(make, monkeypatch):
    model = make(16, 2)
    check_cache(model)
    forward = type(model).forward

    def without_past(self, *, past_key_values=None, **inputs):
        return forward(self, **inputs)

    monkeypatch.setattr(type(model), "forward", without_past)
    with pytest.raises(UserError, match="answers differently with its cache than without"):
        check_cache(model)


def test_a_model_that_computes_no_numbers_is_refused():
    model = make_gpt2(16, 2)
    model.lm_head.weight.data[3] = torch.nan
    with pytest.raises(UserError, match="computes no finite numbers"):
        check_cache(model)
