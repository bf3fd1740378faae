"""Guarantees of distillm/models/checks.py."""

import pytest
import torch

from data_utils.errors import UserError
from distillm.models.checks import check_model_type, match_vocabulary
from distillm.models.split_model import SplitModel
from tests.distillm.tiny import VOCABULARY, make_batch, make_gpt2, make_rows

BATCH = make_batch(make_rows(4))


def test_a_checkpoint_of_another_type_than_the_option_says_is_refused(llama_folder):
    check_model_type(str(llama_folder), "llama")
    with pytest.raises(UserError, match=f"{llama_folder} is a llama model, but --model-type says gpt2"):
        check_model_type(str(llama_folder), "gpt2")


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
    other = teacher_size if teacher_size < VOCABULARY else tokenizer_size
    with pytest.raises(UserError, match=rf"scores {VOCABULARY} vocabulary entries, .* {other}; "):
        match_vocabulary(student, teacher, tokenizer_size)
