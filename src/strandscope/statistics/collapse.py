"""Neural collapse (Papyan, Han & Donoho 2020) in one pass: sums of features by class that merge, and four figures from them.

With class means μ_c, their mean μ_G, Σ_W the covariance within classes (over all rows) and Σ_B that of the class means:

    NC1   tr(Σ_W Σ_B⁺)/K: variability within classes; Σ_B⁺ is cut off at rank K − 1, beyond which Σ_B is rounding
    NC2   the class means form a simplex: spread of ‖μ_c − μ_G‖ as a share of its mean, and max |cos + 1/(K − 1)| over pairs
    NC3   ‖W/‖W‖ − M/‖M‖‖ (Frobenius): the classifier's rows against the centred class means
    NC4   share of rows where the classifier disagrees with the nearest class mean

All go to 0. μ_G is the mean of class means, so that classes of unequal size weigh alike; Σ_W weighs rows alike. NC4 needs class
means before the rows come: those of an earlier pass (`centres`), or there is no NC4.

What is not known here: whether features collapsed or were never apart. Where two class means coincide, or class means span fewer
than K − 1 dimensions, there is no simplex to compare with, and `result` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from ..errors import InputError
from ..linalg import eigh, finite
from ..reading import Reading
from .accumulators.checks import LIMIT, afford, partner, rows_of, same
from .paired import jackknife_variance

RANK_FLOOR = 1e-12  # of the largest eigenvalue of Σ_B: below it two class means coincide


@dataclass(frozen=True, slots=True)
class Collapse:
    """The figures of one set of features.

    Attributes:
        nc1: variability within classes; `norms`, `angles`: NC2's two parts; `nc4`: None where no centres were given.
        means: (K, d) class means.
    """

    n: int
    nc1: float
    norms: float
    angles: float
    nc4: float | None
    means: Tensor

    def nc3(self, weight: Tensor) -> float:
        """Distance of a classifier's rows (K, d) from the centred class means, both of unit Frobenius norm: 0 to 2."""
        if weight.shape != self.means.shape:
            raise InputError(f"weight: got shape {tuple(weight.shape)}, wanted {tuple(self.means.shape)}, a row for each class")
        rows, centred = finite(weight.detach().cpu(), "weight"), self.means - self.means.mean(0)
        if not float(rows.norm()) > 0:
            raise InputError("weight: it is zero, so it has no direction; NC3 compares directions")
        return float((rows / rows.norm() - centred / centred.norm()).norm())


