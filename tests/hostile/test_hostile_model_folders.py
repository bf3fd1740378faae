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
from distillm.models.adapters import add_lora
from distillm.models.checks import check_model_type
from distillm.models.loading import load_causal_lm, load_tokenizer
from tests.distillm.tiny import make_gpt2, make_llama
from tests.hostile.cases import cases, refusal
from tests.hostile.damage import Damage, damages

FIELD_FILE = "velocity_field.json"
PARTS = st.floats(0, 1, exclude_max=True)
# Whole values of a JSON file replaced by others.
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


def equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Say whether two tensors have the same bytes (NaN is NaN)."""
    return ours.shape == theirs.shape and torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def load(kind: str, folder: Path, folders: Path):
    """Load a folder as the scripts do; a tokenizer must also encode."""
    if kind == "gpt2":
        return load_causal_lm(str(folder))
    if kind == "adapter":
        return load_causal_lm(str(folders / "llama"), torch.float32, str(folder), True)
    if kind == "field":
        return load_field(folder, folder, 4, 6, 2)
    tokenizer = load_tokenizer(str(folder))
    assert all(
        isinstance(token, int) and token >= 0 for token in tokenizer.encode("Say red.", add_special_tokens=False)
    )
    return tokenizer


def loaded_or_refused(kind: str, folder: Path, folders: Path):
    """Return what was loaded, None if it is refused in one line."""
    loaded = []
    refused = refusal(lambda: loaded.append(load(kind, folder, folders)))
    assert (refused is None) == bool(loaded)
    return loaded[0] if loaded else None


def assert_arrived(loaded, folder: Path) -> None:
    """Assert that all weights of a folder's files are in what was loaded from it."""
    modules = dict(zip(("velocity_field", "projector"), loaded, strict=True)) if isinstance(loaded, tuple) else {}
    for path in folder.glob("*.safetensors"):
        module = modules.get(path.stem, loaded)
        arrived = {name.replace(".default.", "."): tensor for name, tensor in module.state_dict().items()}
        written = load_file(path)
        assert all(equal(arrived[name], tensor) for name, tensor in written.items())
        if path.stem != "model":
            assert written.keys() == {name for name in arrived if "lora_" in name or modules}


def check(kind: str, folder: Path, folders: Path) -> None:
    """Assert that a folder is refused, or gives the weights in it and no others."""
    loaded = loaded_or_refused(kind, folder, folders)
    if loaded is None or kind == "tokenizer":
        return
    assert_arrived(loaded, folder)
    if kind == "gpt2":
        sound = load("gpt2", folders / "gpt2", folders).state_dict()
        assert {name: t.shape for name, t in loaded.state_dict().items()} == {n: t.shape for n, t in sound.items()}


# Kind of folder: whose files replace its own, and the model that both belong to.
KINDS = {
    "gpt2": ("gpt2", "other"),
    "tokenizer": ("gpt2", "llama"),
    "adapter": ("adapter", "other adapter"),
    "field": ("field", "other field"),
}


@cases(440, kind=st.sampled_from(sorted(KINDS)), which=PARTS, damage=damages())
def test_a_damaged_folder_is_refused_or_loads_what_is_in_it(folders, tmp_path, kind, which, damage):
    source, other = KINDS[kind]
    folder = damaged_copy(folders, tmp_path, source, other, which, damage)
    check(kind, folder, folders)


@cases(140, kind=st.sampled_from(["gpt2", "adapter"]), key=PARTS, value=st.sampled_from(VALUES))
def test_a_config_with_a_foreign_value_is_refused_or_loads(folders, tmp_path, kind, key, value):
    folder = tmp_path / kind
    shutil.copytree(folders / kind, folder, dirs_exist_ok=True)
    file = {"gpt2": "config.json", "adapter": "adapter_config.json"}[kind]
    names = sorted(json.loads((folder / file).read_text()))
    set_value(file, names[int(key * len(names))], value)(folder)
    if kind == "gpt2":
        refusal(check_model_type, str(folder), "gpt2")
    check(kind, folder, folders)


# ---- what was wrong ----------------------------------------------------------------------------------------------


def set_value(file, name, value):
    """Return what sets a value in a JSON file of a folder."""

    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    return change


def write(file, content):
    return lambda folder: (folder / file).write_text(content)


