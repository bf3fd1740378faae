"""Write a model folder that is sure to load: shared by the tools that make models."""

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.errors import UserError
from data_utils.files import atomic_folder
from distillm.models.loading import load_causal_lm, load_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def require_new_folder(save: Path) -> None:
    """Raise if something exists where the new model is to be written."""
    if save.is_file() or (save.is_dir() and any(save.iterdir())):
        raise UserError(f"{save} exists already: remove it or choose another --save")


def write_model_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, save: Path) -> None:
    """Save model and tokenizer as one folder, and load it again before it gets its name."""
    with atomic_folder(save) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        load_tokenizer(str(folder))
        loaded = load_causal_lm(str(folder), dtype=model.dtype)
        check_same_weights(model, loaded)
        check_cache(loaded.float())  # many CPUs have no fast half-precision products


def check_same_weights(model: nn.Module, loaded: nn.Module) -> None:
    """Raise unless both models hold the same tensors under the same names."""
    ours, theirs = model.state_dict(), loaded.state_dict()
    different = ours.keys() ^ theirs.keys() | {
        name for name in ours.keys() & theirs.keys() if not torch.equal(ours[name], theirs[name])
    }
    if different:
        raise UserError(f"{type(model).__name__} changes when saved and loaded, e.g. {min(different)}; nothing written")


@torch.no_grad()
def check_cache(model: nn.Module) -> None:
    """Raise unless decoding with the key-value cache gives the logits of one pass over the whole sequence."""
    ids = torch.arange(8).unsqueeze(0)
    whole = model.eval()(input_ids=ids, use_cache=False).logits[:, 4:]
    cache = model(input_ids=ids[:, :4], use_cache=True).past_key_values
    parts = model(input_ids=ids[:, 4:], past_key_values=cache, use_cache=True).logits
    if not whole.isfinite().all():
        raise UserError(f"{type(model).__name__} computes no finite numbers: its weights are damaged; nothing written")
    if not torch.allclose(whole, parts, rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
        raise UserError(f"{type(model).__name__} answers differently with its cache than without; nothing written")
