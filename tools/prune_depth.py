"""Make a smaller student: copy a causal LM, keeping evenly spaced blocks, the first and the last included.

    python3 tools/prune_depth.py --model-path HuggingFaceTB/SmolLM2-135M-Instruct --num-layers 10 --save small

Works for every Hugging Face causal LM whose blocks are in one list. The result is an ordinary model folder
with the tokenizer; it is loaded and run once before it appears under its name.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from distillm.models.loading import load_causal_lm, load_tokenizer
from distillm.models.split_model import find_blocks
from tools.command_line import ToolParser
from tools.model_folder import DTYPES, require_new_folder, write_model_folder

# Configuration entries with one value per block.
PER_LAYER_FIELDS = ("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers", "attention_layers")


def kept_layers(num_layers: int, num_kept: int) -> list[int]:
    """Return `num_kept` evenly spaced block indices of `num_layers`, both ends included."""
    if not 2 <= num_kept <= num_layers:
        raise UserError(f"cannot keep {num_kept} of {num_layers} blocks: --num-layers must be 2 to {num_layers}")
    gaps = num_kept - 1
    return [(2 * point * (num_layers - 1) + gaps) // (2 * gaps) for point in range(num_kept)]  # rounded to nearest


def pruned_config(config: PretrainedConfig, kept: list[int]) -> PretrainedConfig:
    """Return the configuration of a model with the `kept` blocks only."""
    values = config.to_dict()
    # GPT-2 and others have a name of their own for the number of layers.
    values[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(kept)
    for name in PER_LAYER_FIELDS:
        if isinstance(values.get(name), list) and len(values[name]) == config.num_hidden_layers:
            values[name] = [values[name][layer] for layer in kept]
    return type(config).from_dict(values)


def prune_depth(model: PreTrainedModel, kept: list[int]) -> PreTrainedModel:
    """Return a new model with the `kept` blocks of `model`; all other weights are copied."""
    config = pruned_config(model.config, kept)
    pruned = AutoModelForCausalLM.from_config(config, dtype=model.dtype, trust_remote_code=False)
    blocks = find_blocks(model, model.config.num_hidden_layers)
    prefix = next(name for name, module in model.named_modules() if module is blocks)
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(f"{prefix}.")}
    for index, layer in enumerate(kept):
        weights |= {f"{prefix}.{index}.{name}": tensor for name, tensor in blocks[layer].state_dict().items()}
    pruned.load_state_dict(weights)
    if model.generation_config is not None:
        pruned.generation_config = model.generation_config
    return pruned.eval()


def main() -> None:
    parser = ToolParser(__doc__)
    parser.add_argument("--model-path", required=True, help="folder or hub id of the model to copy")
    parser.add_argument("--num-layers", type=int, required=True, help="blocks to keep, at least 2")
    parser.add_argument("--save", type=Path, required=True, help="new folder for the smaller model")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the saved weights")
    arguments = parser.parse_args()
    require_new_folder(arguments.save)
    model = load_causal_lm(arguments.model_path, dtype=DTYPES[arguments.dtype])
    tokenizer = load_tokenizer(arguments.model_path)
    assert isinstance(model, PreTrainedModel)
    kept = kept_layers(model.config.num_hidden_layers, arguments.num_layers)
    pruned = prune_depth(model, kept)
    write_model_folder(pruned, tokenizer, arguments.save)
    before, after = model.num_parameters() / 1e6, pruned.num_parameters() / 1e6
    print(f"kept blocks {kept} of {arguments.model_path}: {before:.1f} -> {after:.1f} million parameters")


if __name__ == "__main__":
    run_as_script(main)
