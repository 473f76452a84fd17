"""A census as data: at each site the network's figures, those of its twins, and the verdict of their comparison.

What it promises is what every report does: each figure is a `Reading` with its interval, n, unit and method, or says that it was
not measured; nothing is a NaN; unknown keys are refused. `census.schema.json` beside this file publishes the shape of
census.json; the same record stands inside an audit's report.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from .. import io
from ..errors import InputError, TrustError
from ..provenance import versions
from ..reading import Reading
from .record import as_json, from_json, record

if TYPE_CHECKING:
    from ..census.result import Census, Network, Quantity, Sharing, SiteResult
    from ..laws.law import LawResult

SCHEMA = "strandscope/census/1"
Verdict = Literal["fewer than the twin", "as the twin", "more than the twin", "cannot tell", "not measured"]


@record
class AgainstEntry:
    """The network beside its twins of one kind. `ratio`, network over twin, is at 95 %; `decides` is the same at the level that
    holds for all sites and kinds of twins together, and the verdict is read off it."""

    kind: str
    twins: int
    reading: Reading
    ratio: Reading
    decides: Reading
    verdict: Verdict


@record
class QuantityEntry:
    """One quantity at one site: the network's own reading is there only where there are twins to hold it against."""

    id: str
    coordinates: Literal["raw", "whitened", "none"]
    what: str
    reading: Reading
    against: tuple[AgainstEntry, ...]


@record
class SiteEntry:
    """`contexts` had a response large and varied enough in every network, `below` had not and were left out."""

    site: str
    ambient: int
    contexts: int
    below: int
    trace: Reading
    quantities: tuple[QuantityEntry, ...]

    def quantity(self, name: str) -> QuantityEntry:
        for one in self.quantities:
            if one.id == name:
                return one
        raise InputError(f"quantity {name!r}: there is none; wanted one of {', '.join(one.id for one in self.quantities)}")


@record
class NetworkEntry:
    """A network that was measured; `scale` is the β its logits were multiplied by, `output` the PR of the output metric."""

    name: str
    kind: str
    seed: int
    fingerprint: str
    entropy: Reading
    scale: Reading
    output: Reading


@record
class ControlEntry:
    """A law's negative control: the same test where the outcome was stated beforehand."""

    what: str
    expected: str
    found: str
    ratio: Reading
    predicted: float | None
    verdict: Literal["passed", "failed"]


@record
class LawEntry:
    """One test of a law: what it predicted before, what came, their ratio, its negative control and the verdict."""

    name: str
    where: str
    formula: str
    symbols: dict[str, str]
    domain: str
    tolerance: float
    verdict: str
    reason: str
    reading: Reading
    predicted: Reading
    ratio: Reading
    negative_control: ControlEntry
    details: dict[str, Any]


