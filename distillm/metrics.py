"""ROUGE-L and exact match of generated responses."""

import string
from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Return the text in lower case, without punctuation, with every run of white space as one space."""
    return " ".join(text.lower().translate(_WITHOUT_PUNCTUATION).split())


def compute_metrics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return `rougeL` (F-measure, stemmed) and `exact_match`, 0-100: the mean of each row's best reference.

    predictions: one text a row; references: one non-empty list of texts a row
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions cannot be compared with {len(references)} rows of references")
    if not predictions:
        raise ValueError("there are no predictions to compare with references")
    for row, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"the references of row {row} must be a non-empty list of texts, not {texts!r}")
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    rouge, exact = 0.0, 0
    for prediction, texts in zip(predictions, references, strict=True):
        rouge += max(scorer.score(text, prediction)["rougeL"].fmeasure for text in texts)
        exact += normalize(prediction) in map(normalize, texts)
    return {"rougeL": 100 * rouge / len(predictions), "exact_match": 100 * exact / len(predictions)}
