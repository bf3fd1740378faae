"""ROUGE-L and exact match of generated responses."""

import string
from collections.abc import Sequence
from functools import lru_cache

from nltk.stem.porter import PorterStemmer
from rapidfuzz.distance import LCSseq
from rouge_score.scoring import fmeasure
from rouge_score.tokenize import tokenize

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class _Stemmer:
    """Porter's stemmer, which takes longest of all, asked once per word."""

    stem = staticmethod(lru_cache(maxsize=1_000_000)(PorterStemmer().stem))


@lru_cache(maxsize=100_000)  # each text is compared with many others
def _tokens(text: str) -> list[str]:
    return tokenize(text, _Stemmer)


def rouge_l(prediction: str, reference: str) -> float:
    """Return the F-measure of the longest common subsequence, 0-1: rouge_score's rougeL with its stemmer, faster."""
    predicted, wanted = _tokens(prediction), _tokens(reference)
    if not predicted or not wanted:
        return 0.0
    common = LCSseq.similarity(predicted, wanted)
    return fmeasure(common / len(predicted), common / len(wanted))


def normalize(text: str) -> str:
    """Return the text in lower case, without punctuation, with each run of white space replaced by one space."""
    return " ".join(text.lower().translate(_WITHOUT_PUNCTUATION).split())


def score_rows(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """Return each row's `rougeL` (F-measure, stemmed) and `exact_match` against its best reference, 0-100.

    predictions: one text per row; references: one non-empty list of texts per row
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions cannot be compared with {len(references)} rows of references")
    for row, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"the references of row {row} must be a non-empty list of texts, not {texts!r}")
    return [
        {
            "rougeL": 100 * max(rouge_l(prediction, text) for text in texts),
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
