"""What docs/differences.md says about options is true."""

import re

import pytest

import evaluate
from distillm.arguments import Arguments
from distillm.option_parser import declared
from distillm.options import flag
from tests.scripts.commands import REPOSITORY

PAGE = (REPOSITORY / "docs" / "differences.md").read_text(encoding="utf-8")
REFUSED = re.findall(r"^\| (training|evaluation) \| (.*) \| (.*) \|$", PAGE, flags=re.MULTILINE)


OPTIONS = {
    "training": set(map(flag, declared(Arguments))),
    "evaluation": set(map(flag, declared(evaluate.Arguments))),
}


def named_options(cell: str) -> set[str]:
    return set(re.findall(r"`(--[a-z-]+)`", cell))


@pytest.mark.parametrize(("script", "published", "ours"), REFUSED, ids=lambda cell: cell[:30])
def test_a_published_option_said_to_be_refused_is_unknown_and_ours_is_known(script, published, ours):
    assert named_options(published).isdisjoint(OPTIONS[script])
    assert named_options(ours) <= OPTIONS[script]


def test_the_refused_options_are_found_on_the_page():
    assert len(REFUSED) > 10 and all(re.search("`--", published) for _, published, _ in REFUSED)
