"""What docs/differences.md says of options and tests is so."""

import re
from dataclasses import fields

import pytest

from distillm.arguments import TRAINING_OPTIONS, DecodingArguments, flag
from evaluate import EvaluationArguments
from tests.scripts.commands import REPOSITORY

PAGE = (REPOSITORY / "docs" / "differences.md").read_text(encoding="utf-8")
REFUSED = re.findall(r"^\| (training|evaluation) \| (.*) \| (.*) \|$", PAGE, flags=re.MULTILINE)


def options_of(*parts: type) -> set[str]:
    return {flag(entry.name) for part in parts for entry in fields(part)}


OPTIONS = {"training": options_of(*TRAINING_OPTIONS), "evaluation": options_of(EvaluationArguments, DecodingArguments)}


def named_options(cell: str) -> set[str]:
    return set(re.findall(r"`(--[a-z-]+)`", cell))


@pytest.mark.parametrize(("script", "published", "ours"), REFUSED, ids=lambda cell: cell[:30])
def test_a_published_option_said_to_be_refused_is_unknown_and_ours_is_known(script, published, ours):
    assert named_options(published).isdisjoint(OPTIONS[script])
    assert named_options(ours) <= OPTIONS[script]


def test_the_refused_options_are_found_on_the_page():
    assert len(REFUSED) > 10 and all(re.search("`--", published) for _, published, _ in REFUSED)
