"""Readers of texts: what says whether a text has a concept, fitted on rows that nothing else of a measurement has seen.

    states   logistic regression on the unedited network's states, averaged over a text's tokens, of a band of blocks together;
             band and penalty are chosen by cross-validation inside the rows
    words    logistic regression on TF-IDF of words, pairs of words and pieces of words; it reads no activations
    tokens   log-odds of single tokens between the classes (Laplace's estimate), averaged; it also scores a distribution of a next
             token, as the mean over it

All read raw text, with no template and no prompt: a reply is read as what was said, and the prompt's words never count. Rows of a
pack are short and replies are long, so a text is read in pieces of as many words as the pack's middle row, and its score is
their mean. A score is in distances between the classes: 0 and 1 are the means of the classes' rows held out. So it is no
probability, and a text further out than the rows is beyond 1. An empty text has no score (NaN).

A reader whose cross-fitted AUROC is not above one half measures nothing (`Reader.reads`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline
from torch import Tensor

from ..capture.examples import Examples
from ..capture.record import capture
from ..capture.tokens import tokenise
from ..errors import InputError
from ..provenance import numpy_generator
from ..reading import Reading
from ..statistics.detect import area, quick_auroc
from ..statistics.resample import group_folds

if TYPE_CHECKING:
    from ..subject.site import Site
    from ..subject.subject import Subject

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Score = Callable[[Sequence[str]], Floats]

UNIT = "class distances"
FOLDS, INNER = 5, 4
BANDS = 6  # of consecutive blocks
STRENGTHS = (0.01, 0.1, 1.0)  # scikit-learn's C, for features of unit mean square
SHORTEST = 5  # words of a piece at least


@dataclass(frozen=True, slots=True)
class Reader:
    """`score` gives one score a text, in class distances; `auroc` is that of the procedure, cross-fitted on the reader's rows."""

    name: str
    told: str
    auroc: Reading
    score: Score

    @property
    def reads(self) -> bool:
        return self.auroc.low is not None and self.auroc.low > 0.5


@dataclass(frozen=True, slots=True)
class TokenReader:
    """Log-odds of tokens (vocabulary,), as distances between the classes; see the module."""

    told: str
    auroc: Reading
    weights: Floats

    @property
    def reads(self) -> bool:
        return self.auroc.low is not None and self.auroc.low > 0.5

    def expected(self, logprobs: Tensor) -> Floats:
        """(rows,) the mean of the score over each distribution (rows, vocabulary) of a next token."""
        weights = torch.as_tensor(self.weights, dtype=torch.float32, device=logprobs.device)
        return (logprobs.exp()[:, : len(weights)] @ weights).double().cpu().numpy()


def halves(examples: Examples, seed: int = 0) -> tuple[Examples, Examples]:
    """Whole groups, in two halves alike in classes: what pushes is found on the first, what reads is fitted on the second.

    Raises:
        InputError: too few groups to hold both classes in both halves.
    """
    part = group_folds(examples.labels, examples.groups, 2, numpy_generator(seed, "halves", examples.digest))
    return examples.subset(part == 0), examples.subset(part == 1)


def word_reader(examples: Examples, seed: int = 0) -> Reader:
    """The reader that reads no activations, from labelled rows with two classes."""
    texts, size = _rows(examples)

    def fitted(rows: Ints) -> Callable[[Sequence[str]], Floats]:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
        model = Pipeline(
            [("features", FeatureUnion([("words", words), ("letters", letters)])), ("model", LogisticRegression(C=10.0))]
        )
        model.fit([texts[row] for row in rows], examples.labels[rows])
        return lambda given: np.asarray(model.decision_function(list(given)), dtype=np.float64)

    folds = _folds(examples, seed)
    held = _held_out(folds, lambda train, new: fitted(train)([texts[row] for row in new]))
    told = "logistic regression (C = 10) on TF-IDF of 1- and 2-grams of words and 2- to 4-grams of letters"
    whole = fitted(np.arange(len(examples)))
    return Reader("words", told, _auroc(held, examples, folds, told), _in_pieces(whole, _scale(held, examples.labels), size))


