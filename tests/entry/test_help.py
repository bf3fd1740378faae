"""`--help` says what an option is, and what it is when it is not given."""

import re

import pytest

import evaluate
import finetune
import train_velocity_field
from distillm.arguments import Arguments
from distillm.option_parser import declared
from distillm.options import flag
from tools import generate_responses

SHOWN = {
    finetune: declared(Arguments).keys() - finetune.UNREAD,
    train_velocity_field: declared(Arguments).keys() - train_velocity_field.UNREAD,
    evaluate: declared(evaluate.Arguments).keys(),
    generate_responses: declared(generate_responses.Arguments).keys(),
}


@pytest.fixture
def help_of(run):
    return lambda script: run(script.main, ["--help"]).out


def options_of(text):
    """Return each option's first line and the words that follow it."""
    listed = text[text.index("\noptions:") :]
    return {name: " ".join(rest.split()) for name, rest in re.findall(r"^  (--\S+)(.*(?:\n {6,}.*)*)", listed, re.M)}


@pytest.mark.parametrize("script", SHOWN, ids=lambda script: script.__name__)
def test_help_shows_every_option_that_is_read_with_type_default_and_choices_and_no_other(script, help_of):
    shown = options_of(help_of(script))
    assert shown.keys() == {flag(name) for name in SHOWN[script]} | {"--help"}
    for name, text in shown.items():
        typed = re.match(r"(\[true\|false\]|\{\S+\}|INT|NUMBER|TEXT)", text)
        assert name == "--help" or (typed and re.search(r"\((default: .+|required)\)", text)), f"{name} {text}"
    assert "{auto,fp32,bf16,fp16}" in shown["--precision"] and shown["--precision"].endswith("(default: auto)")


def test_help_groups_the_options_by_concern(help_of):
    text = help_of(finetune)
    titles = re.findall(r"^(\w[\w ]+):$", text, re.M)
    concerns = "model, data, training, decoding, distillation, on policy, pair, layer pair, contra, logging"
    assert titles[1:] == concerns.split(", ")
    assert text.index("\ncontra:") < text.index("--velocity-field-path") < text.index("\nlogging:")


def test_bug_help_offered_no_do_sample_with_the_text_of_its_opposite(help_of, refused, world, tmp_path):
    assert "no_do_sample" not in help_of(finetune) and "no-do-sample" not in help_of(evaluate)
    assert "sample; false: greedy decoding (default: true)" in options_of(help_of(evaluate))["--do-sample"]
    save = tmp_path / "run"
    refused(finetune.main, world.training(save, "--no-do-sample"), save, "unknown option: --no-do-sample")
