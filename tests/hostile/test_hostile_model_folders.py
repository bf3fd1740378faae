"""Model, tokenizer, adapter and velocity-field folders: one clear line, or what was saved.

safetensors holds no checksum: a flipped byte among the numbers gives other numbers, and no reader can notice. So a
loaded model is compared with the numbers that lie in its folder, and these only where they are the file's business.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file

from contra.field_files import load_field, save_field
from contra.projector import Projector
from contra.velocity_field import VelocityField
from data_utils.errors import UserError
from distillm.models.adapters import add_lora
from distillm.models.checks import check_model_type
from distillm.models.loading import load_causal_lm, load_tokenizer
from tests.distillm.tiny import make_gpt2, make_llama
from tests.hostile.cases import cases
from tests.hostile.damage import Damage, damages

PARTS = st.floats(0, 1, exclude_max=True)
# Whole values of a JSON file exchanged for others.
VALUES = [None, True, -1, 0, 1, 3, 1.5, "", "x", "gpt2", "llama", [], {}, [1], {"a": 1}, 100, "../../etc"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """Sound folders; `other` holds files of the same names, of another model."""
    root = tmp_path_factory.mktemp("models")
    for name, model in {"gpt2": make_gpt2(8, 2), "other": make_gpt2(8, 3, seed=1), "llama": make_llama(8, 1)}.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    for name, blocks in {"adapter": 1, "other adapter": 2}.items():
        add_lora(make_llama(8, blocks), 2, 4, 0.0).save_pretrained(root / name)
    for name, width in {"field": 8, "other field": 12}.items():
        torch.manual_seed(width)
        save_field(root / name, VelocityField(6, width, 2, 1), Projector(4, 6))
    return root


def damaged_copy(folders: Path, tmp_path: Path, kind: str, other: str, which: float, damage: Damage) -> Path:
    """Return a copy of a sound folder, one of its files damaged."""
    folder = tmp_path / kind
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(folders / kind, folder)
    files = sorted(path for path in folder.iterdir() if path.suffix != ".md")
    path = files[int(which * len(files))]
    damage.apply(path, folders / other / path.name)
    return folder


def exchange_value(path: Path, key: float, value: object) -> None:
    """Put another value under one key of a JSON file."""
    content = json.loads(path.read_text())
    names = sorted(content)
    content[names[int(key * len(names))]] = value
    path.write_text(json.dumps(content))


def state(model) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Say whether two tensors have the same bytes (NaN is NaN)."""
    return ours.shape == theirs.shape and torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def assert_same(ours, theirs) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def loaded_or_refused(load, *arguments):
    """Return what a loader returns, None if it refuses in one line."""
    try:
        return load(*arguments)
    except UserError as error:
        assert str(error).strip() and "\n" not in str(error)
        return None


@cases(80, which=PARTS, damage=damages())
def test_a_damaged_model_folder_is_refused_or_loads_the_weights_in_it(folders, tmp_path, which, damage):
    folder = damaged_copy(folders, tmp_path, "gpt2", "other", which, damage)
    model = loaded_or_refused(load_causal_lm, str(folder))
    if model is not None:
        written = load_file(folder / "model.safetensors")
        assert all(equal(model.state_dict()[name], tensor) for name, tensor in written.items())
        assert_same_shapes(state(model), state(load_causal_lm(str(folders / "gpt2"))))


def assert_same_shapes(ours, theirs) -> None:
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}


@cases(80, key=PARTS, value=st.sampled_from(VALUES))
def test_a_config_with_a_foreign_value_is_refused_or_loads(folders, tmp_path, key, value):
    folder = tmp_path / "gpt2"
    shutil.copytree(folders / "gpt2", folder, dirs_exist_ok=True)
    exchange_value(folder / "config.json", key, value)
    loaded_or_refused(check_model_type, str(folder), "gpt2")
    model = loaded_or_refused(load_causal_lm, str(folder))
    if model is not None:
        assert_same(state(model), state(load_causal_lm(str(folders / "gpt2"))))


@cases(100, which=PARTS, damage=damages())
def test_a_damaged_tokenizer_is_refused_or_encodes(folders, tmp_path, which, damage):
    folder = damaged_copy(folders, tmp_path, "gpt2", "llama", which, damage)
    tokenizer = loaded_or_refused(load_tokenizer, str(folder))
    if tokenizer is not None:
        ids = tokenizer.encode("Say red.", add_special_tokens=False)
        assert all(isinstance(token, int) and token >= 0 for token in ids)


