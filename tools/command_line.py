"""The command lines of the tools: help is the module's docstring, errors are one line, nobody's files are replaced."""

import argparse
from pathlib import Path
from typing import NoReturn

from data_utils.errors import UserError


class ToolParser(argparse.ArgumentParser):
    """An argument parser that knows no abbreviations and says what is wrong in one line."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the options)")


def require_replaceable(option: str, folder: Path, is_earlier_output: bool, what: str) -> None:
    """Raise if writing a folder would remove anything but an earlier output."""
    if folder.is_file() or (folder.exists() and any(folder.iterdir()) and not is_earlier_output):
        raise UserError(f"{option} {folder} holds something other than {what}; choose another folder, or remove it")


def named_path(text: str) -> tuple[str, str]:
    """Parse `Name=path`, as in `--row "Teacher=results/gpt2/eval_main/sft"`."""
    name, separator, path = text.partition("=")
    if not (name.strip() and separator and path.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form Name=path")
    return name.strip(), path.strip()
