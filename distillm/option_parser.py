"""Parse a command line strictly into dataclasses of options, and show their help."""

import argparse
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from transformers.hf_argparser import string_to_bool

from data_utils.errors import UserError
from distillm.options import flag

VALUES = {int: "INT", float: "NUMBER", str: "TEXT", bool: "true|false"}  # as help shows them

Groups = TypeVar("Groups")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each option once, as this project writes it, with the type of its value."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return f"{action.option_strings[-1]} {self._format_args(action, str(action.metavar))}".strip()


class ArgumentParser(argparse.ArgumentParser):
    """A parser of several dataclasses of options, strict: no abbreviations, and an error is one line."""

    def __init__(self, groups: Sequence[type], description: str, unread: Collection[str]):
        super().__init__(
            usage="%(prog)s --option value ...",
            description=description,
            allow_abbrev=False,
            formatter_class=HelpFormatter,
        )
        for kind in groups:
            title = re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__.removesuffix("Arguments")).lower()
            group = self if names_of(kind) <= {*unread} else self.add_argument_group(title, kind.__doc__)
            hints = get_type_hints(kind)
            for entry in fields(kind):
                add_option(group, entry, hints[entry.name], entry.name not in unread)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


def add_option(group: Any, entry: Field, hint: Any, shown: bool) -> None:
    """Add a dataclass's field to a parser, with hyphens and with underscores; help shows it if the script reads it."""
    default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
    (kind,) = {*(get_args(hint) or [hint])} - {type(None)}  # the type of one word, also of `int | None` and `list[int]`
    choices = entry.metadata["choices"]
    words: dict[str, Any] = {"type": kind, "choices": choices, "metavar": VALUES[kind]}
    if choices is not None:
        words["metavar"] = "{" + ",".join(choices) + "}"
    if kind is bool:
        words |= {"type": string_to_bool, "nargs": "?", "const": True}
    if get_origin(hint) is list:
        words |= {"nargs": "+"}
    text = f"{entry.metadata['help']} ({described_default(default)})"
    names = sorted({f"--{entry.name}", flag(entry.name)}, reverse=True)  # the hyphens come last
    help = text.replace("%", "%%") if shown else argparse.SUPPRESS
    group.add_argument(*names, dest=entry.name, default=default, help=help, **words)


def described_default(default: Any) -> str:
    """Return the default of an option as users would write it."""
    if default == "":
        return "required"
    if default is None or default == []:
        return "default: none"
    if isinstance(default, bool):
        return f"default: {str(default).lower()}"
    return f"default: {' '.join(map(str, default)) if isinstance(default, list) else default}"


def parse_arguments(
    kind: type[Groups], description: str, unread: Collection[str] = frozenset()
) -> tuple[Groups, set[str]]:
    """Return the arguments of the command line and the names of the options given on it.

    `kind` is a dataclass whose fields are dataclasses of options. `unread` are options that the script accepts but does
    not read: a run passes the same options to all its scripts.
    """
    groups = get_type_hints(kind)
    parser = ArgumentParser([*groups.values()], description, unread)
    found, unknown = parser.parse_known_args()
    if unknown:
        parser.error(f"unknown option: {' '.join(unknown)}")
    parts = {
        name: group(**{entry.name: getattr(found, entry.name) for entry in fields(group)})
        for name, group in groups.items()
    }
    return kind(**parts), given_options(sys.argv[1:])


def given_options(command_line: Sequence[str]) -> set[str]:
    """Return the field names of the options that a command line names."""
    words = (word.split("=", 1)[0] for word in command_line if word.startswith("--"))
    return {word[2:].replace("-", "_") for word in words}


def names_of(*groups: type) -> set[str]:
    """Return the names of all options of several dataclasses."""
    return {entry.name for group in groups for entry in fields(group)}


def options_of(arguments: Any, unread: Collection[str] = frozenset()) -> dict[str, Any]:
    """Return all options of an object of several groups in one dict, except the `unread` ones."""
    every = {name: value for group in vars(arguments).values() for name, value in vars(group).items()}
    return {name: value for name, value in every.items() if name not in unread}


def declared(kind: type) -> dict[str, Any]:
    """Return what each option of a dataclass of several groups declares, by name (`distillm.options.option`)."""
    return {entry.name: entry.metadata for group in get_type_hints(kind).values() for entry in fields(group)}


def free_options(kind: type) -> set[str]:
    """Return the options that may differ between a run and its continuation."""
    return {name for name, metadata in declared(kind).items() if metadata["free"]}
