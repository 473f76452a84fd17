"""Terms of one expression that contradict each other: what the one writes, the other undoes or makes meaningless."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from ..errors import InputError
from ..subject.attach import Scope
from ..subject.site import Site
from .expression import Term

Placed = tuple[Term, Mapping[Site, Scope]]


def check_agree(terms: Sequence[Placed]) -> None:
    """Refuse two terms along one strand, at one site and in scopes that may overlap, that

    push both ways; push along what another term holds at a value; or hold a coordinate in ranges that have nothing in common.

    Terms behind a gate may be meant for different states, and are let be.

    Raises:
        InputError: with both terms and what to write in their place.
    """
    for (first, here), (second, there) in combinations(terms, 2):
        if first.name != second.name or not _may_meet(here, there):
            continue
        both = f"edits {str(first)!r} and {str(second)!r} contradict each other"
        if first.kind == second.kind == "add":
            if (first.amount > 0) != (second.amount > 0):
                raise InputError(f"{both}: they push both ways along one strand; write the push that is left")
        elif "add" in (first.kind, second.kind) and _held(first if second.kind == "add" else second) is not None:
            raise InputError(
                f"{both}: one holds the coordinate that the other pushes; write set({first.name}, value), or one of them"
            )
        elif _apart(_held(first), _held(second)):
            raise InputError(f"{both}: no coordinate is in both ranges; write one of them")


def _apart(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    return one is not None and other is not None and max(one[0], other[0]) > min(one[1], other[1])


def _held(term: Term) -> tuple[float, float] | None:
    """The range in which a term leaves the coordinate; None where it holds nothing."""
    if term.kind == "clamp":
        return term.low, term.high
    return {"set": (term.amount, term.amount), "erase": (0.0, 0.0)}.get(term.kind)


def _may_meet(here: Mapping[Site, Scope], there: Mapping[Site, Scope]) -> bool:
    return any(_overlap(here[site], there[site]) for site in here if site in there)


def _overlap(one: Scope, other: Scope) -> bool:
    """Whether two scopes may name one state; True unless it is plain that they do not."""
    if one.gate is not None or other.gate is not None:
        return False
    if {one.phase, other.phase} == {"prompt", "generation"}:
        return False
    pairs = [(one.rows, other.rows), (one.tokens, other.tokens)]
    if isinstance(one.positions, tuple) and isinstance(other.positions, tuple) and not _mixed(one.positions, other.positions):
        pairs.append((one.positions, other.positions))
    if any(a is not None and b is not None and not set(a) & set(b) for a, b in pairs):
        return False
    return not _windows_apart(one.window, other.window)


def _mixed(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether some count from the start and some from the prompt's end, which may be the same positions."""
    return min(*one, *other) < 0 <= max(*one, *other)


def _windows_apart(one: tuple[int | None, int | None] | None, other: tuple[int | None, int | None] | None) -> bool:
    if one is None or other is None or any(end is not None and end < 0 for end in (*one, *other)):
        return False
    spans = [(start or 0, math.inf if stop is None else stop) for start, stop in (one, other)]
    return max(start for start, _ in spans) >= min(stop for _, stop in spans)
