"""From cross-fitted scores to readings: the AUROC with its null, the layer curve with its band, the baselines beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..reading import Null, Reading
from ..statistics.detect import Area, area, area_difference, quick_auroc, smallest_detectable
from ..statistics.words import METHOD as WORDS
from ..statistics.words import length_scores, word_scores
from .nested import Evidence

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVEL = 0.05  # of the test that says "detected"


@dataclass(frozen=True, slots=True)
class SiteReading:
    """One point of the layer curve: a single site, its method chosen inside training groups."""

    site: str
    reading: Reading


def _plain(scores: Tensor) -> Floats:
    """(rows,) for two classes, (rows, classes) for more."""
    return scores[..., 0].double().numpy() if scores.shape[-1] == 1 else scores.double().numpy()


def pooled_aurocs(scores: Tensor, columns: Ints, folds: Ints) -> Floats:
    """AUROC inside folds for every label column at once: scores (rows, columns, classes); pairs weigh the same, classes too."""
    several = scores.shape[-1] > 1
    totals = np.zeros(scores.shape[1])
    for k in range(scores.shape[-1]):
        won, pairs = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
        for fold in np.unique(folds):
            rows = folds == fold
            truth = (columns[:, rows] == (k if several else 1)).astype(np.int64)
            here = truth.sum(1) * (truth.shape[1] - truth.sum(1))
            with np.errstate(invalid="ignore", divide="ignore"):
                found = quick_auroc(scores[torch.as_tensor(rows), :, k].T.double().numpy(), truth)
            won += np.where(here > 0, found * here, 0.0)
            pairs += here
        totals += np.divide(won, pairs, out=np.full(len(won), 0.5), where=pairs > 0)  # folds of one class each tell nothing
    return totals / scores.shape[-1]


def reading(scores: Tensor, columns: Ints, groups: Ints, folds: Ints, noise: float, method: str) -> Reading:
    measured = area(_plain(scores[:, 0]), columns[0], groups, folds, noise=noise)
    null = None
    if len(columns) > 1:
        draws = pooled_aurocs(scores[:, 1:], columns[1:], folds)
        p = (1 + int((draws >= measured.value - 1e-12).sum())) / len(columns)
        low, high = np.quantile(draws, [0.025, 0.975])
        null = Null(float(draws.mean()), float(low), float(high), 0.95, len(draws), p, "the same procedure under permuted labels")
    return Reading(measured.value, measured.low, measured.high, measured.level, len(columns[0]), "AUROC", null, method)


def layer_curve(
    sites: Sequence[str], evidence: Evidence, columns: Ints, groups: Ints
) -> tuple[tuple[SiteReading, ...], float | None]:
    method = "cross-fitted AUROC of this site; method and penalty chosen inside"
    curve = tuple(
        SiteReading(site, reading(scores, columns, groups, evidence.folds, noise, method))
        for site, scores, noise in zip(sites, evidence.by_site, evidence.noise.by_site, strict=True)
    )
    if len(columns) == 1:
        return curve, None
    greatest = np.max([pooled_aurocs(scores[:, 1:], columns[1:], evidence.folds) for scores in evidence.by_site], axis=0)
    return curve, float(np.quantile(greatest, 1 - LEVEL))


def baselines(
    texts: Sequence[str] | None, evidence: Evidence, labels: Ints, groups: Ints, generator: np.random.Generator, classes: int
) -> tuple[Reading, Reading, Reading, Reading]:
    """Bag of words, length, and the paired differences of the nested scores to them; `texts` None where rows are not texts."""
    folds, n = evidence.folds, len(labels)
    lengths_method = "characters and words of the text, logistic"
    if texts is None:
        none = [Reading.not_measured("the rows are not texts", unit="AUROC", method=name) for name in (WORDS, lengths_method)]
        return none[0], none[1], none[0], none[1]
    lengths = np.array([[len(text), len(text.split())] for text in texts], dtype=np.float64)
    mine = _plain(evidence.combined[:, 0])
    readings = []
    for name, (scores, noise) in (
        (WORDS, word_scores(texts, labels, groups, folds, classes, generator)),
        (lengths_method, length_scores(lengths, labels, groups, folds, classes, generator)),
    ):
        alone = area(scores, labels, groups, folds, noise=noise)
        difference, low, high = area_difference(mine, scores, labels, groups, folds, noise=(evidence.noise.combined, noise))
        readings.append(
            (
                Reading(alone.value, alone.low, alone.high, alone.level, n, "AUROC", None, name),
                Reading(difference, low, high, alone.level, n, "AUROC difference", None, f"paired difference to {name}"),
            )
        )
    (words, beyond_words), (length, beyond_length) = readings
    return words, length, beyond_words, beyond_length


def detectable(decodable: Reading, evidence: Evidence, labels: Ints, groups: Ints) -> Reading:
    """The smallest AUROC that this n would have called detected with power .8."""
    method = "smallest AUROC detected with power 0.8: null's upper 5 % point, spread by the design effect measured here"
    if decodable.null is None:
        return Reading.not_measured("no permutations were made", unit="AUROC", method=method)
    here: Area = area(_plain(evidence.combined[:, 0]), labels, groups, evidence.folds, noise=evidence.noise.combined)
    spread = (decodable.null.high - decodable.null.low) / (2 * 1.96)
    value = smallest_detectable(decodable.null.value + 1.645 * spread, here)
    if value is None:
        return Reading.not_measured("so few rows would have detected none", unit="AUROC", method=method)
    error = 2 * spread * 2 / np.sqrt(2 * decodable.null.n)  # of a normal's upper 5 % point, from so many draws
    return Reading(value, max(0.0, value - error), min(1.0, value + error), 0.95, len(labels), "AUROC", None, method)
