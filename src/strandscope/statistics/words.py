"""What can be told without the network: from the words of a text, and from its length alone.

Both are cross-fitted on the folds of the reading that they stand beside, so that the difference can be paired.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from .detect import quick_auroc
from .resample import group_folds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PENALTIES = (0.1, 1.0, 10.0)  # scikit-learn's C, chosen inside the training groups
METHOD = "bag of words (1- and 2-grams, logistic, C by inner cross-validation)"


def word_scores(texts: Sequence[str], labels: Ints, groups: Ints, folds: Ints, classes: int, generator: np.random.Generator) -> Floats:
    """Cross-fitted bag-of-words scores: (rows,) for two classes, (rows, classes) for more."""

    def features(train: Ints, new: Ints) -> tuple[csr_matrix, csr_matrix]:
        vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"(?u)\b\w+\b")
        fitted = vectorizer.fit_transform([texts[i] for i in train])
        return fitted, vectorizer.transform([texts[i] for i in new])

    return _cross_fitted(features, labels, groups, folds, classes, generator)


def length_scores(lengths: Floats, labels: Ints, groups: Ints, folds: Ints, classes: int, generator: np.random.Generator) -> Floats:
    """Cross-fitted scores from lengths (rows, k), such as characters and tokens: their logarithms, standardised."""
    logs = np.log1p(lengths)

    def features(train: Ints, new: Ints) -> tuple[Floats, Floats]:
        centre, spread = logs[train].mean(0), logs[train].std(0) + 1e-12
        return (logs[train] - centre) / spread, (logs[new] - centre) / spread

    return _cross_fitted(features, labels, groups, folds, classes, generator)


def _cross_fitted(features, labels: Ints, groups: Ints, folds: Ints, classes: int, generator: np.random.Generator) -> Floats:  # noqa: ANN001
    result = np.zeros((len(labels), 1 if classes == 2 else classes))
    for fold in np.unique(folds):
        train, new = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        penalty = _choose(features, labels, train, groups, generator)
        fitted, unseen = features(train, new)
        for k in range(result.shape[1]):
            truth = labels[train] == (1 if classes == 2 else k)
            result[new, k] = _logistic(penalty).fit(fitted, truth).decision_function(unseen)
    return result[:, 0] if classes == 2 else result


def _choose(features, labels: Ints, train: Ints, groups: Ints, generator: np.random.Generator) -> float:  # noqa: ANN001
    """The penalty with the best AUROC over inner folds, classes averaged; of equals the stronger."""
    inner = group_folds(labels[train], groups[train], 4, generator)
    found = np.zeros(len(PENALTIES))
    for fold in np.unique(inner):
        fitted, unseen = features(train[inner != fold], train[inner == fold])
        for k in range(1, int(labels.max()) + 1):  # against class 0 and the rest; enough to choose a penalty
            truth, held = labels[train[inner != fold]] == k, labels[train[inner == fold]] == k
            for i, penalty in enumerate(PENALTIES):
                found[i] += quick_auroc(_logistic(penalty).fit(fitted, truth).decision_function(unseen), held.astype(np.int64))
    return PENALTIES[int(found.argmax())]


def _logistic(penalty: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, solver="liblinear", max_iter=1000, random_state=0)