def check_adapter(base: Path, folder: Path) -> None:
    """Load an adapter; if it is taken, all of its weights must have arrived."""
    model = loaded_or_refused(load_causal_lm, str(base), torch.float32, str(folder), True)
    if model is not None:
        arrived = {name.replace(".default.", "."): t for name, t in model.state_dict().items() if "lora_" in name}
        written = load_file(folder / "adapter_model.safetensors")
        assert arrived.keys() == written.keys()
        assert all(equal(arrived[name], tensor) for name, tensor in written.items())


@cases(60, which=PARTS, damage=damages())
def test_a_damaged_adapter_is_refused_or_loads(folders, tmp_path, which, damage):
    folder = damaged_copy(folders, tmp_path, "adapter", "other adapter", which, damage)
    check_adapter(folders / "llama", folder)


@cases(60, key=PARTS, value=st.sampled_from(VALUES))
def test_an_adapter_config_with_a_foreign_value_is_refused_or_loads(folders, tmp_path, key, value):
    folder = tmp_path / "adapter"
    shutil.copytree(folders / "adapter", folder, dirs_exist_ok=True)
    exchange_value(folder / "adapter_config.json", key, value)
    check_adapter(folders / "llama", folder)


@cases(200, which=PARTS, damage=damages())
def test_a_damaged_velocity_field_is_refused_or_loads(folders, tmp_path, which, damage):
    folder = damaged_copy(folders, tmp_path, "field", "other field", which, damage)
    both = loaded_or_refused(load_field, folder, folder, 4, 6, 2)
    if both is not None:
        for module, name in zip(both, ("velocity_field", "projector"), strict=True):
            written = load_file(folder / f"{name}.safetensors")
            assert {key: tensor.shape for key, tensor in module.state_dict().items()} == {
                key: t.shape for key, t in written.items()
            }


# ---- what was wrong ----------------------------------------------------------------------------------------------


def refused(load, *arguments) -> str:
    with pytest.raises(UserError) as error:
        load(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bug_the_weights_of_a_deeper_model_were_loaded_in_part(folders, tmp_path):
    folder = Path(shutil.copytree(folders / "gpt2", tmp_path / "gpt2"))
    shutil.copyfile(folders / "other" / "model.safetensors", folder / "model.safetensors")
    assert "transformer.h.2" in refused(load_causal_lm, str(folder))


def test_bug_the_adapter_of_a_deeper_model_was_loaded_in_part(folders):
    said = refused(load_causal_lm, str(folders / "llama"), torch.float32, str(folders / "other adapter"), True)
    assert "layers.1.self_attn" in said


@pytest.mark.parametrize("content", ["[]", "null", "3", '{"model_type": "gpt2", "n_embd": "8"}'])
def test_bug_json_that_is_no_config_ended_in_a_traceback(folders, tmp_path, content):
    folder = Path(shutil.copytree(folders / "gpt2", tmp_path / "gpt2"))
    (folder / "config.json").write_text(content)
    assert str(folder) in refused(load_causal_lm, str(folder))


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"model": {"type": "BPE"}}'])
def test_bug_a_damaged_tokenizer_json_ended_in_a_traceback(folders, tmp_path, content):
    folder = Path(shutil.copytree(folders / "gpt2", tmp_path / "gpt2"))
    (folder / "tokenizer.json").write_text(content)
    assert f"cannot load a tokenizer from {folder}" in refused(load_tokenizer, str(folder))


FOREIGN_CLASSES = ["BertTokenizer", "CLIPTokenizer", "LayoutLMv2Tokenizer", "RagTokenizer", "GPT2Model", "T5Tokenizer"]