def token_reader(subject: Subject, examples: Examples, seed: int = 0) -> TokenReader:
    """Log-odds of this network's tokens between the classes."""
    texts, _ = _rows(examples)
    ids = tokenise(subject, _raw(texts)).ids
    assert subject.vocabulary is not None
    counts = np.stack([np.bincount(row, minlength=subject.vocabulary) for row in ids]).astype(np.float64)

    def weights(rows: Ints) -> Floats:
        found = np.stack([counts[rows[examples.labels[rows] == code]].sum(0) for code in (0, 1)])
        seen = found.sum(0) > 0
        odds = np.log((found + 1) / (found.sum(1, keepdims=True) + seen.sum()))
        return np.where(seen, odds[1] - odds[0], 0.0)  # a token of neither class says nothing

    folds, shares = _folds(examples, seed), counts / counts.sum(1, keepdims=True)
    held = _held_out(folds, lambda train, new: shares[new] @ weights(train))
    _low, distance = _scale(held, examples.labels)
    told = "mean over tokens of their log-odds between the classes, Laplace's estimate"
    return TokenReader(told, _auroc(held, examples, folds, told), weights(np.arange(len(examples))) / distance)


def state_reader(subject: Subject, examples: Examples, seed: int = 0) -> Reader:
    """The monitor of the unedited network, from labelled rows with two classes.

    Raises:
        InputError: the network takes no text, or has no blocks.
    """
    texts, size = _rows(examples)
    bands = _bands(subject)
    states = _states(subject, texts, [site for band in bands for site in band])
    labels, groups = examples.labels, examples.groups

    def inside(train: Ints) -> tuple[int, float]:
        folds = group_folds(labels[train], groups[train], INNER, numpy_generator(seed, "inner folds of a reader"))
        found = np.zeros((len(bands), len(STRENGTHS)))
        for fold in range(INNER):
            fit, new = train[folds != fold], train[folds == fold]
            for number, band in enumerate(bands):
                for place, scores in enumerate(_fits(states, band, fit, labels, STRENGTHS)):
                    found[number, place] += quick_auroc(scores(states, new), labels[new])
        best = np.unravel_index(int(found.argmax()), found.shape)
        return int(best[0]), STRENGTHS[best[1]]

    def fitted(train: Ints) -> tuple[_Fit, int]:
        band, strength = inside(train)
        return next(iter(_fits(states, bands[band], train, labels, (strength,)))), band

    folds = _folds(examples, seed)
    held = _held_out(folds, lambda train, new: fitted(train)[0](states, new))
    model, band = fitted(np.arange(len(examples)))
    sites = bands[band]
    told = f"logistic regression on mean states at {sites[0]} to {sites[-1]} of the unedited network, chosen inside"

    def score(given: Sequence[str]) -> Floats:
        return model(_states(subject, list(given), sites), np.arange(len(given)))

    return Reader("states", told, _auroc(held, examples, folds, told), _in_pieces(score, _scale(held, labels), size))


def pieces(text: str, words: int) -> list[str]:
    """The text in pieces of so many words; what is left over, if under half a piece, belongs to the last."""
    found = text.split()
    count = max(1, round(len(found) / words))
    ends = [*range(0, count * words, words)[:count], len(found)]
    return [" ".join(found[start:stop]) for start, stop in itertools.pairwise(ends)] if found else []


def _in_pieces(raw: Score, scale: tuple[float, float], words: int) -> Score:
    low, distance = scale

    def score(texts: Sequence[str]) -> Floats:
        cut = [pieces(text, words) for text in texts]
        flat = [piece for parts in cut for piece in parts]
        result = np.full(len(texts), np.nan)
        if not flat:
            return result
        each = (raw(flat) - low) / distance
        start = 0
        for number, parts in enumerate(cut):
            if parts:
                result[number] = each[start : start + len(parts)].mean()
            start += len(parts)
        return result

    return score


