import json

import pytest
import torch

from contra.field_files import load_field, save_field
from contra.projector import Projector
from contra.velocity_field import VelocityField
from data_utils.errors import UserError

SIZES = {"student_size": 5, "teacher_size": 6, "num_pairs": 3}


@pytest.fixture
def saved(tmp_path):
    field, projector = VelocityField(6, 8, 3, 2, dropout=0.25), Projector(5, 6)
    save_field(tmp_path, field, projector)
    return tmp_path, field, projector


def test_what_was_saved_comes_back_bit_for_bit(saved):
    folder, *modules = saved
    for loaded, original in zip(load_field(folder, folder, **SIZES), modules, strict=True):
        assert loaded.state_dict().keys() == original.state_dict().keys()
        for name, value in original.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value)
    assert load_field(folder, folder, **SIZES)[0].dropout == 0.25


def test_a_save_leaves_four_files_and_nothing_else(saved):
    names = {path.name for path in saved[0].iterdir()}
    assert names == {
        "velocity_field.json",
        "velocity_field.safetensors",
        "projector.json",
        "projector.safetensors",
    }


def test_the_two_may_come_from_different_folders(saved, tmp_path):
    folder, field, _ = saved
    other = Projector(5, 6)
    save_field(tmp_path / "other", field, other)
    _, projector = load_field(folder, tmp_path / "other", **SIZES)
    assert torch.equal(projector.linear.weight, other.linear.weight)


@pytest.mark.parametrize(
    ("changed", "pattern"),
    [
        ({"student_size": 7}, "student_size 5.*student's hidden size is 7"),
        ({"teacher_size": 9}, "hidden_size 6.*teacher's hidden size is 9"),
        ({"num_pairs": 6}, "num_pairs 3.*--num-distill-layers is 6"),
    ],
)
def test_a_field_for_other_models_is_refused_with_both_values(saved, changed, pattern):
    with pytest.raises(UserError, match=pattern):
        load_field(saved[0], saved[0], **{**SIZES, **changed})


@pytest.mark.parametrize(
    "name", ["velocity_field.json", "velocity_field.safetensors", "projector.json", "projector.safetensors"]
)
def test_a_missing_file_is_named(saved, name):
    (saved[0] / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_field(saved[0], saved[0], **SIZES)


@pytest.mark.parametrize("name", ["velocity_field.pth", "projector.pth"])
def test_a_file_of_published_code_is_refused_in_one_line_that_says_what_is_expected(saved, name, tmp_path):
    torch.save(saved[1].state_dict(), tmp_path / name)
    folders = [tmp_path / name, saved[0]]
    for order in (folders, folders[::-1]):
        with pytest.raises(UserError, match=f"{name} is a file; expected a folder written by train_velo") as error:
            load_field(*order, **SIZES)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", "[1]", json.dumps({"hidden_size": 6, "num_pairs": 3})])
def test_a_damaged_description_is_one_clear_line(saved, content):
    (saved[0] / "velocity_field.json").write_text(content)
    with pytest.raises(UserError, match=r"velocity_field") as error:
        load_field(saved[0], saved[0], **SIZES)
    assert "\n" not in str(error.value)


def test_damaged_or_foreign_weights_are_one_clear_line(saved):
    folder = saved[0]
    weights = (folder / "projector.safetensors").read_bytes()
    for content in (weights[:-7], b"", (folder / "velocity_field.safetensors").read_bytes()):
        (folder / "projector.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"projector\.safetensors does not fit projector\.json") as error:
            load_field(folder, folder, **SIZES)
        assert "\n" not in str(error.value)
