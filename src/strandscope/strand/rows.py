"""Labelled states as `find` takes them, put into an order that depends on what the rows are and not on where they stood.

Folds and permutations are drawn row by row, so without it a shuffled file would be another draw of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..provenance import digest

Ints = NDArray[np.int64]


class Rows(Protocol):
    """Labelled rows; `capture.Examples` is one."""

    name: str
    classes: tuple[str, ...]

    @property
    def rows(self) -> Sequence[Any]: ...
    @property
    def positive(self) -> str | None: ...
    @property
    def pairs(self) -> Any: ...  # (rows,) codes, a row's own where it is in none
    @property
    def digest(self) -> str: ...
    @property
    def row_digests(self) -> tuple[str, ...]: ...
    def require(self, min_per_class: int = 10, folds: int = 5) -> None: ...


@runtime_checkable
class _Captured(Protocol):
    """What captured states have, and nothing else that is handed to `find` by mistake."""

    def at(self, site: Any) -> Tensor: ...


class States(Protocol):
    """States at sites with the rows they are of, one state a row; `capture.Activations` is one."""

    @property
    def examples(self) -> Any: ...
    @property
    def sites(self) -> Sequence[Any]: ...
    @property
    def rows(self) -> Tensor: ...
    @property
    def labels(self) -> Any: ...  # (rows,) class codes
    @property
    def groups(self) -> Any: ...  # (rows,) group codes
    @property
    def texts(self) -> Any: ...  # one string a row
    @property
    def positions(self) -> Any: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def template(self) -> Any: ...
    @property
    def edited(self) -> bool: ...  # whether the network was under edits while they were captured
    def at(self, site: Any) -> Tensor: ...


def check_captured(acts: Any) -> None:
    if not isinstance(acts, _Captured):
        raise InputError(f"acts: got a {type(acts).__name__}, wanted captured states; ss.capture(subject, examples) makes them")


@dataclass(frozen=True)
class Ordered:
    """One state a row at every site that can tell anything, sorted by the rows' digests.

    `order` gives the place that each row had; `key` names the data whatever their order was; `skipped` are the sites where every
    row has the same state.
    """

    order: Ints
    labels: Ints
    groups: Ints
    pairs: Ints
    sites: tuple[str, ...]
    states: tuple[Tensor, ...]  # (rows, d) a site, fp32
    skipped: tuple[str, ...]
    key: str

    @classmethod
    def of(cls, acts: States) -> Ordered:
        examples = acts.examples
        if len(acts.rows) != len(examples.rows) or not bool((acts.rows == torch.arange(len(acts.rows))).all()):
            raise InputError(
                f"positions {acts.positions!r}: got {len(acts.rows)} states for {len(examples.rows)} rows; "
                "find wants one a row, such as 'last'"
            )
        digests = examples.row_digests
        order = np.array(sorted(range(len(digests)), key=digests.__getitem__), dtype=np.int64)
        groups, pairs = _renumbered(acts.groups[order]), _renumbered(examples.pairs[order])
        key = digest([digests[row] for row in order], groups.tolist())
        sites, states, skipped = _usable(acts, torch.as_tensor(order))
        return cls(order, acts.labels[order], groups, pairs, sites, states, skipped, key)


def _renumbered(codes: Ints) -> Ints:
    """The same parts, numbered as they first appear."""
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(code, len(numbers)) for code in codes.tolist()], dtype=np.int64)


def _usable(acts: States, order: Tensor) -> tuple[tuple[str, ...], tuple[Tensor, ...], tuple[str, ...]]:
    """Sites whose states vary, as fp32; one where all rows have the same state can tell nothing and is named as skipped."""
    sites, states, skipped = [], [], []
    for site in acts.sites:
        rows = acts.at(site).float()[order]
        if not bool(torch.isfinite(rows).all()):
            raise InputError(
                f"site {site}: its states hold a NaN or an infinity; leave it out of `at`, or look at the network there"
            )
        if bool((rows == rows[0]).all()):
            skipped.append(str(site))
        else:
            sites.append(str(site))
            states.append(rows)
    if not sites:
        raise InputError("sites: every row has the same state at all of them; choose other sites or another position")
    return tuple(sites), tuple(states), tuple(skipped)