ADAPTER_VALUES = [
    ("target_modules", r"(\w*\.*)*!"),  # takes forever
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
]
NO_CONFIGS = ["[]", "null", "3", '{"model_type": "gpt2", "n_embd": "8"}']
NO_TOKENIZERS = ["{}", "[]", "{", '{"model": {"type": "BPE"}}']
HUGE_MODELS = [("n_layer", 10**8), ("n_embd", 10**6), ("vocab_size", 10**11), ("n_positions", 10**10)]
HUGE_FIELDS = [("num_blocks", 10**8), ("width", 10**12), ("num_blocks", "1"), ("width", 8.0)]
CANNOT_BE = "which cannot fit into"
# What was found, the kind of folder, what is changed in it, and a word of the refusal (the folder is one, too).
FOUND = [
    *(("json_that_is_no_config_ended_in_a_traceback", "gpt2", write("config.json", text), "") for text in NO_CONFIGS),
    *(
        ("a_damaged_tokenizer_json_ended_in_a_traceback", "tokenizer", write("tokenizer.json", text), "a tokenizer")
        for text in NO_TOKENIZERS
    ),
    *(
        ("an_adapter_with_a_pattern_could_take_for_ever", "adapter", set_value("adapter_config.json", *pair), "")
        for pair in ADAPTER_VALUES
    ),
    *(
        ("a_configuration_of_absurd_size_hung_or_took_all_memory", "gpt2", set_value("config.json", *pair), CANNOT_BE)
        for pair in HUGE_MODELS
    ),
    *(
        ("a_field_of_absurd_size_hung_or_took_all_memory", "field", set_value(FIELD_FILE, *pair), "train it again")
        for pair in HUGE_FIELDS
    ),
    *(
        (
            "a_field_with_an_impossible_dropout_ended_in_a_traceback",
            "field",
            set_value(FIELD_FILE, "dropout", value),
            "",
        )
        for value in (1.5, -1, "much")
    ),
]


@pytest.mark.parametrize(
    ("kind", "change", "words"), [case[1:] for case in FOUND], ids=[f"bug_{case[0]}" for case in FOUND]
)
def test_a_folder_that_is_no_good_is_refused(folders, tmp_path, kind, change, words):
    folder = Path(shutil.copytree(folders / ("gpt2" if kind == "tokenizer" else kind), tmp_path / kind))
    change(folder)
    said = refusal(load, kind, folder, folders)
    assert said is not None and str(folder) in said and words in said


def test_bug_the_weights_of_a_deeper_model_were_loaded_in_part(folders, tmp_path):
    folder = Path(shutil.copytree(folders / "gpt2", tmp_path / "gpt2"))
    shutil.copyfile(folders / "other" / "model.safetensors", folder / "model.safetensors")
    assert "transformer.h.2" in refusal(load, "gpt2", folder, folders)


def test_bug_the_adapter_of_a_deeper_model_was_loaded_in_part(folders):
    assert "layers.1.self_attn" in refusal(load, "adapter", folders / "other adapter", folders)


FOREIGN_CLASSES = ["BertTokenizer", "CLIPTokenizer", "LayoutLMv2Tokenizer", "RagTokenizer", "GPT2Model", "T5Tokenizer"]


@pytest.mark.parametrize("name", [*FOREIGN_CLASSES, "AutoTokenizer", "os.path", "../x", 3, [], {}, True, ""])
def test_bug_a_tokenizer_of_a_foreign_class_ended_in_a_traceback(folders, tmp_path, name):
    folder = Path(shutil.copytree(folders / "llama", tmp_path / "model"))
    set_value("tokenizer_config.json", "tokenizer_class", name)(folder)
    tokenizer = loaded_or_refused("tokenizer", folder, folders)
    assert tokenizer is None or tokenizer.decode(tokenizer.encode("Say red.\n")) == "Say red.\n"
    assert tokenizer is None or name not in FOREIGN_CLASSES


def test_an_adapter_in_a_models_own_folder_is_checked_like_any_other(folders, tmp_path):
    folder = Path(shutil.copytree(folders / "llama", tmp_path / "both"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(folders / "adapter" / name, folder / name)
    assert load_causal_lm(str(folder))
    set_value("adapter_config.json", *ADAPTER_VALUES[0])(folder)
    assert "target_modules" in refusal(load_causal_lm, str(folder))


@pytest.mark.parametrize("names", [["q_proj", "v_proj"], ["layers.0.self_attn.q_proj", "v_proj"]])
def test_an_adapter_that_names_its_modules_loads(folders, tmp_path, names):
    folder = Path(shutil.copytree(folders / "adapter", tmp_path / "adapter"))
    set_value("adapter_config.json", "target_modules", names)(folder)
    assert_arrived(load("adapter", folder, folders), folder)


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json", "config.json"])
@pytest.mark.parametrize("name", ["../x.safetensors", "sub/x.safetensors", "/ABSOLUTE", "weights.dat", "..", "", 3, []])
def test_bug_weights_outside_of_the_folder_were_loaded_and_not_fingerprinted(folders, tmp_path, index, name):
    """A changed file outside counted as the same model."""
    folder = Path(shutil.copytree(folders / "gpt2", tmp_path / "gpt2"))
    weights = folder / "model.safetensors"
    if name == "/ABSOLUTE":
        name = str(tmp_path / "x.safetensors")
    for place in (tmp_path / "x.safetensors", folder / "sub" / "x.safetensors", folder / "weights.dat"):
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(weights, place)
    if index == "config.json":
        set_value(index, "transformers_weights", name)(folder)
    else:
        weight_map = dict.fromkeys(load_file(weights), name)
        weights.unlink()
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for kind in ("gpt2", "tokenizer"):
        said = refusal(load, kind, folder, folders)
        assert str(folder / index) in said and ("names the weights" in said or "is broken" in said)


def test_weights_in_several_files_load(folders, tmp_path):
    model = load_causal_lm(str(folders / "gpt2"))
    model.save_pretrained(tmp_path / "model", max_shard_size="2KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    loaded = load_causal_lm(str(tmp_path / "model")).state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert all(equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
