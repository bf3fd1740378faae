"""A pickle in a folder that is loaded is never executed, whatever its name."""

import io
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from contra.field_files import load_field, save_field
from contra.projector import Projector
from contra.velocity_field import VelocityField
from data_utils.indexed_dataset import IndexedDatasetWriter
from data_utils.instructions import InstructionDataset
from data_utils.response_pairs import PairDataset
from distillm.models.adapters import add_lora
from distillm.models.loading import load_causal_lm, load_tokenizer
from tests.distillm.tiny import make_gpt2, make_llama
from tests.entry.processes import ENVIRONMENT, ROOT
from tests.hostile.cases import cases, refusal
from tests.hostile.checkpointed import StoppedRun, rehash


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, sprung: Path):
        self.sprung = sprung

    def __reduce__(self):
        return os.makedirs, (str(self.sprung), 0o777, True)


def as_numpy(trap: Trap) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([trap], dtype=object), allow_pickle=True)
    return file.getvalue()


def as_torch(trap: Trap, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": trap}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


FORMS: dict[str, Callable[[Trap], bytes]] = {
    "pickle": pickle.dumps,
    "pickle 0": lambda trap: pickle.dumps(trap, 0),
    "torch": lambda trap: as_torch(trap, True),
    "old torch": lambda trap: as_torch(trap, False),
    "numpy": as_numpy,
}

# What libraries look for, besides what this project writes.
NAMES = {
    "model": "pytorch_model.bin model.bin model.safetensors config.json generation_config.json",
    "tokenizer": "tokenizer.json tokenizer_config.json vocab.json merges.txt tokenizer.model vocab.pkl",
    "adapter": "adapter_model.bin adapter_model.safetensors adapter_config.json adapter_model.pt",
    "field": "velocity_field.safetensors projector.safetensors velocity_field.json velocity_field.pt",
    "store": "train_0.bin train_0.idx train.jsonl meta.json",
    "pairs": "dataset_dict.json train/state.json train/dataset_info.json train/data-00000-of-00001.arrow",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    from datasets import Dataset, DatasetDict

    root = tmp_path_factory.mktemp("sound")
    for name in ("model", "tokenizer"):
        make_gpt2(8, 1).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    make_llama(8, 1).save_pretrained(root / "base of adapter")
    add_lora(make_llama(8, 1), 2, 4, 0.0).save_pretrained(root / "adapter")
    save_field(root / "field", VelocityField(6, 8, 2, 1), Projector(4, 6))
    with IndexedDatasetWriter(root / "store" / "train_0", "<u2") as store:
        store.add([3, 65_535, 4])
    pairs = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    DatasetDict({"train": pairs}).save_to_disk(str(root / "pairs"))
    return root


@pytest.fixture
def load(folders, tokenizer):
    """Load a folder as the scripts do; return the one line of a refusal."""

    def load_folder(kind: str, folder: Path) -> str | None:
        loaders: dict[str, Callable[[], object]] = {
            "model": lambda: load_causal_lm(str(folder)),
            "tokenizer": lambda: load_tokenizer(str(folder)).encode("a"),
            "adapter": lambda: load_causal_lm(str(folders / "base of adapter"), adapter_path=str(folder)),
            "field": lambda: load_field(folder, folder, 4, 6, 2),
            "store": lambda: InstructionDataset(folder, "train", 9, 5)[0],
            "pairs": lambda: PairDataset(folder, "train", tokenizer, 400, 300)[0],
        }
        return refusal(loaders[kind])

    return load_folder


def remove_weights(folder: Path) -> None:
    """Remove what would be loaded instead of a pickle."""
    for path in folder.rglob("*.safetensors"):
        path.unlink()


PLACES = st.sampled_from([(kind, name) for kind, names in NAMES.items() for name in names.split()])


@cases(200, place=PLACES, form=st.sampled_from(sorted(FORMS)), alone=st.booleans())
def test_a_planted_pickle_is_not_executed(folders, load, tmp_path, place, form, alone):
    kind, name = place
    folder, sprung = tmp_path / kind, tmp_path / "sprung"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(folders / kind, folder)
    if alone:
        remove_weights(folder)
    (folder / name).write_bytes(FORMS[form](Trap(sprung)))
    load(kind, folder)
    assert not sprung.exists(), f"{kind}: {name} was executed"


CHECKPOINT = "engine/optimizer.pt sha256.json ../latest"  # and every file that is there


@cases(50, which=st.floats(0, 1, exclude_max=True), form=st.sampled_from(sorted(FORMS)), alone=st.booleans())
def test_a_pickle_planted_in_a_checkpoint_is_not_executed(stopped, tmp_path, which, form, alone):
    save, sprung = tmp_path / "run", tmp_path / "sprung"
    checkpoint = stopped.copied(save)
    files = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())
    names = sorted({*map(str, files), *CHECKPOINT.split()})
    name = names[int(which * len(names))]
    if alone:
        remove_weights(checkpoint)
    (checkpoint / name).write_bytes(FORMS[form](Trap(sprung)))
    if name not in ("sha256.json", "../latest"):
        rehash(checkpoint)
    with suppress(Exception):  # an attack, not an accident: how it ends is not guaranteed
        stopped.go_on(save)
    assert not sprung.exists(), f"{name} was executed"


@pytest.fixture(scope="module")
def stopped(world, tmp_path_factory):
    return StoppedRun(world, tmp_path_factory.mktemp("stopped") / "run", 1)


@pytest.mark.parametrize("kind", NAMES)
def test_these_folders_load_without_the_pickle(kind, folders, load):
    """Otherwise the tests above would test nothing."""
    assert load(kind, folders / kind) is None


@pytest.mark.parametrize("form", FORMS)
def test_the_trap_works(form, tmp_path):
    """Otherwise nothing would be shown: a loader that trusts what it reads executes the pickle."""
    content = io.BytesIO(FORMS[form](Trap(tmp_path / "sprung")))
    if "torch" in form:
        torch.load(content, weights_only=False)
    elif form == "numpy":
        np.load(content, allow_pickle=True)
    else:
        pickle.load(content)
    assert (tmp_path / "sprung").exists()


# ---- DeepSpeed, whose checkpoints are pickles --------------------------------------------------------------------

DEEPSPEED = """
import pickle, sys
from pathlib import Path
import torch
from torch import nn
from data_utils.errors import UserError
from distillm.arguments import TrainingArguments
from distillm.training.deepspeed_engine import DeepSpeedEngine, load_config
from distillm.distributed import World
from tests.hostile.test_hostile_pickles import FORMS, Trap

folder, config_path, sprung = map(Path, sys.argv[1:])
world = World(0, 1, torch.device("cpu"))

options = TrainingArguments(save="s", batch_size=2, deepspeed=True, deepspeed_config=str(config_path))

def engine():
    return DeepSpeedEngine(nn.Linear(3, 2), 0.1, load_config(options, "fp32"), world)

first = engine()
first.save_state(folder / "engine")
second = engine()
second.load_state(folder / "engine")
assert torch.equal(first.module.weight, second.module.weight), "not loaded"
print("LOADED")
for path in sorted(folder.rglob("*.pt")):
    whole = path.read_bytes()
    for name in ("pickle", "torch", "old torch"):
        path.write_bytes(FORMS[name](Trap(sprung)))
        try:
            second.load_state(folder / "engine")
        except UserError as error:
            assert "\\n" not in str(error)
            print("REFUSED", path.name, name)
    path.write_bytes(whole)
"""


def test_bug_deepspeed_executed_a_pickle_in_its_checkpoint(tmp_path):
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    paths = [tmp_path / "checkpoint", ROOT / "configs" / "deepspeed" / "ds_config_zero2.json", tmp_path / "sprung"]
    paths[0].mkdir()
    command = [sys.executable, "-c", DEEPSPEED, *map(str, paths)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert not paths[2].exists(), "the pickle was executed"
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "LOADED" in ended.stdout and ended.stdout.count("REFUSED") == 6
