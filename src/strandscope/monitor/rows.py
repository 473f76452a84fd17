"""Scores and the groups they come in: what is checked before anything is counted, and a share that is counted by groups.

A group is what would be drawn again if the data were collected again (a template, a conversation, a source). Rows of a group may
depend on each other in any way, groups may not; a row without a group is its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from ..errors import InputError
from ..reading import Reading

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

Groups = Sequence[str] | Sequence[int] | NDArray[np.generic]


def finite(name: str, values: ArrayLike, *, dimensions: int | tuple[int, ...] = 1) -> Floats:
    """`values` as float64 of that many dimensions (or one of those), at least one number and all of them finite.

    Raises:
        InputError: it is none of this; the sentence names the first row that is not finite.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}, wanted numbers alike in shape; look at what was read") from error
    allowed = (dimensions,) if isinstance(dimensions, int) else dimensions
    if array.ndim not in allowed or array.size == 0:
        wanted = " or ".join(map(str, allowed))
        raise InputError(f"{name}: got shape {array.shape}, wanted {wanted} dimension(s) and at least one number; reshape it")
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise InputError(f"{name}: row {row} holds a number that is not finite; leave the row out or mend what computed it")
    return array


def share_between(name: str, value: float) -> float:
    """`value` if it lies strictly between 0 and 1, else an InputError."""
    if not 0 < value < 1:
        raise InputError(f"{name}: got {value:g}, wanted a share strictly between 0 and 1, such as 0.01 for 1 %")
    return float(value)


def group_codes(groups: Groups | None, rows: int) -> Ints:
    """(rows,) group numbers from 0 on; every row is its own where `groups` is None.

    Raises:
        InputError: there is not one group per row.
    """
    if groups is None:
        return np.arange(rows)
    names = np.asarray(groups)
    if names.shape != (rows,):
        raise InputError(
            f"groups: got shape {names.shape} for {rows} rows, wanted one group per row; pass None if each is its own"
        )
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def share(hits: Bools, codes: Ints, level: float, *, unit: str, method: str) -> Reading:
    """Share of hits, a group drawn first and a row of it second, with an exact interval (Clopper & Pearson 1934) over groups.

    The lower end counts the groups whose every row is a hit, the upper end those with any: the probability of the first is at
    most the share and that of the second at least, however rows of a group depend on each other. Where each row is its own
    group this is the plain Clopper–Pearson interval.
    """
    inside = np.bincount(codes, hits) / np.bincount(codes)
    n, every, some = len(inside), int((inside == 1).sum()), int((inside > 0).sum())
    tail = (1 - level) / 2
    low = float(betaincinv(every, n - every + 1, tail)) if every else 0.0
    high = float(betaincinv(some + 1, n - some, 1 - tail)) if some < n else 1.0
    value = float(inside.mean())
    # Where every and some are 0 or n, an end is the value itself: rounding of the mean must not put it outside.
    return Reading(value, min(low, value), max(high, value), level, n, unit, None, method)
