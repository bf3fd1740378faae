"""Guarantees of distillm/run/identity.py."""

import json

import pytest

from data_utils.errors import UserError
from distillm.run import identity as run_identity
from distillm.run.identity import STUDENT, TEACHER, difference, fingerprint, input_files, must_agree, other_models


def header(inputs=None, batch=16, **arguments):
    return {"arguments": arguments, "inputs": inputs or {}, "global_batch_size": batch}


def everything(name):
    return True


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(run_identity, "BLOCK", 4)
    monkeypatch.setattr(run_identity, "BLOCKS", 3)


@pytest.mark.parametrize("size", [1, 4, 5, 11, 12])
def test_the_fingerprint_sees_every_byte_of_a_small_file(size, small_blocks, tmp_path):
    path, seen = tmp_path / "file", set()
    for place in (None, *range(size)):
        path.write_bytes(bytes(index == place for index in range(size)))
        seen.add(fingerprint(path))
    assert len(seen) == size + 1


def test_the_fingerprint_sees_the_size_and_evenly_spread_blocks_of_a_big_file(small_blocks, tmp_path):
    path, whole = tmp_path / "file", bytes(24)
    path.write_bytes(whole)
    first = fingerprint(path)
    assert first.startswith("24:")
    seen = {
        place
        for place in range(24)
        if path.write_bytes(whole[:place] + b"x" + whole[place + 1 :]) and fingerprint(path) != first
    }
    assert seen == {0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23}
    path.write_bytes(bytes(25))
    assert fingerprint(path) != first


def test_an_empty_file_has_a_fingerprint(tmp_path):
    (tmp_path / "file").touch()
    assert fingerprint(tmp_path / "file").startswith("0:")


def test_the_inputs_of_a_run_are_what_its_options_name(tmp_path):
    model = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    folders = {
        "store": ["train_0.bin", "train_0.idx", "valid.jsonl"],
        "pairs/train": ["data-0.arrow"],
        "model": model,
        "adapter": ["adapter_model.safetensors", "adapter_config.json"],
        "pickled": ["pytorch_model.bin", "config.json", "vocab.json", "merges.txt"],
    }
    for folder, names in folders.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in (*names, "args.json", "log.jsonl", "finished.json", "README.md") if folder == "model" else names:
            (tmp_path / folder / name).touch()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "model")})
    )
    options = {"data_dir": tmp_path / "pairs", "gt_data_dir": tmp_path / "store", "lm_data_dir": None, "lr": 0.1}
    options |= {"model_path": str(tmp_path / "adapter"), "teacher_model_path": "owner/a-hub-id"}
    options |= {"velocity_field_path": str(tmp_path / "pickled"), "peft_path": str(tmp_path / "adapter")}
    (tmp_path / "adapter" / "vocabulary of a folder").mkdir()
    assert {name: sorted(files) for name, files in input_files(options).items()} == {
        "data_dir": folders["pairs/train"],
        "gt_data_dir": sorted(folders["store"]),
        "model_path": sorted([*folders["adapter"], *(f"base {name}" for name in model)]),
        "peft_path": sorted(folders["adapter"]),  # its base is `model_path`, wherever it was when it was trained
        "velocity_field_path": sorted(folders["pickled"]),
        "teacher_model_path": [],
    }


def test_two_runs_differ_in_the_first_option_that_matters():
    one, two = header(lr=0.1, save="a", seed=1), header(lr=0.2, save="b", seed=1)
    assert difference(one, two, everything) == "lr 0.1, not 0.2"
    assert difference(one, two, lambda name: name == "save") == "save a, not b"
    assert difference(one, two, lambda name: name == "seed") is None
    assert difference(one, header(lr=0.1, save="a"), everything) == "seed 1, not None"
    assert difference(one, header(batch=8, **one["arguments"]), everything) == "global batch size 16, not 8"


def test_files_are_compared_by_content_and_not_by_where_they_lie():
    ours = header({"model_path": {"model.safetensors": "1:a"}}, model_path="./models/a")
    there = header({"model_path": {"model.safetensors": "1:a"}}, model_path="/work/models/a")
    other = header({"model_path": {"model.safetensors": "1:b"}}, model_path="/work/models/a")
    gone = header(model_path="/work/models/a")
    assert difference(ours, there, everything) is None
    assert difference(ours, other, everything) == "model_path ./models/a, not /work/models/a"
    for changed in (other, gone):
        assert difference(there, changed, everything) == "different content in model_path /work/models/a"


def test_what_goes_on_computes_as_it_began_and_what_is_finished_is_as_it_was_asked_for():
    def differs(asked, finished):
        before, now = (header(precision=asked) | {"precision": computed} for computed in ("bf16", "fp32"))
        return difference(before, now, must_agree(now, {"lr"}, finished))

    assert differs("auto", finished=True) is None
    assert differs("auto", finished=False) == differs("fp32", finished=True) == "computed precision bf16, not fp32"


def test_what_was_made_with_another_teacher_is_said_and_without_a_record_it_is_trusted(tmp_path):
    record = tmp_path / "args.json"
    now = header(model_path="a", teacher_model_path="b")
    assert other_models(record, now, TEACHER) is None
    record.write_text(json.dumps(header(model_path="a", teacher_model_path="c", lr=0.1)))
    assert other_models(record, now, STUDENT) is None
    assert other_models(record, now, TEACHER) == "teacher_model_path c, not b"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"arguments": 3, "inputs": {}, "global_batch_size": 1}'])
def test_a_broken_record_is_one_line(text, tmp_path):
    (tmp_path / "args.json").write_text(text)
    with pytest.raises(UserError, match=r"args\.json.*remove it"):
        other_models(tmp_path / "args.json", header(), TEACHER)
