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
import torch

from ..laws.strands import free_log
from ..reading import Reading
from ..statistics.dimension import LEAST_ROWS, data_participation, two_nn
from ..statistics.paired import Floats, Ints
from ..statistics.spectrum import Overlap
from .measure import Measurement, Profile

DIM = "dimensions"


@dataclass(frozen=True, slots=True)
class Measure:
    """How a quantity is made of a network's figures at a site: by context, or pooled from a subset of them.

    `pooled` takes the profile, the numbers of the contexts that count, and the group of each. `response`: it needs contexts whose
    response was large enough; the others need nothing of the kind. `reading` gives one network's figure where `statistics` has a
    reading of its own for it; `fails` says why there may be none.
    """

    name: str
    coordinates: Literal["raw", "whitened", "none"]
    what: str
    unit: str
    response: bool
    each: Callable[[Measurement, Profile], Floats] | None = None
    pooled: Callable[[Profile, Ints, Ints], float] | None = None
    reading: Callable[[Profile, Ints, Ints], Reading] | None = None
    fails: str = "the pairs of draws do not show it above zero in every network; ask for more draws"

    @property
    def id(self) -> str:
        return self.name if self.coordinates != "whitened" else f"{self.name}_whitened"


def _excess(measured: Measurement, profile: Profile) -> Floats:
    """log of PR_F · (1/PR_A + 1/PR_J − 1/D), by context; NaN where the sum of reciprocals is not above zero."""
    return profile.local - free_log(measured.output, profile.jacobian, measured.width)


def _limit(overlap: Floats, groups: Ints) -> float:
    """log PR of ever more such contexts pooled, each scaled to trace 1: −log of the mean overlap of pairs from two groups."""
    mean = float(overlap[groups[:, None] != groups].mean())
    return -math.log(mean) if mean > 0 else math.nan


def _at_n(inverse: Floats, overlap: Floats, groups: Ints) -> float:
    """The same of just these contexts, of which each meets itself too."""
    mean = float(overlap[groups[:, None] != groups].mean())
    pooled = float(inverse.mean()) / len(inverse) + (1 - 1 / len(inverse)) * mean
    return -math.log(pooled) if pooled > 0 else math.nan


def _part(matrix: Floats, rows: Ints) -> Floats:
    return matrix[np.ix_(rows, rows)]


def _data(states: Floats) -> float:
    return _log(data_participation(torch.from_numpy(states)).value) if len(states) >= LEAST_ROWS else math.nan


def _two_nn(states: Floats) -> float:
    return _log(two_nn(torch.from_numpy(states)).value) if len(states) >= LEAST_ROWS else math.nan


def _two_nn_reading(profile: Profile, rows: Ints, _: Ints) -> Reading:
    if len(rows) < LEAST_ROWS:
        return Reading.not_measured(_STATES, unit=DIM, method=_NN, n=len(rows))
    return two_nn(torch.from_numpy(profile.states[rows]))


def _pooled_reading(inverse: Floats, overlap: Floats, groups: Ints, coordinates: str) -> Reading:
    omega = float(overlap[groups[:, None] != groups].mean())
    return Overlap(torch.from_numpy(inverse), torch.from_numpy(overlap), omega, groups).pooled(coordinates)


def _log(value: float | None) -> float:
    return math.nan if value is None or value <= 0 else math.log(value)


_LOCAL = "participation ratio of one context's F"
_POOLED = "participation ratio of F pooled over ever more contexts, 1/ω"
_HERE = "participation ratio of F pooled over these contexts"
_DATA = "participation ratio of the states' covariance"
_STATES = f"the states are fewer than {LEAST_ROWS} (one group left out), or all alike"
_NN = "intrinsic dimension of the states by two nearest neighbours"
_EXCESS = "alignment excess PR_F · (1/PR_A + 1/PR_J − 1/d)"
MEASURES = (
    Measure("local", "raw", _LOCAL, DIM, True, each=lambda _, at: at.local),
    Measure("local", "whitened", _LOCAL, DIM, True, each=lambda _, at: at.whitened),
    Measure(
        "pooled",
        "raw",
        _POOLED,
        DIM,
        True,
        pooled=lambda at, rows, groups: _limit(_part(at.overlap, rows), groups),
        reading=lambda at, rows, groups: _pooled_reading(at.inverse[rows], _part(at.overlap, rows), groups, "raw"),
    ),
    Measure(
        "pooled",
        "whitened",
        _POOLED,
        DIM,
        True,
        pooled=lambda at, rows, groups: _limit(_part(at.overlap_whitened, rows), groups),
        reading=lambda at, rows, groups: _pooled_reading(
            at.inverse_whitened[rows], _part(at.overlap_whitened, rows), groups, "whitened"
        ),
    ),
    Measure(
        "pooled_at_n",
        "raw",
        _HERE,
        DIM,
        True,
        pooled=lambda at, rows, groups: _at_n(at.inverse[rows], _part(at.overlap, rows), groups),
    ),
    Measure("data", "raw", _DATA, DIM, False, pooled=lambda at, rows, _: _data(at.states[rows]), fails=_STATES),
    Measure(
        "two_nn",
        "raw",
        _NN,
        DIM,
        False,
        pooled=lambda at, rows, _: _two_nn(at.states[rows]),
        reading=_two_nn_reading,
        fails=_STATES,
    ),
    Measure("contraction", "raw", "participation ratio of JᵀJ", DIM, False, each=lambda _, at: at.jacobian),
    Measure("excess", "none", _EXCESS, "times free composition", True, each=_excess),
)
