"""Eigenvalues of a kernel or a covariance as the rest of this package takes them: checked, in float64, descending."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError
from ...linalg import finite
from ...reading import Reading

Floats = NDArray[np.float64]


def spectrum_of(values: Tensor, name: str = "values") -> Floats:
    """(p,) positive eigenvalues, descending; those that are exactly 0 belong to no function that can be learned and are dropped.

    Raises:
        InputError: not one axis, a NaN or an infinity, a negative eigenvalue, none above 0.
    """
    if values.ndim != 1:
        raise InputError(f"{name}: got shape {tuple(values.shape)}, wanted (p,) eigenvalues")
    wide = np.sort(finite(values, name).numpy())[::-1]
    if len(wide) == 0 or wide[0] <= 0:
        raise InputError(f"{name}: none is above 0, so nothing can be learned; look where they come from")
    if wide[-1] < 0:
        raise InputError(f"{name}: got {wide[-1]:.3g}, wanted none below 0; clamp those that are rounding")
    return wide[wide > 0]


def counted(number: int, name: str, least: int = 1) -> int:
    if number < least:
        raise InputError(f"{name}: got {number}, wanted a whole number of at least {least}")
    return int(number)


def ridge_of(ridge: float) -> float:
    if not (ridge >= 0 and math.isfinite(ridge)):
        raise InputError(f"ridge: got {ridge}, wanted a finite number that is not below 0")
    return float(ridge)


def exact(value: float, n: int, unit: str, method: str) -> Reading:
    """A figure computed from what is known, not estimated: its interval has no width and claims no level."""
    return Reading(float(value), float(value), float(value), None, n, unit, None, method)
