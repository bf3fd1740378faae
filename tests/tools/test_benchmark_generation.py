"""Guarantees of tools/benchmark_generation.py."""

import re

from tools import benchmark_generation as tool


def test_both_forms_give_the_same_responses_of_the_wanted_lengths_and_are_timed(run):
    out = run(tool, "--layers", 2, "--width", 64, "--vocabulary", 100, "--max-length", 48, "--pairs", 20)
    assert out.startswith("0 of 16 responses differ")
    assert re.search(r"^generation: plain [\d.]+ s, ours [\d.]+ s; plain / ours [\d.]+$", out, re.MULTILINE)
    assert re.search(r"^ROUGE-L, ms per pair: rouge-score [\d.]+, ours [\d.]+; \d+ times faster$", out, re.MULTILINE)
