"""The census, site by site beside the twins, and the laws that were tested with it."""

from __future__ import annotations

from ...reading import Reading
from ..census import CensusEntry
from ..census_page import TITLES, counts, tests_by_place
from ..finding import Report, Unmeasured
from .marks import mark
from .spec import Axis, Block, Figure, Mark, NotMeasured, Role, Rule, Section, Table
from .words import three

_ASKED = {
    "local": "How many directions does the output answer to at one place?",
    "pooled": "How many over all contexts together?",
    "data": "How many directions do the states themselves spread over?",
    "contraction": "How many directions does the rest of the network still tell apart?",
    "excess": "How far is the output's metric aligned with the Jacobian, beyond chance (1)?",
}
_ROLES: dict[str, Role] = {"random": "second", "scrambled": "third"}


def section(report: Report) -> Section:
    census = report.census
    question = "On how many directions does the output rest, and is that more or less than in twins that learned nothing?"
    if isinstance(census, Unmeasured):
        blocks: tuple[Block, ...] = (NotMeasured(what="Census", reason=census.reason),)
    else:
        blocks = (*(_figure(census, name) for name in _ASKED), _counts(census), *_tables(census))
    return Section(id="census", title="The census", question=question, blocks=blocks)


def _figure(census: CensusEntry, name: str) -> Figure:
    sites = tuple(site.site for site in census.sites)
    trained = [site.quantity(name).reading for site in census.sites]
    marks: list[Mark] = [mark("trained", "first", sites, trained)]
    for kind in census.kinds:
        beside = [{one.kind: one.reading for one in site.quantity(name).against}.get(kind) for site in census.sites]
        missing = Reading.not_measured("there is no such twin here", unit="dimensions", method="census")
        marks.append(mark(f"{kind} twins", _ROLES.get(kind, "fourth"), sites, [one or missing for one in beside]))
    unit = next((one.unit for one in trained if one.value is not None), "dimensions")
    return Figure(
        id=f"census-{name}",
        title=f"{TITLES[name][:1].upper()}{TITLES[name][1:]}",
        caption=f"{_ASKED[name]} {_verdicts(census, name)} Intervals are at 95 % over contexts, clustered by group.",
        x=Axis(label="site", scale="category", categories=sites, link="site"),
        y=Axis(label=TITLES[name], unit=unit, scale="log"),
        marks=tuple(marks),
        rules=(Rule(axis="y", at=1.0, label="general position"),) if name == "excess" else (),
        python=f'[q for s in report["census"]["sites"] for q in s["quantities"] if q["id"] == {name!r}]',
    )


def _verdicts(census: CensusEntry, name: str) -> str:
    parts = []
    for kind in census.kinds:
        words = [one.verdict for site in census.sites for one in site.quantity(name).against if one.kind == kind]
        told = ", ".join(f"{word} at {words.count(word)}" for word in dict.fromkeys(words))
        parts.append(f"Beside {kind} twins: {told} of {len(census.sites)} sites.")
    return " ".join(parts) or "There are no twins beside it."


def _counts(census: CensusEntry) -> Table:
    caption = "At how many sites the network has fewer directions than its twins, as many, or more."
    return Table(id="census-counts", caption=caption, columns=("quantity", *census.kinds), rows=tuple(counts(census)))


def _tables(census: CensusEntry) -> tuple[Table, ...]:
    names = [one.id for one in census.sites[0].quantities]
    rows = tuple((site.site, str(site.ambient), *(three(site.quantity(name).reading) for name in names)) for site in census.sites)
    columns = ("site", "width", *(TITLES.get(name, name) for name in names))
    return (Table(id="census-sites", caption="Every quantity at every site.", columns=columns, rows=rows, folded=True),)


def laws(report: Report) -> Section:
    census, question = report.census, "Which laws did the network keep, and which did it break?"
    if isinstance(census, Unmeasured):
        blocks: tuple[Block, ...] = (NotMeasured(what="Laws of strands", reason=census.reason),)
    elif not census.laws:
        blocks = (NotMeasured(what="Laws of strands", reason="the census has too few contexts or sites to test them"),)
    else:
        blocks = _tests(census)
    return Section(id="laws", title="Laws", question=question, blocks=blocks)


def _tests(census: CensusEntry) -> tuple[Block, ...]:
    tests = tests_by_place(census)
    rows = tuple(
        (
            law.name,
            place,
            three(law.predicted),
            three(law.reading),
            three(law.ratio),
            law.verdict,
            twins,
            law.negative_control.verdict,
        )
        for law, place, twins in tests
    )
    columns = ("law", "at", "predicted", "measured", "measured/predicted", "verdict", "on the twins", "negative control")
    table = Table(
        id="laws-table",
        caption="A prediction made from other figures, then measured. Where nothing was learned the laws should hold; a trained "
        "network that breaks one shows a trace of learning.",
        columns=columns,
        rows=rows,
    )
    free = [(law, place) for law, place, _ in tests if law.name == "free composition" and law.ratio.value is not None]
    if len(free) < 2:
        return (table,)
    sites = tuple(place for _, place in free)
    figure = Figure(
        id="law-free",
        title="Free composition by site",
        caption="Measured over predicted dimension; 1 is what metrics in general position have.",
        x=Axis(label="site", scale="category", categories=sites, link="site"),
        y=Axis(label="measured/predicted", unit="ratio"),
        marks=(mark("trained", "first", sites, [law.ratio for law, _ in free]),),
        rules=(Rule(axis="y", at=1.0, label="the law"),),
        python='[law["ratio"] for law in report["census"]["laws"] if law["name"] == "free composition"]',
    )
    return (figure, table)
