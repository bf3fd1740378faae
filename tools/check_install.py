"""Check that the packages of requirements.txt are installed, and print their versions and the device.

python3 tools/check_install.py             versions, Python, device
python3 tools/check_install.py --quiet     only what is missing, without importing anything
"""

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

from tools.command_line import ToolParser

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"


def required_packages() -> list[str]:
    """Return the packages that a run needs; those of tests and lint come last in requirements.txt."""
    needed, _, _ = REQUIREMENTS.read_text(encoding="utf-8").partition("# tests")
    return re.findall(r"^([\w-]+)==", needed, re.MULTILINE)


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_device() -> str:
    """Return the accelerator's name, or the number of CPU threads torch will use."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)} (CUDA {torch.version.cuda})"
    return f"CPU, {torch.get_num_threads()} threads"


def main() -> None:
    parser = ToolParser(__doc__)
    parser.add_argument("--quiet", action="store_true", help="only what is missing, without imports")
    arguments = parser.parse_args()
    versions = {package: installed_version(package) for package in required_packages()}
    missing = [package for package, found in versions.items() if found is None]
    if missing:
        raise UserError(f"{sys.executable} lacks {', '.join(missing)}: run 'bash install.sh'")
    if not arguments.quiet:
        print(f"python {platform.python_version()} at {sys.executable}")
        print(", ".join(f"{package} {found}" for package, found in versions.items()))
        print(f"device: {describe_device()}")


if __name__ == "__main__":
    run_as_script(main)
