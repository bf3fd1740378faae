import dataclasses
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_utils.errors import UserError
from distillm.method import Method

NAMES = ["kd", "fkl", "rkl", "jsd", "tvd", "sfkl", "srkl"]
PLAIN = [sampling + name for sampling, name in product(["", "adaptive-", "mixed-"], NAMES)]
WITHOUT_CONTRA = [*PLAIN, *(f"{plain}-fdd" for plain in PLAIN), "distillm2-v1", "distillm2-v2"]
VALID = {
    "lm",
    *WITHOUT_CONTRA,
    *(f"{method}-contra" for method in WITHOUT_CONTRA),
    *(f"{plain}-contra-fdd" for plain in PLAIN),
}
WORDS = [*NAMES, "lm", "adaptive", "mixed", "fdd", "contra", "distillm2", "v1", "v2", "v3", "", "RKL", "rkl "]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lm", Method()),
        ("kd", Method("fkl")),
        ("adaptive-srkl", Method("srkl", "adaptive")),
        ("mixed-jsd", Method("jsd", "mixed")),
        ("rkl-fdd", Method("rkl", fdd=True)),
        ("fkl-contra", Method("fkl", contra=True)),
        ("rkl-contra-fdd", Method("rkl", fdd=True, contra=True)),
        ("adaptive-srkl-fdd-contra", Method("srkl", "adaptive", fdd=True, contra=True)),
        ("distillm2-v1", Method(pairs="v1")),
        ("distillm2-v2-contra", Method(pairs="v2", contra=True)),
    ],
)
def test_a_method_string_becomes_its_row_of_the_table(text, expected):
    assert Method.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "-",
            "q",
            "rkl-",
            "-rkl",
            "rkl--fdd",
            "Rkl",
            " rkl",
            "adaptive",
            "adaptive-fdd",
            "mixed-adaptive-rkl",
        ),
        *(
            "lm-contra",
            "lm-fdd",
            "adaptive-lm",
            "rkl-srkl",
            "fdd",
            "contra",
            "fdd-rkl",
            "contra-rkl",
            "rkl-adaptive",
        ),
        *(
            "rkl-fdd-fdd",
            "rkl-contra-contra",
            "rkl-fdd-contra-fdd",
            "distillm2",
            "distillm2-v3",
            "adaptive-distillm2-v2",
        ),
        *("distillm2-v2-fdd", "distillm2-v2-contra-fdd", "distillm2-contra", "distillm2-v2-v2"),
    ],
)
def test_an_unknown_or_contradictory_string_is_an_error_that_lists_the_valid_ones(text):
    with pytest.raises(UserError) as error:
        Method.parse(text)
    message = str(error.value)
    assert repr(text) in message
    assert "\n" not in message
    assert all(name in message for name in [*NAMES, "lm", "adaptive-", "mixed-", "-fdd", "-contra", "distillm2-v2"])


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map("-".join))
def test_exactly_the_strings_of_the_table_are_accepted(text):
    if text in VALID:
        Method.parse(text)
    else:
        with pytest.raises(UserError):
            Method.parse(text)


@given(st.text(alphabet="adfklmrs-2v \n", max_size=20))
def test_no_text_raises_anything_but_a_user_error(text):
    try:
        assert text in VALID or Method.parse(text) is None
    except UserError:
        assert text not in VALID


@pytest.mark.parametrize("text", sorted(VALID))
def test_the_canonical_string_parses_back_to_the_same_method(text):
    method = Method.parse(text)
    assert Method.parse(str(method)) == method
    assert str(Method.parse(str(method))) == str(method)


def test_the_order_of_fdd_and_contra_does_not_matter():
    assert Method.parse("rkl-contra-fdd") == Method.parse("rkl-fdd-contra")
    assert str(Method.parse("rkl-contra-fdd")) == "rkl-fdd-contra"


@pytest.mark.parametrize("text", sorted(VALID))
def test_methods_declare_what_they_need(text):
    method = Method.parse(text)
    assert method.needs_teacher == (text != "lm")
    assert method.needs_hidden_states == ("fdd" in text or "contra" in text)
    assert method.needs_pairs == text.startswith("distillm2")
    assert method.needs_generation == text.startswith(("adaptive", "mixed", "distillm2"))


def test_a_method_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Method.parse("rkl").fdd = True
