"""All standards by name."""

from __future__ import annotations

from ..errors import InputError
from . import composed, detection, features, geometry, lawful, machines, spectra, streams
from .standard import Standard

STANDARDS: tuple[Standard, ...] = (
    *detection.STANDARDS,
    *features.STANDARDS,
    *spectra.STANDARDS,
    *machines.STANDARDS,
    *lawful.STANDARDS,
    *geometry.STANDARDS,
    *composed.STANDARDS,
    *streams.STANDARDS,
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
        raise InputError(f"standard {name!r}: there is none; wanted one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]
