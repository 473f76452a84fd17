"""The exponent of a covariance's spectrum, λ_i ~ i^−a, with how far it depends on the window of ranks that is looked at.

a is minus the slope of ln λ on ln rank by least squares, ranks weighted by 1/rank so that each octave counts alike. The window is
set by the numbers of rows and dimensions alone, never by the fit: from rank 3 to a tenth of the smaller number; higher ranks of
a sample's spectrum bend down because the rows run out. The interval has two parts, added: how far a moves when the lower or the
upper half of the window (in octaves) is taken alone, and the 95 % jackknife interval over blocks of rows. No level is claimed for
the sum: where a power law holds it is wide enough, and where none does it is wide, which is the finding.

What it does not know: whether a power law holds at all. A window of less than two octaves cannot show one and is "not measured".
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from ..errors import InputError
from ..linalg import finite
from ..reading import Reading

Floats = NDArray[np.float64]

FIRST = 3
SHARE = 10  # the window ends at min(n, d)/SHARE
BLOCKS = 10


def spectral_exponent(states: Tensor, window: tuple[int, int] | None = None) -> Reading:
    """a of the covariance of states (n, d) over the ranks `window` (first, last), both counted from 1 and included.

    Raises:
        InputError: not (rows, d), fewer than 20 rows, a NaN, a window outside the ranks that the rows determine.
    """
    wide = finite(states, "states")
    if wide.ndim != 2 or len(wide) < 2 * BLOCKS:
        raise InputError(f"states: got shape {tuple(states.shape)}, wanted (rows, d) with at least {2 * BLOCKS} rows")
    n, d = wide.shape
    first, last = window or (FIRST, min(n, d) // SHARE)
    if window is not None and not 1 <= first < last <= min(n - 1 - n // BLOCKS, d):
        raise InputError(
            f"window: got {window}, wanted ranks between 1 and {min(n - 1 - n // BLOCKS, d)}, the first below the last"
        )
    method = (
        f"slope of ln λ on ln rank, ranks {first} to {last} of {n} rows in {d} dimensions; halves of the window and jackknife"
    )
    if last < 4 * first:
        why = f"ranks {first} to {last} are less than two octaves, which show no power law; give more rows or a wider window"
        return Reading.not_measured(why, unit="exponent", method=method, n=n)
    values = _eigenvalues(wide)
    if values[last - 1] <= 1e-14 * values[0]:
        why = f"the eigenvalue of rank {last} is rounding; end the window before it"
        return Reading.not_measured(why, unit="exponent", method=method, n=n)
    middle = round(math.sqrt(first * last))
    value = exponent_of(values, first, last)
    halves = (exponent_of(values, first, middle), exponent_of(values, middle, last))
    block = np.arange(n) % BLOCKS
    left = np.array([exponent_of(_eigenvalues(wide[torch.as_tensor(block != b)]), first, last) for b in range(BLOCKS)])
    error = math.sqrt((BLOCKS - 1) / BLOCKS * float(np.square(left - left.mean()).sum()))
    reach = float(student.ppf(0.975, BLOCKS - 1)) * error
    low, high = min(value, *halves) - reach, max(value, *halves) + reach
    return Reading(value, low, high, None, n, "exponent", None, method)


def exponent_of(values: Floats, first: int, last: int) -> float:
    """Minus the slope of ln λ on ln rank over ranks first to last of a descending spectrum, each octave of equal weight."""
    ranks = np.arange(first, last + 1, dtype=np.float64)
    x, y, weight = np.log(ranks), np.log(values[first - 1 : last]), 1 / ranks
    weight = weight / weight.sum()
    x = x - float(weight @ x)
    return -float(weight @ (x * y)) / float(weight @ x**2)


def _eigenvalues(states: Tensor) -> Floats:
    centred = states - states.mean(0)
    return np.square(torch.linalg.svdvals(centred).numpy()) / (len(states) - 1)
