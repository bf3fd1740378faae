"""From a method to the terms of its loss: the one place that maps names to objects."""

from distillm.arguments import DistillationArguments, PairArguments
from distillm.distillm2 import ContrastiveTerm
from distillm.divergences import select_divergence
from distillm.fdd import FeatureDynamicsTerm
from distillm.method import Method
from distillm.models.split_model import SplitModel
from distillm.objective import CrossEntropyTerm, DivergenceTerm, Term


def make_terms(
    method: Method,
    arguments: DistillationArguments,
    pair_arguments: PairArguments,
    student: SplitModel,
    teacher: SplitModel | None,
    corpus: bool,
) -> list[Term]:
    """Return the terms of the loss (docs/methods.md), except those of add-ons; a term of weight 0 is left out."""
    ratio = arguments.kd_ratio if method.needs_teacher else 0.0
    terms: list[Term] = []
    if ratio < 1:
        terms.append(CrossEntropyTerm("cross_entropy", 1 - ratio, "instruction", student))
    if method.divergence is not None and ratio > 0:
        assert teacher is not None
        divergence = select_divergence(method.divergence, arguments.skew_alpha)
        terms.append(DivergenceTerm(method.divergence, ratio, divergence, student, teacher))
    if method.pairs is not None:
        assert teacher is not None
        terms.append(ContrastiveTerm(ratio, method.pairs, pair_arguments, student, teacher))
    if method.fdd and ratio > 0:
        assert teacher is not None
        terms.append(FeatureDynamicsTerm(ratio, student, teacher))
    if corpus and arguments.lm_coef > 0:
        terms.append(CrossEntropyTerm("corpus", arguments.lm_coef, "corpus", student))
    return terms
