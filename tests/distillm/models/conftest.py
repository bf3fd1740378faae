"""What the tests of models share: a sound checkpoint, an adapter for it, and a copy to break."""

import shutil
from pathlib import Path

import pytest
import torch

from distillm.models.adapters import add_lora
from tests.distillm.tiny import make_llama


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
