"""ROUGE-L and exact match of generated responses."""

import string
from collections.abc import Sequence
from functools import lru_cache

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class _CachedTokenizer(Tokenizer):
    """rouge_score's own tokenizer; a response is compared with many references, and those with many responses."""

    def tokenize(self, text: str) -> list[str]:
        return _tokens(text)


_TOKENIZER = DefaultTokenizer(use_stemmer=True)
_tokens = lru_cache(maxsize=100_000)(_TOKENIZER.tokenize)
_SCORER = RougeScorer(["rougeL"], tokenizer=_CachedTokenizer())


def normalize(text: str) -> str:
    """Return the text in lower case, without punctuation, with every run of white space as one space."""
    return " ".join(text.lower().translate(_WITHOUT_PUNCTUATION).split())


def score_rows(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """Return each row's `rougeL` (F-measure, stemmed) and `exact_match` with its best reference, 0-100.

    predictions: one text a row; references: one non-empty list of texts a row
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions cannot be compared with {len(references)} rows of references")
    for row, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"the references of row {row} must be a non-empty list of texts, not {texts!r}")
    return [
        {
            "rougeL": 100 * max(_SCORER.score(text, prediction)["rougeL"].fmeasure for text in texts),
            "exact_match": 100.0 * (normalize(prediction) in map(normalize, texts)),
        }
        for prediction, texts in zip(predictions, references, strict=True)
    ]


def mean_scores(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of every score over the rows."""
    if not rows:
        raise ValueError("there are no predictions to compare with references")
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def compute_metrics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the means of `score_rows`: `rougeL` and `exact_match`, 0-100."""
    return mean_scores(score_rows(predictions, references))
