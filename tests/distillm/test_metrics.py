import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from distillm.metrics import compute_metrics, rouge_l


def longest_common_subsequence(a, b):
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return longest_common_subsequence(a[:-1], b[:-1]) + 1
    return max(longest_common_subsequence(a[:-1], b), longest_common_subsequence(a, b[:-1]))


def f_measure(prediction, reference):
    a, b = prediction.split(), reference.split()
    return 2 * longest_common_subsequence(a, b) / (len(a) + len(b))


def test_rouge_is_the_mean_of_the_best_f_measure_of_each_row():
    predictions = ["a red fox ran far", "one two six", "x y"]
    references = [["the red fox ran", "a red far fox"], ["six two one"], ["z"]]
    expected = [max(f_measure(p, r) for r in rs) for p, rs in zip(predictions, references, strict=True)]
    metrics = compute_metrics(predictions, references)
    assert metrics["rougeL"] == pytest.approx(100 * sum(expected) / 3)
    assert metrics["exact_match"] == 0


def test_rouge_has_the_values_of_rouge_score():
    scorer, draw = RougeScorer(["rougeL"], use_stemmer=True), random.Random(0)
    words = ["walks", "walked", "The", "cat's", "don't", "généralités", "42", "3.5", "-", "_x_", "漢字", "running"]
    for _ in range(300):
        prediction, reference = (" ".join(draw.choices(words, k=draw.randrange(40))) for _ in range(2))
        assert rouge_l(prediction, reference) == scorer.score(reference, prediction)["rougeL"].fmeasure


def test_rouge_stems_words():
    assert compute_metrics(["she walked"], [["she walking"]]) == {"rougeL": 100.0, "exact_match": 0.0}


def test_exact_match_ignores_case_punctuation_and_spacing():
    predictions = ["  The\n Answer, is:  42! ", "no", "dont"]
    references = [["the answer is 42"], ["yes", "No."], ["do n't"]]
    assert compute_metrics(predictions, references)["exact_match"] == pytest.approx(200 / 3)


def test_perfect_answers_score_100_and_the_order_of_references_does_not_matter():
    assert compute_metrics(["a b c"], [["x", "a b c"]]) == {"rougeL": 100.0, "exact_match": 100.0}
    assert compute_metrics(["a b c"], [["a b c", "x"]]) == {"rougeL": 100.0, "exact_match": 100.0}


def test_empty_and_non_latin_texts_are_scored():
    predictions = ["", "", "Ünïcödé 漢字 🙂", "?!"]
    references = [["a b"], [""], ["ünïcödé 漢字 🙂"], ["漢"]]
    metrics = compute_metrics(predictions, references)
    assert metrics["exact_match"] == 50.0
    assert 0 <= metrics["rougeL"] <= 100


@pytest.mark.parametrize(("predictions", "references"), [(["a"], [["a"], ["b"]]), (["a", "b"], [["a"]]), ([], [["a"]])])
def test_unequal_counts_are_refused(predictions, references):
    with pytest.raises(ValueError, match=f"{len(predictions)} predictions.*{len(references)} rows"):
        compute_metrics(predictions, references)


def test_empty_lists_and_bare_texts_as_references_are_refused():
    with pytest.raises(ValueError, match="no predictions"):
        compute_metrics([], [])
    with pytest.raises(ValueError, match="row 1"):
        compute_metrics(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="row 0"):
        compute_metrics(["a"], ["a"])
