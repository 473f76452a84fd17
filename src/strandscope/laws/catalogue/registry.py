"""All laws of the catalogue by name."""

from __future__ import annotations

import difflib

from ...errors import InputError
from .entry import Entry

ENTRIES: tuple[Entry, ...] = ()

_BY_NAME = {entry.name: entry for entry in ENTRIES}
if len(_BY_NAME) != len(ENTRIES):
    raise ValueError("two laws share a name")


def law(name: str) -> Entry:
    """The entry called so; hyphens serve for the blanks of a name.

    Raises:
        InputError: there is none.
    """
    wanted = name.replace("-", " ").casefold()
    for entry in ENTRIES:
        if entry.name.replace("-", " ").casefold() == wanted:
            return entry
    near = "; ".join(difflib.get_close_matches(wanted, _BY_NAME, n=3, cutoff=0.3)) or "none"
    raise InputError(f"law {name!r}: there is none; the nearest are {near}; `strandscope law list` names all")
