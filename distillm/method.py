"""The method string of `--type`, parsed once into a typed object that says what the method needs."""

from dataclasses import dataclass

from data_utils.errors import UserError

DIVERGENCE_NAMES = {  # as written by users -> canonical
    "kd": "fkl",
    "fkl": "fkl",
    "rkl": "rkl",
    "jsd": "jsd",
    "tvd": "tvd",
    "sfkl": "sfkl",
    "srkl": "srkl",
}
PAIR_VERSIONS = ("v1", "v2")

VALID_METHODS = (
    f"lm; <d>, adaptive-<d> or mixed-<d> with <d> one of {', '.join(DIVERGENCE_NAMES)}; "
    "any of these except lm with -fdd; distillm2-v1, distillm2-v2; any of these except lm with -contra"
)


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    divergence: canonical name of the output loss; None for `lm` and for DistiLLM-2, which has its own
    sampling:   where a step's rows come from: `dataset`, `adaptive` (DistiLLM) or `mixed` (ImitKD, GKD)
    fdd:        feature dynamics distillation is added
    pairs:      version of the DistiLLM-2 objective on response pairs, `v1` or `v2`; else None
    contra:     trajectory alignment is added
    """

    divergence: str | None = None
    sampling: str = "dataset"
    fdd: bool = False
    pairs: str | None = None
    contra: bool = False

    @classmethod
    def parse(cls, text: str) -> "Method":
        """Parse strictly: an unknown or contradictory string is an error that lists the valid ones."""
        parts = text.split("-")
        additions = _split_additions(parts)
        if parts == ["lm"] and not additions:
            return cls()
        if len(parts) == 2 and parts[0] == "distillm2" and parts[1] in PAIR_VERSIONS and "fdd" not in additions:
            return cls(pairs=parts[1], contra="contra" in additions)
        sampling = parts.pop(0) if parts[0] in ("adaptive", "mixed") else "dataset"
        if len(parts) == 1 and parts[0] in DIVERGENCE_NAMES:
            return cls(DIVERGENCE_NAMES[parts[0]], sampling, "fdd" in additions, None, "contra" in additions)
        raise UserError(f"unknown method type {text!r}; valid are {VALID_METHODS}")

    def __str__(self) -> str:
        """Return the canonical string, which parses back to the same method."""
        parts = [self.sampling] if self.sampling != "dataset" else []
        parts.append(f"distillm2-{self.pairs}" if self.pairs else self.divergence or "lm")
        parts += ["fdd"] * self.fdd + ["contra"] * self.contra
        return "-".join(parts)

    @property
    def needs_teacher(self) -> bool:
        """Everything except supervised fine-tuning learns from a teacher."""
        return self != Method()

    @property
    def needs_hidden_states(self) -> bool:
        """Hidden states of the scheduled layers enter the loss."""
        return self.fdd or self.contra

    @property
    def needs_generation(self) -> bool:
        """The student generates during training: rows of a step, or the rejected responses after an epoch."""
        return self.sampling != "dataset" or self.needs_pairs

    @property
    def needs_pairs(self) -> bool:
        """The training set consists of pairs of a teacher's and a student's response."""
        return self.pairs is not None


def _split_additions(parts: list[str]) -> set[str]:
    """Take trailing `fdd` and `contra`, each at most once and in either order, off a method's parts."""
    additions: set[str] = set()
    while len(parts) > 1 and parts[-1] in {"fdd", "contra"} - additions:
        additions.add(parts.pop())
    return additions