@pytest.mark.parametrize("name", [*FOREIGN_CLASSES, "AutoTokenizer", "os.path", "../x", 3, [], {}, True, ""])
def test_bug_a_tokenizer_of_a_foreign_class_ended_in_a_traceback(folders, tmp_path, name):
    folder = Path(shutil.copytree(folders / "llama", tmp_path / "model"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": name}))
    tokenizer = loaded_or_refused(load_tokenizer, str(folder))
    assert tokenizer is None or tokenizer.decode(tokenizer.encode("Say red.\n")) == "Say red.\n"
    assert tokenizer is None or name not in FOREIGN_CLASSES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_modules", r"(\w*\.*)*!"),  # takes for ever
        ("target_modules", ".*[qv]_proj"),
        ("target_modules", ["(a+)+$"]),
        ("target_modules", 3),
        ("target_modules", {"q_proj": [1]}),
        ("target_modules", "*"),
        ("rank_pattern", {"(.*.*)*x": 3}),
        ("rank_pattern", {"q_proj": "x"}),
        ("alpha_pattern", {"(a|a)*$": 1}),
        ("exclude_modules", "(.*)*x"),
        ("layers_pattern", ["("]),
        ("r", 10**9),
        ("r", "8"),
        ("r", 0),
        ("peft_type", "XLORA"),
        ("peft_type", None),
        ("modules_to_save", 7),
    ],
)
def test_bug_an_adapter_with_a_pattern_could_take_for_ever(folders, tmp_path, name, value):
    folder = Path(shutil.copytree(folders / "adapter", tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {name: value}))
    assert str(folder) in refused(load_causal_lm, str(folders / "llama"), torch.float32, str(folder), True)


def test_an_adapter_in_a_models_own_folder_is_checked_like_any_other(folders, tmp_path):
    folder = Path(shutil.copytree(folders / "llama", tmp_path / "both"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(folders / "adapter" / name, folder / name)
    assert load_causal_lm(str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": r"(\w*\.*)*!"}))
    assert "target_modules" in refused(load_causal_lm, str(folder))


def test_an_adapter_that_names_its_modules_loads(folders, tmp_path):
    for value in (["q_proj", "v_proj"], ["layers.0.self_attn.q_proj", "v_proj"]):
        folder = Path(shutil.copytree(folders / "adapter", tmp_path / "adapter", dirs_exist_ok=True))
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": value}))
        check_adapter(folders / "llama", folder)
        assert load_causal_lm(str(folders / "llama"), torch.float32, str(folder), True)


@pytest.mark.parametrize(
    ("name", "value"), [("n_layer", 10**8), ("n_embd", 10**6), ("vocab_size", 10**11), ("n_positions", 10**10)]
)
def test_bug_a_configuration_of_absurd_size_hung_or_took_all_memory(folders, tmp_path, name, value):
    folder = Path(shutil.copytree(folders / "gpt2", tmp_path / "gpt2"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: value}))
    assert "which cannot be in" in refused(load_causal_lm, str(folder))


@pytest.mark.parametrize(
    ("name", "value"), [("num_blocks", 10**8), ("width", 10**12), ("num_blocks", "1"), ("width", 8.0)]
)
def test_bug_a_field_of_absurd_size_hung_or_took_all_memory(folders, tmp_path, name, value):
    folder = Path(shutil.copytree(folders / "field", tmp_path / "field"))
    path = folder / "velocity_field.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    assert "train it again" in refused(load_field, folder, folder, 4, 6, 2)


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json", "config.json"])
@pytest.mark.parametrize("name", ["../x.safetensors", "sub/x.safetensors", "/ABSOLUTE", "weights.dat", "..", "", 3, []])
def test_bug_weights_outside_of_the_folder_were_loaded_and_not_fingerprinted(folders, tmp_path, index, name):
    """A changed file there counted as the same model."""
    folder = Path(shutil.copytree(folders / "gpt2", tmp_path / "gpt2"))
    weights = folder / "model.safetensors"
    if name == "/ABSOLUTE":
        name = str(tmp_path / "x.safetensors")
    for place in (tmp_path / "x.safetensors", folder / "sub" / "x.safetensors", folder / "weights.dat"):
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(weights, place)
    if index == "config.json":
        config = json.loads((folder / index).read_text())
        (folder / index).write_text(json.dumps(config | {"transformers_weights": name}))
    else:
        weight_map = dict.fromkeys(load_file(weights), name)
        weights.unlink()
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for load in (load_causal_lm, load_tokenizer):
        said = refused(load, str(folder))
        assert str(folder / index) in said and ("names the weights" in said or "is broken" in said)


def test_weights_in_several_files_load(folders, tmp_path):
    model = load_causal_lm(str(folders / "gpt2"))
    model.save_pretrained(tmp_path / "model", max_shard_size="2KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    assert_same(state(load_causal_lm(str(tmp_path / "model"))), state(model))


@pytest.mark.parametrize("value", [1.5, -1, "much"])
def test_bug_a_field_with_an_impossible_dropout_ended_in_a_traceback(folders, tmp_path, value):
    folder = Path(shutil.copytree(folders / "field", tmp_path / "field"))
    path = folder / "velocity_field.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dropout": value}))
    assert "velocity_field" in refused(load_field, folder, folder, 4, 6, 2)
