"""What can be told without the network: from the words of a text, and from its length alone.

Both are cross-fitted on the folds of the reading that they stand beside, so that the difference can be paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from .detect import quick_auroc
from .resample import group_folds, relabelled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PENALTIES = (0.1, 1.0, 10.0)  # scikit-learn's C, chosen inside the training groups
NOISE_DRAWS = 8  # relabellings from which the share of noise in the fits is taken
METHOD = "bag of words (1- and 2-grams, lower case, no punctuation; logistic, C by inner cross-validation)"


Features = Callable[[Ints, Ints], tuple[Any, Any]]  # of training rows and of new rows, by index


def word_scores(
    texts: Sequence[str], labels: Ints, groups: Ints, folds: Ints, classes: int, generator: np.random.Generator
) -> tuple[Floats, float]:
    """Cross-fitted scores, (rows,) for two classes, (rows, classes) for more, and their noise share for `detect.area`."""

    def features(train: Ints, new: Ints) -> tuple[Any, Any]:
        vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"(?u)\b\w+\b")
        fitted = vectorizer.fit_transform([texts[i] for i in train])
        return fitted, vectorizer.transform([texts[i] for i in new])

    return _cross_fitted(features, labels, groups, folds, classes, generator)


def length_scores(
    lengths: Floats, labels: Ints, groups: Ints, folds: Ints, classes: int, generator: np.random.Generator
) -> tuple[Floats, float]:
    """Cross-fitted scores from the logarithms of lengths (rows, k), such as characters and words; and their noise share."""
    logs = np.log1p(lengths)

    def features(train: Ints, new: Ints) -> tuple[Floats, Floats]:
        centre, spread = logs[train].mean(0), logs[train].std(0) + 1e-12
        return (logs[train] - centre) / spread, (logs[new] - centre) / spread

    return _cross_fitted(features, labels, groups, folds, classes, generator)


def _cross_fitted(
    features: Features, labels: Ints, groups: Ints, folds: Ints, classes: int, generator: np.random.Generator
) -> tuple[Floats, float]:
    result = np.zeros((len(labels), 1 if classes == 2 else classes))
    fake = relabelled(labels, groups, NOISE_DRAWS, generator)
    shares = []
    for fold in np.unique(folds):
        train, new = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        penalty = _choose(features, labels, train, groups, generator)
        fitted, unseen = features(train, new)
        for k in range(result.shape[1]):
            code = 1 if classes == 2 else k
            result[new, k] = _scores(fitted, labels[train] == code, unseen, penalty)
            usable = [draw for draw in fake[:, train] == code if 0 < draw.sum() < len(train)]
            noise = [_within(_scores(fitted, draw, unseen, penalty), labels[new]) for draw in usable]
            true = _within(result[new, k], labels[new])
            shares.append(min(1.0, float(np.mean(noise)) / max(true, 1e-300)) if noise else 1.0)
    return (result[:, 0] if classes == 2 else result), float(np.mean(shares))


def _within(scores: Floats, labels: Ints) -> float:
    """Sum of squares within classes."""
    return sum(float(((part := scores[labels == code]) - part.mean()) @ (part - part.mean())) for code in np.unique(labels))


def _choose(features: Features, labels: Ints, train: Ints, groups: Ints, generator: np.random.Generator) -> float:
    """The penalty with the best AUROC over inner folds, classes averaged; of equals the stronger."""
    inner = group_folds(labels[train], groups[train], 4, generator)
    found = np.zeros(len(PENALTIES))
    for fold in np.unique(inner):
        fitted, unseen = features(train[inner != fold], train[inner == fold])
        for k in range(1, int(labels.max()) + 1):  # against class 0 and the rest; enough to choose a penalty
            truth, held = labels[train[inner != fold]] == k, labels[train[inner == fold]] == k
            for i, penalty in enumerate(PENALTIES):
                found[i] += quick_auroc(_scores(fitted, truth, unseen, penalty), held.astype(np.int64))
    return PENALTIES[int(found.argmax())]


def _scores(fitted: Any, truth: NDArray[np.bool_], unseen: Any, penalty: float) -> Floats:
    model = LogisticRegression(C=penalty, solver="liblinear", max_iter=1000, random_state=0)
    return model.fit(fitted, truth).decision_function(unseen)
