"""The law of overlap: the dimension of many contexts together, foretold from few.

With F̂ = F/tr F and ω the mean of tr F̂_iF̂_j over pairs of contexts, the pooled metric of N contexts has

    1/PR_N = ⟨1/PR_i⟩/N + (1 − 1/N)·ω.

For the contexts that ω was read from this is algebra. It becomes a law when ω comes from a few contexts (24) and PR_N is that of
others: it says that a few contexts drawn alike stand for many, that overlap has no structure that only shows in larger numbers.
Ratio and interval are of the logarithm, by the jackknife over groups of contexts, each deleted wherever it stands.

Negative control: the prediction made from the 24 contexts that overlap most with each other. They are not drawn alike, and if
contexts differ at all in how they overlap, the law must come out violated, with a larger dimension than predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ..errors import InputError
from ..reading import Reading
from ..statistics.paired import jackknife_variance
from .law import Control, Law, LawResult, judge

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEW = 24
OVERLAP = Law(
    "overlap",
    "1/PR_N = ⟨1/PR_i⟩/N + (1 − 1/N)·ω",
    {
        "PR_N": "participation ratio of the mean of N contexts' metrics, each with trace 1 (dimensions)",
        "PR_i": "of one context's metric (dimensions)",
        "ω": "mean overlap tr F̂_iF̂_j of two contexts, from a few of them (1)",
        "N": "contexts (1)",
    },
    "the few contexts and the many are drawn alike",
    tolerance=0.5,
)


def overlap_law(
    inverse: Floats,
    matrix: Floats,
    where: str,
    *,
    generator: np.random.Generator,
    groups: Sequence[object] | None = None,
    few: int = FEW,
    level: float = 0.95,
) -> LawResult:
    """PR of all contexts but `few`, predicted from those.

    Args:
        inverse, matrix: 1/PR_i (contexts,) and overlaps (contexts, contexts), without bias (`statistics.spectrum.Overlap`).
        generator: draws the few.
    """
    contexts = len(inverse)
    if matrix.shape != (contexts, contexts):
        raise InputError(f"matrix: got shape {matrix.shape}, wanted ({contexts}, {contexts}), the overlaps of all pairs")
    if few < 8 or contexts < 2 * few:
        raise InputError(f"few: got {few} of {contexts} contexts, wanted at least 8 and at most half of them")
    names = [str(group) for group in groups] if groups is not None else [str(k) for k in range(contexts)]
    if len(names) != contexts:
        raise InputError(f"groups: got {len(names)}, wanted one for each of {contexts} contexts")
    codes = np.unique(names, return_inverse=True)[1]
    drawn = np.sort(generator.permutation(contexts)[:few])
    predicted, measured, ratio = _test(inverse, matrix, codes, drawn, level)
    _, _, against = _test(inverse, matrix, codes, _closest(matrix, few), level)
    control = Control(
        f"predicted from the {few} contexts that overlap most with each other", "violated", judge(against, OVERLAP), against
    )
    details = {"few": few, "many": contexts - few, "omega": _omega(matrix, drawn), "local": float(1 / inverse.mean())}
    return LawResult(OVERLAP, where, predicted, measured, ratio, judge(ratio, OVERLAP), control, details=details)


def _omega(matrix: Floats, rows: Ints) -> float:
    part = matrix[np.ix_(rows, rows)]
    return float((part.sum() - np.trace(part)) / (len(rows) * (len(rows) - 1)))


def pooled_log(inverse: Floats, matrix: Floats, rows: Ints, many: int) -> float:
    """log PR of `many` contexts such as `rows`; NaN where the overlaps leave nothing."""
    total = float(inverse[rows].mean()) / many + (1 - 1 / many) * _omega(matrix, rows)
    return -math.log(total) if total > 0 else math.nan


def _test(inverse: Floats, matrix: Floats, groups: Ints, few: Ints, level: float) -> tuple[Reading, Reading, Reading]:
    """Predicted, measured and their ratio."""
    many = np.setdiff1d(np.arange(len(inverse)), few)

    def logs(without: int | None) -> tuple[float, float]:
        left, right = (rows[groups[rows] != without] for rows in (few, many))
        return pooled_log(inverse, matrix, left, len(many)), pooled_log(inverse, matrix, right, len(many))

    every = np.unique(groups)
    values, deleted = np.array(logs(None)), np.array([logs(int(group)) for group in every])
    method = f"from {{}} contexts, jackknife of the logarithm over {len(every)} groups"
    few_, many_ = f"{len(few)}", f"{len(many)} other"
    return (
        _reading(values[0], deleted[:, 0], level, len(few), "dimensions", method.format(few_)),
        _reading(values[1], deleted[:, 1], level, len(many), "dimensions", method.format(many_)),
        _reading(
            values[1] - values[0], deleted[:, 1] - deleted[:, 0], level, len(inverse), "measured/predicted", method.format("all")
        ),
    )


def _reading(value: float, deleted: Floats, level: float, n: int, unit: str, method: str) -> Reading:
    if not (math.isfinite(value) and np.isfinite(deleted).all()):
        return Reading.not_measured(
            "the overlaps of these contexts are not above 0; add contexts or draws", unit=unit, method=method
        )
    moved = deleted[deleted != value]  # a group that stands on neither side of this figure is no part of it
    count = len(moved)
    error = math.sqrt(float(jackknife_variance(moved))) if count > 1 else 0.0
    reach = float(student.ppf(0.5 + level / 2, max(count - 1, 1))) * error
    return Reading(math.exp(value), math.exp(value - reach), math.exp(value + reach), level, n, unit, None, method)


def _closest(matrix: Floats, few: int) -> Ints:
    """Of each context with its nearest, the set whose pairs overlap most."""
    bare = matrix - np.diag(np.diag(matrix)) + np.diag(np.full(len(matrix), np.inf))  # itself first
    sets = [np.argsort(-row, kind="stable")[:few] for row in bare]
    return np.sort(max(sets, key=lambda rows: _omega(matrix, rows)))
