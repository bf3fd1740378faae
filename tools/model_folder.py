"""Write a model folder that is sure to load: what the tools that make models share."""

from pathlib import Path

import torch
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
    """Save model and tokenizer as one folder, which gets its name after both were loaded from it and the model ran."""
    with atomic_folder(save) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        load_tokenizer(str(folder))
        loaded = load_causal_lm(str(folder)).eval()
        with torch.no_grad():
            logits = loaded(input_ids=torch.arange(8).unsqueeze(0)).logits
        if not logits.isfinite().all():
            raise UserError(f"{type(model).__name__} computes no numbers: its weights are damaged; nothing written")
