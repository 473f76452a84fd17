"""A push: directions that are added to states, at one site or several, one size for all of them.

What a push is made of is fixed; how far it goes is its size, so that a dose (`dose`) has one number to find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import InputError
from ..provenance import digest
from ..subject.attach import Edits, Scope
from ..subject.site import Site
from .edit import Add, check_direction, check_width, direction_digest

if TYPE_CHECKING:
    from ..subject.subject import Subject


@dataclass(frozen=True, slots=True, eq=False)
class Push:
    """size · direction at each of some sites, all in one scope.

    Attributes:
        directions: (d,) at each site, in the states' units there.
        scope: where in the rows it is written.
    """

    directions: Mapping[Site, Tensor]
    scope: Scope = field(default_factory=Scope)

    def __post_init__(self) -> None:
        if not self.directions:
            raise InputError("directions: got none, wanted one at one site at least")
        for direction in self.directions.values():
            check_direction(direction)

    def edits(self, size: float) -> Edits:
        return {site: [(Add(direction, size), self.scope)] for site, direction in self.directions.items()}

    def moves(self) -> dict[Site, Sequence[tuple[Tensor, Scope]]]:
        """What `capture.derivative` differentiates along."""
        return {site: [(direction, self.scope)] for site, direction in self.directions.items()}

    def opposite(self) -> Push:
        return Push({site: -direction for site, direction in self.directions.items()}, self.scope)

    def check(self, subject: Subject) -> None:
        """Raise InputError where a site does not exist or is of another width."""
        for site, direction in self.directions.items():
            check_width(direction, subject.port(site).width)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.directions)

    @property
    def site(self) -> str:
        """Its sites as one word: `resid:12`, or `resid:8,resid:9`."""
        return ",".join(map(str, self.directions))

    @property
    def positions(self) -> str:
        """Its scope in a word or two: "all", "last", or the conditions that it sets."""
        return scope_text(self.scope)

    @property
    def digest(self) -> str:
        """Of the directions, their signs and sites included; of one direction its own."""
        parts = [direction_digest(direction) for direction in self.directions.values()]
        return parts[0] if len(parts) == 1 else digest(*(f"{site} {part}" for site, part in zip(self.sites, parts, strict=True)))


def scope_text(scope: Scope) -> str:
    """A scope in words: "all", "last", "generation", "window(2, None), prompt"."""
    said = [] if scope.positions == "all" else ["last"] if scope.positions == "last" else [f"positions{scope.positions}"]
    said += [] if scope.window is None else [f"window{scope.window}"]
    said += [] if scope.phase == "both" else [scope.phase]
    said += [] if scope.tokens is None else [f"tokens{scope.tokens}"]
    said += [] if scope.rows is None else [f"rows{scope.rows}"]
    said += [f"except({scope_text(left)})" for left in scope.exclude]
    said += [] if scope.gate is None else [f"when({scope.gate})"]
    return ", ".join(said) or "all"
