"""The tools' command lines: help is the module's docstring, errors are one line, only a tool's output is replaced."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from data_utils.errors import UserError


class ToolParser(argparse.ArgumentParser):
    """An argument parser that allows no abbreviations and says what is wrong in one line."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the options)")


def positive(text: str) -> int:
    """Parse a whole number from 1 to the largest length that a sequence can have."""
    value = int(text)
    if not 1 <= value <= sys.maxsize:
        raise argparse.ArgumentTypeError(f"must be at least 1, and fit into 64 bits, but is {value}")
    return value


def require_replaceable(option: str, folder: Path, is_earlier_output: bool, what: str) -> None:
    """Raise if writing a folder would remove anything except an earlier output."""
    if folder.is_file() or (folder.exists() and any(folder.iterdir()) and not is_earlier_output):
        raise UserError(f"{option} {folder} holds something other than {what}; choose another folder, or remove it")


def named_folders(option: str, given: Sequence[Sequence[str]]) -> dict[str, list[Path]]:
    """Parse what a repeated option holds, each time `NAME=FOLDER [FOLDER ...]`."""
    folders: dict[str, list[Path]] = {}
    for first, *others in given:
        name, separator, path = (part.strip() for part in first.partition("="))
        if not (name and separator and path):
            raise UserError(f"{option} {first!r} is not of the form NAME=FOLDER")
        if name in folders:
            raise UserError(f"{option} names {name!r} twice; put all folders of {name} after one {option}")
        folders[name] = [Path(text) for text in (path, *others)]
    return folders
