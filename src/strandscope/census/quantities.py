"""The quantities of a census: how each is made of a network's figures at a site, on a logarithmic scale.

`excess` is 1 where output metric and Jacobian lie in general position to each other (free composition), as in networks that
learned nothing; above 1 the response is spread over more directions than that. Participation ratios depend on the coordinates, so
a measure says whether it is raw or whitened by the activations' covariance; the excess has no coordinates of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..statistics.paired import Floats, Ints
from .measure import Measurement, Profile


@dataclass(frozen=True, slots=True)
class Measure:
    """How a quantity is made of a network's figures at a site: by context, or pooled from a subset of them.

    `response`: it needs the contexts whose response was large enough; the others need nothing of the kind.
    """

    name: str
    coordinates: Literal["raw", "whitened", "none"]
    what: str
    unit: str
    response: bool
    each: Callable[[Measurement, Profile], Floats] | None = None
    pooled: Callable[[Profile, Ints], float] | None = None

    @property
    def id(self) -> str:
        return self.name if self.coordinates != "whitened" else f"{self.name}_whitened"


def _excess(measured: Measurement, profile: Profile) -> Floats:
    """log of PR_F · (1/PR_A + 1/PR_J − 1/D), by context; NaN where the sum of reciprocals is not above zero."""
    free = np.exp(-measured.output) + np.exp(-profile.jacobian) - 1 / measured.width
    return profile.local + np.log(np.where(free > 0, free, np.nan))


def _limit(overlap: Floats) -> float:
    """log PR of infinitely many such contexts pooled, each scaled to trace 1: −log of the mean overlap of pairs."""
    mean = (overlap.sum() - np.trace(overlap)) / (len(overlap) * (len(overlap) - 1))
    return -math.log(mean) if mean > 0 else math.nan


def _at_n(overlap: Floats) -> float:
    mean = float(overlap.mean())
    return -math.log(mean) if mean > 0 else math.nan


def _part(matrix: Floats, rows: Ints) -> Floats:
    return matrix[np.ix_(rows, rows)]


MEASURES = (
    Measure("local", "raw", "participation ratio of one context's F", "dimensions", True, each=lambda _, at: at.local),
    Measure("local", "whitened", "participation ratio of one context's F", "dimensions", True, each=lambda _, at: at.whitened),
    Measure(
        "pooled",
        "raw",
        "PR of F over infinitely many contexts, 1/ω",
        "dimensions",
        True,
        pooled=lambda at, rows: _limit(_part(at.overlap, rows)),
    ),
    Measure(
        "pooled",
        "whitened",
        "PR of F over infinitely many contexts, 1/ω",
        "dimensions",
        True,
        pooled=lambda at, rows: _limit(_part(at.overlap_whitened, rows)),
    ),
    Measure(
        "pooled_at_n",
        "raw",
        "PR of F over the contexts measured",
        "dimensions",
        True,
        pooled=lambda at, rows: _at_n(_part(at.overlap, rows)),
    ),
    Measure(
        "data",
        "raw",
        "participation ratio of the states' covariance",
        "dimensions",
        False,
        pooled=lambda at, rows: _data(at.states[rows]),
    ),
    Measure(
        "two_nn",
        "raw",
        "intrinsic dimension of the states, by two nearest neighbours",
        "dimensions",
        False,
        pooled=lambda at, rows: _two_nn(at.states[rows]),
    ),
    Measure("contraction", "raw", "participation ratio of JᵀJ", "dimensions", False, each=lambda _, at: at.jacobian),
    Measure("excess", "none", "alignment excess PR_F · (1/PR_A + 1/PR_J − 1/d)", "of free composition", True, each=_excess),
)
