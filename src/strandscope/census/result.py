"""What a census says: at each site the trained network's figures, those of its twins, and the verdict of their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import InputError
from ..laws.law import LawResult
from ..reading import Reading
from .measure import Measurement

Verdict = Literal["fewer than the twin", "as the twin", "more than the twin", "cannot tell", "not measured"]


@dataclass(frozen=True, slots=True)
class Against:
    """The trained network beside its twins of one kind, on the same contexts.

    `ratio` is trained over twin at 95 %; `decides` is the same at the level that holds for all sites and kinds together, and the
    verdict is read off it.
    """

    kind: str
    twins: int
    reading: Reading
    ratio: Reading
    decides: Reading
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Quantity:
    """One quantity at one site. Without twins there is no `reading` of a dimension: it says "not measured"."""

    name: str
    coordinates: Literal["raw", "whitened", "none"]
    what: str
    reading: Reading
    against: tuple[Against, ...]

    @property
    def id(self) -> str:
        return self.name if self.coordinates != "whitened" else f"{self.name}_whitened"

    def beside(self, kind: str) -> Against:
        for one in self.against:
            if one.kind == kind:
                return one
        raise InputError(f"kind {kind!r}: no such twins; there are {', '.join(one.kind for one in self.against) or 'none'}")


@dataclass(frozen=True, slots=True)
class SiteResult:
    """`ambient` is the width. `contexts` were measured in all networks; in the others (`below`) the response is too small, or too
    few kinds of draws came, for its dimension to mean anything."""

    site: str
    ambient: int
    contexts: int
    below: int
    trace: Reading
    quantities: tuple[Quantity, ...]

    def __getitem__(self, name: str) -> Quantity:
        for one in self.quantities:
            if one.id == name:
                return one
        raise InputError(f"quantity {name!r}: there is none; wanted one of {', '.join(one.id for one in self.quantities)}")


@dataclass(frozen=True, slots=True)
class Network:
    """A network that was measured: its output's entropy, and the β that its logits were scaled by (1 for the trained one)."""

    name: str
    kind: str
    seed: int
    fingerprint: str
    entropy: Reading
    scale: Reading
    output: Reading  # PR of the output metric A
    seconds: float


@dataclass(frozen=True, slots=True)
class Sharing:
    """The coverage curve of one network at one site: what the nearest strands of ever more contexts hold of a new context.

    `verdict`: discrete, smooth, cannot tell, nothing shared or out of domain. `shared`: from an unrelated library (0) to the
    context's own directions (1). `held` is of the share that these hold (`ceiling`).
    """

    site: str
    network: str
    kind: str
    contexts: int
    verdict: str
    reason: str
    shared: Reading
    held: Reading
    difference: Reading
    ceiling: Reading
    chance: Reading
    curve: Mapping[int, Reading]


@dataclass(frozen=True, eq=False)
class Census:
    """The census of one network. `measured` holds every network's figures by context, the trained one first."""

    subject: str
    fingerprint: str
    dtype: str
    device: str
    source: str
    cut: str
    digest: str
    contexts: int
    groups: int
    tokens: Reading
    draws: int
    probes: int
    seeds: int
    seed: int
    margin: tuple[float, float]
    level: float  # of the intervals that decide
    networks: tuple[Network, ...]
    sites: tuple[SiteResult, ...]
    laws: tuple[LawResult, ...]
    sharing: tuple[Sharing, ...]
    limits: tuple[str, ...]
    resumed: tuple[str, ...]
    no_twins: str = ""  # why there are none
    measured: tuple[Measurement, ...] = field(default=(), repr=False)

    def at(self, site: str) -> SiteResult:
        for one in self.sites:
            if one.site == site:
                return one
        raise InputError(f"site {site!r}: is not in this census; there are {', '.join(one.site for one in self.sites)}")

    def __str__(self) -> str:
        head = f"census of {self.subject}: {self.contexts} contexts, {len(self.sites)} sites, twins: {self._twins()}"
        return "\n".join([head, *(_line(one) for one in self.sites)])

    __repr__ = __str__

    def _twins(self) -> str:
        kinds = [one.kind for one in self.networks[1:]]
        return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or f"none ({self.no_twins})"


def _line(site: SiteResult) -> str:
    excess = site["excess"]
    verdicts = ", ".join(f"{one.verdict} ({one.kind})" for one in excess.against)
    return f"{site.site}: alignment excess {excess.reading}{f'; {verdicts}' if verdicts else ''}"
