"""Which options a method reads: a given option that it ignores is a warning, a missing one an error."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_utils.errors import UserError
from distillm.arguments import flag
from distillm.method import Method
from distillm.run.folder import STATE
from distillm.run.identity import INPUTS


def readers(method: Method) -> dict[str, bool]:
    """Return, for every option that only some methods read, whether this one does."""
    on_policy = method.sampling != "dataset"
    adaptive = method.sampling == "adaptive"
    uses = {
        "teacher_model_path": method.needs_teacher,
        "teacher_peft_path": method.needs_teacher,
        "kd_ratio": method.needs_teacher,
        "skew_alpha": method.divergence in ("sfkl", "srkl"),
        "mixed_alpha": method.sampling == "mixed",
        "init_threshold": adaptive,
        "loss_eps": adaptive,
        "replay_ratio": adaptive,
        "capacity": on_policy,
        "num_distill_layers": method.needs_hidden_states,
    }
    pairs = ["gt_data_dir", "gradual_beta", "base_alpha_1", "base_alpha_2", "generate_sgo_interval"]
    contra = [
        "velocity_field_path",
        "projector_path",
        "velocity_epochs",
        "velocity_update_interval",
        "curriculum",
        "contra_weight",
    ]
    shape = ["velocity_d_model", "velocity_n_layers"]  # of a new field; a trained one has its own
    uses |= dict.fromkeys(shape, False)
    return uses | dict.fromkeys(pairs, method.needs_pairs) | dict.fromkeys(contra, method.contra)


def check_option_use(method: Method, options: Mapping[str, Any], given: set[str]) -> None:
    """Warn of given options that the method ignores; raise for options it lacks."""
    reads, typed = readers(method), options["type"]
    warn_of_ignored(f"--type {typed}", [name for name, read in reads.items() if name in given and not read])
    for name in ("teacher_model_path", "velocity_field_path"):
        if reads[name] and options[name] is None:
            raise UserError(f"--type {typed} needs {flag(name)}")
    if method.sampling == "adaptive" and not options["do_valid"]:
        raise UserError(f"--type {typed} needs --do-valid: the validation loss moves its threshold")
    if method.needs_pairs and options["do_valid"] and options["gt_data_dir"] is None:
        raise UserError(f"--type {typed} validates on reference data: give --gt-data-dir, a processed store")
    if method.needs_pairs and options["kd_ratio"] != 1.0:
        raise UserError(
            f"--type {typed} has no cross-entropy to mix with: --kd-ratio must be 1, not {options['kd_ratio']}"
        )
    if not (options["do_train"] or options["do_valid"]):
        raise UserError("nothing to do: give --do-train, --do-valid or both")


def check_save_folder(options: Mapping[str, Any]) -> None:
    """Raise if the run would write over something that it reads."""
    save = Path(options["save"]).resolve()
    for name in filter(options.get, INPUTS):
        place = Path(options[name]).resolve()
        if place == save or any(place.is_relative_to(save / state) for state in STATE):
            raise UserError(f"--save {options['save']} is also {flag(name)}; choose another folder for the result")


def warn_of_ignored(who: str, names: Sequence[str]) -> None:
    """Name the given options that have no effect; the user may have meant another method."""
    if names:
        print(f"warning: {who} ignores {', '.join(map(flag, names))}", file=sys.stderr)
