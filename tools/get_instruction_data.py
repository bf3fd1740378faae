"""Fetch the instruction data from the Hugging Face hub: Dolly to train on, and the five test sets.

    python3 tools/get_instruction_data.py

writes data/dolly/{raw,train,dev,valid}.jsonl, data/self-inst/valid.jsonl, data/vicuna/valid.jsonl,
data/sinst/11_/valid.jsonl and data/uinst/11_/valid.jsonl. `--dolly`, `--self-inst`, `--vicuna`, `--sinst` and
`--uinst` name other data sets on the hub. Existing files are left alone. The data are those of DSKD
(Zhang et al., 2024).
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, reason, run_as_script

# isort: split

from data_utils.files import atomic_file
from data_utils.instructions import EVALUATION_SETS
from tools.command_line import ToolParser

HUB_IDS = {
    "dolly": "MiniLLM/dolly",
    "self_inst": "MiniLLM/self-inst",
    "vicuna": "MiniLLM/Vicuna",
    "sinst": "MiniLLM/sinst",
    "uinst": "MiniLLM/uinst",
}


def files_of(name: str) -> tuple[str, list[str]]:
    """Return the folder of a set, and the files in it: the test set, and for Dolly the training data."""
    folder, _, test_set = EVALUATION_SETS[name][0].partition("/")
    return folder, ["raw.jsonl", "train.jsonl", "dev.jsonl", test_set] if name == "dolly" else [test_set]


def missing_files(name: str, data_dir: Path) -> list[Path]:
    """Return the files that training or evaluation would not find; `raw.jsonl` may replace train and dev."""
    folder, files = files_of(name)
    replaced = ("train.jsonl", "dev.jsonl") if (data_dir / folder / "raw.jsonl").exists() else ("raw.jsonl",)
    needed = (data_dir / folder / file for file in files if file not in replaced)
    return [path for path in needed if not path.exists()]


def download(source: str, files: list[str]) -> Path:
    """Fetch these files of a hub data set, in whatever subfolder they are; return their folder in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it reports its own retries; a final failure is still raised
    patterns = [pattern for name in files for pattern in (name, f"*/{name}")]
    return Path(snapshot_download(source, repo_type="dataset", allow_patterns=patterns))


def fetch(name: str, source: str, data_dir: Path) -> None:
    """Put the missing files of a set into its folder, each complete or absent."""
    folder, files = files_of(name)
    snapshot = download(source, files)
    for file in files:
        found = sorted(snapshot.rglob(file), key=lambda path: (len(path.parts), path))
        if found and not (data_dir / folder / file).exists():
            with atomic_file(data_dir / folder / file) as temporary:
                shutil.copyfile(found[0], temporary)
    if missing := missing_files(name, data_dir):
        raise FileNotFoundError(f"it has no {', '.join(path.name for path in missing)}")


def main() -> None:
    parser = ToolParser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="parent folder of the sets' folders")
    for name, source in HUB_IDS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=source, help="data set id on the hub")
    options = parser.parse_args()
    for name in HUB_IDS:
        source, folder = getattr(options, name), options.data_dir / files_of(name)[0]
        if not missing_files(name, options.data_dir):
            print(f"{folder} exists already")
            continue
        try:
            fetch(name, source, options.data_dir)
        except OSError as error:
            missing = ", ".join(str(path) for other in HUB_IDS for path in missing_files(other, options.data_dir))
            raise UserError(
                f"cannot fetch {source} ({reason(error)}); missing {missing}: put these there by hand"
            ) from error
        print(f"{folder} fetched from {source}")


if __name__ == "__main__":
    run_as_script(main)
