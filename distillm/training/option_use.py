"""Which options a method reads: a given option that it ignores is a warning, a missing one an error."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_utils.errors import UserError
from distillm.arguments import (
    Arguments,
    ContraArguments,
    LayerPairArguments,
    PairArguments,
    VelocityFieldArguments,
)
from distillm.method import Method
from distillm.option_parser import declared, names_of, options_of
from distillm.options import flag
from distillm.run.folder import STATE
from distillm.run.identity import INPUTS


def ignored_by(method: Method) -> set[str]:
    """Return the options that a method does not read."""
    ignored = {name for name, metadata in declared(Arguments).items() if not metadata["read_by"](method)}
    if not method.needs_pairs:
        ignored |= names_of(PairArguments)
    if not method.needs_hidden_states:
        ignored |= names_of(LayerPairArguments)
    if not method.contra:
        ignored |= names_of(ContraArguments)
    return ignored | names_of(VelocityFieldArguments)  # of a new field; a trained one has its own shape


def check_option_use(method: Method, arguments: Arguments, given: set[str]) -> None:
    """Warn about given options that the method ignores; raise for options that it lacks."""
    typed, ignored, training = arguments.distillation.type, ignored_by(method), arguments.training
    warn_of_ignored(f"--type {typed}", given & ignored)
    options = options_of(arguments)
    for name in ("teacher_model_path", "velocity_field_path"):
        if name not in ignored and options[name] is None:
            raise UserError(f"--type {typed} needs {flag(name)}")
    if method.sampling == "adaptive" and not training.do_valid:
        raise UserError(f"--type {typed} needs --do-valid: the validation loss moves its threshold")
    if method.needs_pairs and training.do_valid and arguments.pairs.gt_data_dir is None:
        raise UserError(f"--type {typed} validates on reference data: give --gt-data-dir, a processed store")
    if method.needs_pairs and arguments.distillation.kd_ratio != 1.0:
        raise UserError(
            f"--type {typed} has no cross-entropy to mix with: "
            f"--kd-ratio must be 1, not {arguments.distillation.kd_ratio}"
        )
    if not (training.do_train or training.do_valid):
        raise UserError("nothing to do: give --do-train, --do-valid or both")


def check_save_folder(options: Mapping[str, Any]) -> None:
    """Raise if the run would write over something that it reads."""
    save = Path(options["save"]).resolve()
    for name in filter(options.get, INPUTS):
        place = Path(options[name]).resolve()
        if place == save or any(place.is_relative_to(save / state) for state in STATE):
            raise UserError(f"--save {options['save']} is also {flag(name)}; choose another folder for the result")


def warn_of_ignored(who: str, names: Iterable[str]) -> None:
    """Name the given options that have no effect; the user may have meant another method."""
    if names := sorted(names):
        print(f"warning: {who} ignores {', '.join(map(flag, names))}", file=sys.stderr)
