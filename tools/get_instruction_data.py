"""Fetch the instruction data from the Hugging Face hub: Dolly to train on, and the five test sets.

    python3 tools/get_instruction_data.py

writes data/dolly/{raw,train,dev,valid}.jsonl, data/self-inst/valid.jsonl, data/vicuna/valid.jsonl,
data/sinst/11_/valid.jsonl and data/uinst/11_/valid.jsonl. `--dolly`, `--self-inst`, `--vicuna`, `--sinst` and
`--uinst` name other data sets on the hub. Existing files are left alone. The data are those of DSKD
(Zhang et al., 2024).
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

from data_utils.files import atomic_file
from tools.command_line import ToolParser
from tools.hub import first_line, quiet_hub


@dataclass(frozen=True)
class InstructionSet:
    """Where a set comes from and the files of its folder; `raw.jsonl` may stand in for train and dev."""

    source: str
    files: tuple[str, ...]

    def missing(self, folder: Path) -> list[Path]:
        """Return the files that training or evaluation would not find."""
        replaced = ("train.jsonl", "dev.jsonl", "raw.jsonl") if (folder / "raw.jsonl").exists() else ("raw.jsonl",)
        return [folder / name for name in self.files if name not in replaced and not (folder / name).exists()]


INSTRUCTION_SETS = {
    # folder and option name: hub id, files
    "dolly": InstructionSet("MiniLLM/dolly", ("raw.jsonl", "train.jsonl", "dev.jsonl", "valid.jsonl")),
    "self-inst": InstructionSet("MiniLLM/self-inst", ("valid.jsonl",)),
    "vicuna": InstructionSet("MiniLLM/Vicuna", ("valid.jsonl",)),
    "sinst": InstructionSet("MiniLLM/sinst", ("11_/valid.jsonl",)),
    "uinst": InstructionSet("MiniLLM/uinst", ("11_/valid.jsonl",)),
}


def download(source: str, files: tuple[str, ...]) -> Path:
    """Fetch these files of a hub data set, in whatever subfolder they lie, into the hub's cache: its folder there."""
    from huggingface_hub import snapshot_download

    patterns = [pattern for name in files for pattern in (name, f"*/{name}")]
    return Path(snapshot_download(source, repo_type="dataset", allow_patterns=patterns))


def fetch(data_set: InstructionSet, folder: Path) -> None:
    """Put the missing files of a set into its folder, each complete or absent."""
    snapshot = download(data_set.source, data_set.files)
    for name in data_set.files:
        found = sorted(snapshot.rglob(name), key=lambda path: (len(path.parts), path))
        if found and not (folder / name).exists():
            with atomic_file(folder / name) as temporary:
                shutil.copyfile(found[0], temporary)
    if data_set.missing(folder):
        raise FileNotFoundError(f"it has no {', '.join(path.name for path in data_set.missing(folder))}")


def main() -> None:
    parser = ToolParser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of the sets' folders")
    for name, data_set in INSTRUCTION_SETS.items():
        parser.add_argument(f"--{name}", default=data_set.source, help="data set id on the hub")
    options = parser.parse_args()
    sources = {name.replace("_", "-"): value for name, value in vars(options).items()}
    sets = {
        options.data_dir / name: InstructionSet(sources[name], data_set.files)
        for name, data_set in INSTRUCTION_SETS.items()
    }
    quiet_hub()
    for folder, data_set in sets.items():
        if not data_set.missing(folder):
            print(f"{folder} stands already")
            continue
        try:
            fetch(data_set, folder)
        except OSError as error:
            missing = ", ".join(str(path) for folder, data_set in sets.items() for path in data_set.missing(folder))
            raise UserError(
                f"cannot fetch {data_set.source} ({first_line(error)}); missing {missing}: put these there by hand"
            ) from error
        print(f"{folder} fetched from {data_set.source}")


if __name__ == "__main__":
    run_as_script(main)