class ClassSums:
    """Counts and sums of features (rows, d) by class, Σhhᵀ about the class means, and disagreements with `centres`."""

    def __init__(self, classes: int, d: int, *, centres: Tensor | None = None, limit: int = LIMIT) -> None:
        if classes < 2:
            raise InputError(f"classes: got {classes}, wanted at least 2")
        afford(8 * d * (d + classes), limit, f"a scatter of {d} coordinates", "take fewer coordinates")
        if centres is not None and centres.shape != (classes, d):
            raise InputError(f"centres: got shape {tuple(centres.shape)}, wanted ({classes}, {d})")
        self.classes, self.d = classes, d
        self.centres = None if centres is None else finite(centres.detach().cpu(), "centres")
        self.counts = torch.zeros(classes, dtype=torch.float64)
        self.means = torch.zeros(classes, d, dtype=torch.float64)
        self.scatter = torch.zeros(d, d, dtype=torch.float64)  # Σ (h − μ_c)(h − μ_c)ᵀ
        self.judged, self.disagreed = 0, 0

    def update(self, features: Tensor, labels: Tensor, logits: Tensor | None = None) -> None:
        """Add rows (n, d) with codes (n,) from 0; logits (n, K) are the classifier's, for NC4. What is refused is not counted."""
        rows = rows_of(features, self.d, "features").double()
        if labels.shape != (len(rows),) or labels.is_floating_point():
            raise InputError(f"labels: got shape {tuple(labels.shape)} of {labels.dtype}, wanted {len(rows)} whole numbers")
        if not len(rows):
            return
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise InputError(f"labels: got {int(labels.min())} to {int(labels.max())}, wanted 0 to {self.classes - 1}")
        codes = labels.detach().cpu().long()
        counts = torch.bincount(codes, minlength=self.classes).double()
        means = torch.zeros_like(self.means).index_add_(0, codes, rows) / counts.clamp_min(1)[:, None]
        centred = rows - means[codes]
        if logits is not None:  # judged before anything is added
            self.disagreed += self._judge(rows, logits)
            self.judged += len(rows)
        self._join(counts, means, centred.T @ centred)

    def _judge(self, rows: Tensor, logits: Tensor) -> int:
        """The number of rows where the classifier disagrees with the nearest of the centres."""
        if self.centres is None:
            raise InputError("logits: given without centres; pass the class means of an earlier pass as centres to have NC4")
        if logits.shape != (len(rows), self.classes):
            raise InputError(f"logits: got shape {tuple(logits.shape)}, wanted ({len(rows)}, {self.classes})")
        nearest = torch.cdist(rows, self.centres).argmin(1)
        return int((nearest != finite(logits.detach().cpu(), "logits").argmax(1)).sum())

    def merge(self, other: ClassSums) -> None:
        partner(self, other)
        same(self._settings(), other._settings())
        self._join(other.counts, other.means, other.scatter)
        self.judged += other.judged
        self.disagreed += other.disagreed

    def _join(self, counts: Tensor, means: Tensor, scatter: Tensor) -> None:
        total = self.counts + counts
        apart, safe = means - self.means, total.clamp_min(1)
        weight = self.counts * counts / safe
        self.scatter += scatter + (apart * weight[:, None]).T @ apart
        self.means = self.means + apart * (counts / safe)[:, None]
        self.counts = total

    def result(self) -> Collapse:
        """The figures of all rows so far.

        Raises:
            InputError: a class has no row, or the class means do not span K − 1 dimensions.
        """
        if not bool((self.counts > 0).all()):
            raise InputError(f"labels: class {int(self.counts.argmin())} has no row; neural collapse compares all classes")
        n, count = int(self.counts.sum()), self.classes
        centred = self.means - self.means.mean(0)
        # The nonzero eigenpairs of Σ_B = CᵀC/K are those of the K × K Gram matrix of the centred means.
        values, left = eigh(centred @ centred.T / count, "the class means")
        values, left = values[: count - 1], left[:, : count - 1]
        if self.d < count - 1 or not float(values[-1]) > RANK_FLOOR * float(values[0]):
            raise InputError(
                f"features: {count} class means span fewer than {count - 1} dimensions, so there is no simplex to compare with"
            )
        axes = centred.T @ left / (count * values).sqrt()
        within = ((axes.T @ (self.scatter / n)) * axes.T).sum(1)
        norms = centred.norm(dim=1)
        cosines = (centred / norms[:, None]) @ (centred / norms[:, None]).T
        off = cosines[~torch.eye(count, dtype=torch.bool)] + 1 / (count - 1)
        return Collapse(
            n,
            float((within / values).sum()) / count,
            float(norms.std(correction=0) / norms.mean()),
            float(off.abs().max()),
            self.disagreed / self.judged if self.judged else None,
            self.means.clone(),
        )

    def state_dict(self) -> dict[str, Any]:
        held = {name: getattr(self, name).clone() for name in ("counts", "means", "scatter")}
        centres = None if self.centres is None else self.centres.clone()
        return {"classes": self.classes, "d": self.d, "centres": centres, "judged": self.judged,
                "disagreed": self.disagreed, **held}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        centres = state["centres"]
        there = {"classes": state["classes"], "d": state["d"], "centres": None if centres is None else centres.tolist()}
        same(self._settings(), there, "load_state_dict")
        self.judged, self.disagreed = state["judged"], state["disagreed"]
        self.counts, self.means, self.scatter = (state[name].clone() for name in ("counts", "means", "scatter"))

    def _settings(self) -> dict[str, Any]:
        return {"classes": self.classes, "d": self.d, "centres": None if self.centres is None else self.centres.tolist()}


def joined(shards: Sequence[ClassSums]) -> ClassSums:
    """All shards in one, each left as it was."""
    if not shards:
        raise InputError("shards: got none, wanted at least one accumulator")
    whole = ClassSums(shards[0].classes, shards[0].d, centres=shards[0].centres)
    for shard in shards:
        whole.merge(shard)
    return whole


def collapse_reading(
    shards: Sequence[ClassSums], figure: Callable[[Collapse], float], *, unit: str, method: str, level: float = 0.95
) -> Reading:
    """One figure of the shards together, its interval from the jackknife of its logarithm over shards.

    Rows of a group belong in one shard. NC2's largest deviation is no smooth function of the rows, and where collapse is complete
    its interval is only as good as that of a maximum.
    """
    whole = figure(joined(shards).result())
    n = int(sum(float(shard.counts.sum()) for shard in shards))
    if len(shards) < 4:
        return Reading.not_measured(f"{len(shards)} shards; an interval needs at least 4", unit=unit, method=method, n=n)
    left = [figure(joined([*shards[:k], *shards[k + 1 :]]).result()) for k in range(len(shards))]
    if not min(whole, *left) > 0:
        return Reading.not_measured("it is 0, so there is no logarithm of it", unit=unit, method=method, n=n)
    error = math.sqrt(float(jackknife_variance(np.log(left))))
    reach = math.exp(float(student.ppf(0.5 + level / 2, len(shards) - 1)) * error)
    return Reading(whole, whole / reach, whole * reach, level, n, unit, None, f"{method}; jackknife over {len(shards)} shards")