def _rows(examples: Examples) -> tuple[list[str], int]:
    """The rows as raw texts, and the words of the middle one."""
    if len(examples.classes) != 2:
        raise InputError(f"{examples.name}: {len(examples.classes)} classes; a reader is of two, so name one against the rest")
    examples.require(min_per_class=10, folds=FOLDS)
    texts = examples.texts()
    return texts, max(SHORTEST, int(np.median([len(text.split()) for text in texts])))


def _raw(texts: Sequence[str]) -> Examples:
    return Examples.from_rows([{"text": text, "id": str(number)} for number, text in enumerate(texts)], "texts to read")


def _folds(examples: Examples, seed: int) -> Ints:
    return group_folds(examples.labels, examples.groups, FOLDS, numpy_generator(seed, "folds of a reader", examples.digest))


def _held_out(folds: Ints, scores: Callable[[Ints, Ints], Floats]) -> Floats:
    held = np.empty(len(folds))
    for fold in np.unique(folds):
        train, new = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        held[new] = scores(train, new)
    return held


def _scale(held: Floats, labels: Ints) -> tuple[float, float]:
    """The mean of class 0, and the distance of class 1 from it; 1 where the classes do not lie in their order."""
    low, high = (float(held[labels == code].mean()) for code in (0, 1))
    return low, high - low if high > low else 1.0


def _auroc(held: Floats, examples: Examples, folds: Ints, told: str) -> Reading:
    found = area(held, examples.labels, examples.groups, folds, noise=1.0)  # at most: all of the spread from the fits
    how = f"cross-fitted over {FOLDS} folds of groups: {told}"
    return Reading(found.value, found.low, found.high, found.level, len(held), "AUROC", None, how)


# --- states ---


def _bands(subject: Subject) -> list[list[Site]]:
    if not subject.blocks:
        raise InputError(f"{subject.name}: no blocks were found, so there are no states to read texts by")
    sites = subject.sites("resid:*")
    return [[sites[place] for place in part] for part in np.array_split(np.arange(len(sites)), min(BANDS, len(sites)))]


def _states(subject: Subject, texts: Sequence[str], sites: Sequence[Site]) -> dict[Site, Floats]:
    found = capture(subject, _raw(texts), list(sites), "mean")
    if found.edited:
        raise InputError("states: the network is under edits, and texts are read by the plain one; read them outside the block")
    return {site: found.at(site).double().numpy() for site in sites}


@dataclass(frozen=True, slots=True)
class _Fit:
    band: list[Site]
    mean: Floats
    spread: Floats
    weights: Floats
    intercept: float

    def __call__(self, states: dict[Site, Floats], rows: Ints) -> Floats:
        given = np.concatenate([states[site][rows] for site in self.band], axis=1)
        return (given - self.mean) / self.spread @ self.weights + self.intercept


def _fits(states: dict[Site, Floats], band: list[Site], rows: Ints, labels: Ints, strengths: Sequence[float]) -> list[_Fit]:
    """One fit a penalty, in the span of the rows: as many features as rows, whatever the width."""
    given = np.concatenate([states[site][rows] for site in band], axis=1)
    mean, spread = given.mean(0), given.std(0) + 1e-9
    standard: Any = (given - mean) / spread / np.sqrt(given.shape[1])
    values, vectors = np.linalg.eigh(standard @ standard.T)
    kept = values > values[-1] * 1e-9
    root = np.sqrt(values[kept])
    made = []
    for strength in strengths:
        model = LogisticRegression(C=strength * len(rows), max_iter=2000).fit(vectors[:, kept] * root, labels[rows])
        weights = standard.T @ (vectors[:, kept] @ (model.coef_[0] / root)) / np.sqrt(given.shape[1])
        made.append(_Fit(band, mean, spread, weights, float(model.intercept_[0])))
    return made
