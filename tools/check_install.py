"""Check that the packages of requirements.txt can be imported, and print their versions and the device.

python3 tools/check_install.py             versions, Python, device
python3 tools/check_install.py --quiet     only what is missing, without importing anything
"""

import argparse
import importlib
import importlib.util
import platform
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split


# module -> distribution, for all that a run imports; the tools of the tests are left out.
PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "accelerate": "accelerate",
    "peft": "peft",
    "datasets": "datasets",
    "deepspeed": "deepspeed",
    "huggingface_hub": "huggingface_hub",
    "numpy": "numpy",
    "rouge_score": "rouge-score",
    "tqdm": "tqdm",
    "matplotlib": "matplotlib",
    "gguf": "gguf",
    "sentencepiece": "sentencepiece",
    "google.protobuf": "protobuf",
}
SLOW_TO_IMPORT = {"deepspeed", "datasets"}  # seconds each; that they are there is enough


def describe_device() -> str:
    """Return the accelerator's name, or the number of CPU threads torch will use."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)} (CUDA {torch.version.cuda})"
    return f"CPU, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--quiet", action="store_true", help="only what is missing, without imports")
    arguments = parser.parse_args()

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{sys.executable} lacks {', '.join(missing)}: run 'bash install.sh'")
    if arguments.quiet:
        return
    for module in PACKAGES.keys() - SLOW_TO_IMPORT:
        importlib.import_module(module)
    print(f"python {platform.python_version()} at {sys.executable}")
    print(", ".join(f"{distribution} {version(distribution)}" for distribution in PACKAGES.values()))
    print(f"device: {describe_device()}")


if __name__ == "__main__":
    run_as_script(main)
