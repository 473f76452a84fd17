"""The dimension of data: how many directions states spread over, and how many a walk among neighbours needs.

Participation ratio PR = (tr Σ)²/tr Σ² of the states' covariance, linear: both traces without bias although the mean is unknown
(Himeno & Yamada 2014: closed forms of the centred Gram matrix for sums over four different rows), the interval that of `pairs`.
With groups (rows that share a topic) pairs of one group are left out and the interval deletes groups; the mean is then subtracted
as it was estimated, which leaves a bias of order 1/groups.

TwoNN (Facco et al. 2017), nonlinear: where the density is even over the distance to the second neighbour, the ratio μ = r₂/r₁
has P(μ > m) = m^−d, and d is read by maximum likelihood, d̂ = (N − 1)/Σ ln μ, which is unbiased for independent μ. They are
not: points that share a neighbour have ratios in common, and the variance of ln d̂ is about 1.6/N and not 1/N, in any
dimension. So it is taken from the ratios themselves, with every pair of points counted whose neighbourhoods meet, and not below
1.6/N.

What TwoNN does not know: edges and curvature. They bias it by more than its interval as d grows (1,000 points: a cube of 2, 4
and 8 dimensions reads 1 %, 5 % and 12 % low, a sphere of 8 reads 5 % low, a flat torus embedded by sines 15 % high); up to four
dimensions without an edge the interval holds.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import norm
from torch import Tensor

from ..errors import InputError
from ..linalg import finite
from ..reading import Reading
from .neighbours import two_nearest
from .pairs import log_ratio

Ints = NDArray[np.int64]

LEAST_ROWS = 16
MOST_ROWS = 12_000  # their Gram matrix is held several times
_SHARED = 1.6  # variance of ln d̂ times N, at least: what neighbours in common do to independent points (simulated, d = 1 to 8)


def data_participation(states: Tensor, groups: Ints | None = None, coordinates: str = "raw") -> Reading:
    """Participation ratio of the covariance of states (n, d), with a 95 % interval over rows, or over groups of them.

    Raises:
        InputError: fewer than 16 rows (or groups), more than 12,000, a NaN or an infinity, rows that are all the same.
    """
    wide = _states(states)
    n, unit = len(wide), "dimensions"
    if n > MOST_ROWS:
        raise InputError(
            f"states: got {n} rows, wanted at most {MOST_ROWS} ({8 * n * n:,} bytes a Gram matrix); draw some at random"
        )
    centred = wide - wide.mean(0)
    centred = centred / centred.square().sum(1).mean().sqrt()
    gram = centred @ centred.T
    lengths = gram.diagonal()
    # Subtracting the mean that was estimated leaves different rows a mean product of −‖c‖²/(n − 1), which is put back.
    inner = gram + (lengths[:, None] + lengths[None]) / (2 * (n - 1))
    a, b = lengths[:, None] * lengths[None], inner.square()
    if groups is None:
        exact = _unbiased(gram)
        ratio, own = log_ratio(a, b), _pairs(a) / _pairs(b)
        units, kind = n, "rows"
        if exact is None:
            why = "tr Σ² could not be told from 0; add rows"
            return Reading.not_measured(why, unit=unit, method=f"participation ratio of the covariance of {n} rows", n=n)
        moved = math.log(exact[0] / exact[1]) - math.log(own)
    else:
        member = torch.nn.functional.one_hot(torch.as_tensor(_codes(groups, n))).to(a)
        ratio, moved = log_ratio(member.T @ a @ member, member.T @ b @ member), 0.0
        units, kind = member.shape[1], "groups"
    method = (
        f"participation ratio of the covariance of {n} rows in pairs, jackknife over {units} {kind}; {coordinates} coordinates"
    )
    if units < LEAST_ROWS:
        why = f"{units} {kind}; at least {LEAST_ROWS} are needed"
        return Reading.not_measured(why, unit=unit, method=method, n=n)
    low, high = ratio.interval()
    value, low, high = (math.exp(float(end) + moved) for end in (ratio.log, low, high))
    return Reading(value, low, high, 0.95, n, unit, None, method)


def _pairs(kernel: Tensor) -> float:
    return float(kernel.sum() - kernel.diagonal().sum())


def _unbiased(gram: Tensor) -> tuple[float, float] | None:
    """(tr Σ)² and tr Σ² without bias from the centred Gram matrix, or None where the second is not positive."""
    n, trace, square = len(gram), float(gram.diagonal().sum()), float(gram.square().sum())
    trace, square = trace / (n - 1), square / (n - 1) ** 2
    fourth = float(gram.diagonal().square().sum()) / (n - 1)
    scale = (n - 1) / (n * (n - 2) * (n - 3))
    both = scale * (2 * square + (n * n - 3 * n + 1) * trace**2 - n * fourth)
    second = scale * ((n - 1) * (n - 2) * square + trace**2 - n * fourth)
    return (both, second) if second > 0 < both else None


def two_nn(states: Tensor) -> Reading:
    """Intrinsic dimension of states (n, d) from each point's two nearest neighbours, with a 95 % interval.

    Copies of a row are dropped and counted in `method`: at distance 0 the ratio is infinite and says nothing.
    """
    wide = _states(states)
    alone = torch.unique(wide, dim=0) if len(wide[:, 0].unique()) < len(wide) else wide  # sorting whole rows takes long
    copies, n = len(wide) - len(alone), len(alone)
    dropped = f", {copies} copies of rows dropped" if copies else ""
    method = f"TwoNN by maximum likelihood over {n} points, variance over neighbourhoods that meet{dropped}"
    if n < LEAST_ROWS:
        return Reading.not_measured(
            f"{n} different rows; at least {LEAST_ROWS} are needed", unit="dimensions", method=method, n=n
        )
    ratios, neighbours = _two_nearest(alone)
    if not bool((ratios > 0).any()):
        why = "every point is as far from its first neighbour as from its second (a lattice); the ratios tell nothing"
        return Reading.not_measured(why, unit="dimensions", method=method, n=n)
    total = float(ratios.sum())
    value = (n - 1) / total
    variance = max(_meeting(ratios - ratios.mean(), neighbours) / total**2, _SHARED / n)
    reach = float(norm.ppf(0.975)) * variance**0.5
    return Reading(value, value * math.exp(-reach), value * math.exp(reach), 0.95, n, "dimensions", None, method)


def _two_nearest(points: Tensor) -> tuple[Tensor, Tensor]:
    """ln(r₂/r₁) (n,) and the indices (n, 3) of each point and its two nearest."""
    distance, places = two_nearest(points)
    own = torch.arange(len(points), device=places.device)
    return (distance[:, 1] / distance[:, 0]).log(), torch.cat([own[:, None], places], 1)


def _meeting(errors: Tensor, neighbours: Tensor) -> float:
    """Σ e_i e_j over pairs of points (each with itself too) whose {point, two nearest} have a member in common."""
    n, held = neighbours.shape
    columns, starts = neighbours.cpu().numpy().ravel(), np.arange(0, held * n + 1, held)
    member = csr_array((np.ones(held * n, dtype=np.int32), columns, starts), shape=(n, n))
    meet = member @ member.T
    values = errors.cpu().numpy()
    return float(values @ ((meet > 0).astype(np.float64) @ values))


def _states(states: Tensor) -> Tensor:
    if states.ndim != 2:
        raise InputError(f"states: got shape {tuple(states.shape)}, wanted (rows, d)")
    if len(states) < LEAST_ROWS:
        raise InputError(f"states: got {len(states)} rows, wanted at least {LEAST_ROWS}; add rows")
    wide = finite(states, "states")
    if bool((wide == wide[0]).all()):
        raise InputError("states: every row is the same, so they have no dimension; choose another site or position")
    return wide


def _codes(groups: Ints, n: int) -> Ints:
    codes = np.asarray(groups)
    if codes.shape != (n,):
        raise InputError(f"groups: got shape {codes.shape}, wanted one code for each of the {n} rows")
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)