@record
class SharingEntry:
    """What the nearest strands of ever more recorded contexts hold of a new context's response, in one network at one site.

    `shared` goes from an unrelated library (0) to the context's own directions (1); `held` is a share of what these hold
    (`ceiling`); `difference` is by how much the smooth theory's prediction of larger libraries was worse than the discrete one's.
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
    curve: dict[int, Reading]  # by the number of contexts recorded


@record
class CensusEntry:
    """The census of one network."""

    schema: Literal["strandscope/census/1"] = SCHEMA
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
    twins: int  # of each kind
    no_twins: str  # why some are missing
    margin: tuple[float, float]
    level: float  # of the intervals that decide
    networks: tuple[NetworkEntry, ...]
    sites: tuple[SiteEntry, ...]
    laws: tuple[LawEntry, ...]
    sharing: tuple[SharingEntry, ...]
    limits: tuple[str, ...]
    versions: dict[str, str]
    seed: int
    command: str
    date: str
    resumed: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.kind for one in self.networks[1:]))

    def site(self, name: str) -> SiteEntry:
        for one in self.sites:
            if one.site == name:
                return one
        raise InputError(f"site {name!r}: is not in this census; there are {', '.join(one.site for one in self.sites)}")


def census_entry(census: Census, command: str = "") -> CensusEntry:
    """The record of a census; nothing is computed here, only named."""
    same = {one.name for one in fields(CensusEntry)} & {one.name for one in fields(census)}  # type: ignore[arg-type]
    plain = {name: getattr(census, name) for name in same - {"networks", "sites", "laws", "sharing"}}
    return CensusEntry(
        **plain,
        twins=census.seeds,
        networks=tuple(map(_network, census.networks)),
        sites=tuple(map(_site, census.sites)),
        laws=tuple(map(law_entry, census.laws)),
        sharing=tuple(map(_sharing, census.sharing)),
        versions=versions(),
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _network(one: Network) -> NetworkEntry:
    return NetworkEntry(
        name=one.name,
        kind=one.kind,
        seed=one.seed,
        fingerprint=one.fingerprint,
        entropy=one.entropy,
        scale=one.scale,
        output=one.output,
    )


def _site(one: SiteResult) -> SiteEntry:
    return SiteEntry(
        site=one.site,
        ambient=one.ambient,
        contexts=one.contexts,
        below=one.below,
        trace=one.trace,
        quantities=tuple(map(_quantity, one.quantities)),
    )


def _sharing(one: Sharing) -> SharingEntry:
    named: dict[str, Any] = {each.name: getattr(one, each.name) for each in fields(SharingEntry)}  # type: ignore[arg-type]
    named["curve"] = dict(one.curve)
    return SharingEntry(**named)


def _quantity(one: Quantity) -> QuantityEntry:
    against = tuple(
        AgainstEntry(
            kind=beside.kind,
            twins=beside.twins,
            reading=beside.reading,
            ratio=beside.ratio,
            decides=beside.decides,
            verdict=beside.verdict,
        )
        for beside in one.against
    )
    return QuantityEntry(id=one.id, coordinates=one.coordinates, what=one.what, reading=one.reading, against=against)


def law_entry(result: LawResult) -> LawEntry:
    law, control = result.law, result.control
    return LawEntry(
        name=law.name,
        where=result.where,
        formula=law.formula,
        symbols=dict(law.symbols),
        domain=law.domain,
        tolerance=law.tolerance,
        verdict=result.verdict,
        reason=result.reason,
        reading=result.reading,
        predicted=result.predicted,
        ratio=result.ratio,
        negative_control=ControlEntry(
            what=control.what,
            expected=control.expected,
            found=control.found,
            ratio=control.ratio,
            predicted=control.predicted,
            verdict=control.verdict,
        ),
        details=dict(result.details),
    )


def write(entry: CensusEntry, folder: str | os.PathLike[str]) -> None:
    """census.json and census.md: both, or on a full disk neither."""
    from .census_page import markdown

    with io.staged(folder) as target:
        io.write_text(target / "census.md", markdown(entry))
        io.write_json(target / "census.json", as_json(entry))


def read(path: str | os.PathLike[str], fingerprint: str) -> CensusEntry:
    """The census in a census.json, or in the folder that holds one, of the network with this fingerprint.

    Raises:
        InputError, MissingError: it cannot be read as such. TrustError: it is of another network.
    """
    file = Path(path)
    file = file / "census.json" if file.is_dir() else file
    entry: CensusEntry = from_json(CensusEntry, io.read_text(file), str(file))
    if entry.fingerprint != fingerprint:
        raise TrustError(
            f"{file}: a census of the network {entry.fingerprint[:12]}, this one is {fingerprint[:12]}; take its census again"
        )
    return entry


def schema_text() -> str:
    """The JSON Schema of census.json, as published in census.schema.json."""
    made = TypeAdapter(CensusEntry).json_schema(mode="serialization")
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA}
    return json.dumps(about | {key: value for key, value in made.items() if key != "title"}, indent=2, ensure_ascii=False) + "\n"
