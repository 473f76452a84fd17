"""All standards by name."""

from __future__ import annotations

import difflib

from ..errors import InputError
from . import (
    composed,
    curvature,
    detection,
    erasure,
    feature_laws,
    features,
    fitting,
    geometry,
    kernels,
    language,
    lawful,
    learned,
    machines,
    matrices,
    spectra,
    streams,
    tangent,
    weights,
)
from .standard import Standard

STANDARDS: tuple[Standard, ...] = (
    *detection.STANDARDS,
    *features.STANDARDS,
    *spectra.STANDARDS,
    *matrices.STANDARDS,
    *machines.STANDARDS,
    *learned.STANDARDS,
    *lawful.STANDARDS,
    *geometry.STANDARDS,
    *composed.STANDARDS,
    *streams.STANDARDS,
    *erasure.STANDARDS,
    *kernels.STANDARDS,
    *weights.STANDARDS,
    *curvature.STANDARDS,
    *tangent.STANDARDS,
    *feature_laws.STANDARDS,
    *fitting.STANDARDS,
    *language.STANDARDS,
)

_BY_NAME = {case.name: case for case in STANDARDS}
if len(_BY_NAME) != len(STANDARDS):
    raise ValueError("two standards share a name")


def standard(name: str) -> Standard:
    """The standard called so.

    Raises:
        InputError: there is none.
    """
    if name not in _BY_NAME:
        near = "; ".join(difflib.get_close_matches(name, _BY_NAME, n=3, cutoff=0.3)) or "none"
        raise InputError(f"standard {name!r}: there is none; the nearest are {near}; `strandscope calibrate --list` names all")
    return _BY_NAME[name]
