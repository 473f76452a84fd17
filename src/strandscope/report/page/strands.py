"""The strands: where each concept is read, whether it is used, and what its direction means."""

from __future__ import annotations

from ..finding import ConceptEntry, Meaning, Report, Unmeasured, Word
from ..monitored import shown_as
from .marks import mark
from .spec import Axis, Band, Block, Figure, Mark, NotMeasured, Prose, Rule, Section, Table, Tokens
from .words import brief, null, three


def section(report: Report) -> Section:
    blocks: list[Block] = [_table(report), *_plane(report)]
    for entry in report.concepts:
        blocks += [_curve(entry), _at_sites(entry), *_meaning(entry)]
    return Section(
        id="strands",
        title="The strands",
        question="Which concepts can be read off the states, where, and does the network use them?",
        blocks=tuple(blocks),
    )


def _table(report: Report) -> Table:
    rows = tuple(
        (
            found.id.rpartition(".")[0],
            found.question,
            found.verdict,
            three(found.reading),
            null(found.reading),
            str(found.reading.n),
        )
        for found in report.findings
    )
    columns = ("concept", "question", "verdict", "reading", "null", "n")
    return Table(id="findings", caption="Every finding, with its interval.", columns=columns, rows=rows, folded=True)


def _curve(entry: ConceptEntry) -> Figure:
    points, band = entry.curve.points, entry.curve.band
    readings = [point.reading for point in points]
    above = [point.site for point in points if band is not None and (point.reading.value or 0) > band]
    finding = f"{len(above)} of {len(points)} sites lie above the band" if band is not None else "no band was made"
    return Figure(
        id=f"curve-{entry.name}",
        title=f"Where {entry.name} is read",
        caption=f"{finding}; the strand was fixed at {entry.strand.site} by cross-validation. Points are AUROCs with 95 % "
        "intervals clustered by group; by luck the best of all sites exceeds the band in 5 % of cases.",
        x=Axis(label="site", scale="category", categories=tuple(point.site for point in points), link="site"),
        y=Axis(label="held-out AUROC", unit="0.5 is chance", low=0.3, high=1.0),
        marks=(mark(entry.name, "first", tuple(point.site for point in points), readings),),
        rules=(Rule(axis="y", at=0.5, label="chance"),),
        bands=() if band is None else (Band(low=0.3, high=band, label="best of all sites by luck, 95 %"),),
        python=f'[c["curve"]["points"] for c in report["concepts"] if c["name"] == {entry.name!r}]',
        concept=entry.name,
    )


def _at_sites(entry: ConceptEntry) -> Table:
    rows = tuple((point.site, brief(point.reading), str(point.reading.n)) for point in entry.curve.points)
    caption = f"{entry.name} site by site."
    return Table(
        id=f"sites-{entry.name}", caption=caption, columns=("site", "AUROC", "n"), rows=rows, folded=True, concept=entry.name
    )


def _plane(report: Report) -> list[Block]:
    """Read against use: one point a concept."""
    read, used, names, told = [], [], [], []
    missing: list[Block] = []
    for entry in report.concepts:
        if isinstance(entry.use, Unmeasured):
            missing.append(NotMeasured(what=f"Use of {entry.name}", reason=entry.use.reason, concept=entry.name))
            continue
        decodable, beyond = report.finding(f"{entry.name}.decodable").reading, entry.use.beyond
        if decodable.value is None or beyond.value is None:
            missing.append(NotMeasured(what=f"Use of {entry.name}", reason=beyond.reason or decodable.reason, concept=entry.name))
            continue
        read.append(decodable)
        used.append(beyond)
        names.append(entry.name)
        told.append(f"{entry.name}: read at {brief(decodable)} AUROC, {three(beyond)} {beyond.unit}: {entry.use.verdict}")
    if not names:
        return missing
    marks = tuple(
        Mark(
            name=name,
            role=("first", "second", "third", "fourth")[number % 4],
            x=(float(one.value or 0),),
            y=(other.value,),
            low=(other.low,),
            high=(other.high,),
            said=(text,),
        )
        for number, (name, one, other, text) in enumerate(zip(names, read, used, told, strict=True))
    )
    plane = Figure(
        id="read-use",
        title="Read and used",
        caption="How well a concept is read (right) against how much the next token depends on its direction (up), beside "
        f"directions with the states' own covariance (1). {'. '.join(told)}.",
        x=Axis(label="held-out AUROC", unit="0.5 is chance", low=0.45, high=1.0),
        y=Axis(label="susceptibility", unit=used[0].unit, scale="log"),
        marks=marks,
        rules=(Rule(axis="y", at=1.0, label="as matched directions"),),
        python='{c["name"]: c["use"]["beyond"] for c in report["concepts"] if "beyond" in c["use"]}',
    )
    return [plane, *missing]


def _meaning(entry: ConceptEntry) -> list[Block]:
    meaning = entry.meaning
    if isinstance(meaning, Unmeasured):
        return [NotMeasured(what=f"What the strand of {entry.name} means", reason=meaning.reason, concept=entry.name)]
    blocks: list[Block] = [_vocabulary(entry.name, meaning)] if meaning.vocabulary_bound is not None else []
    if meaning.bound is not None:
        blocks += [
            Tokens(
                id=f"tokens-{entry.name}-{number}",
                example=shown_as(entry.name, row.id),
                title=f"{row.why} ({row.score:+.2f}), {row.label}",
                tokens=row.tokens,
                values=row.values,
                bound=meaning.bound,
                step=meaning.bound / 2,
                beyond=f"beyond what chance gives (±{meaning.bound:.1f} standard deviations along the strand)",
                concept=entry.name,
            )
            for number, row in enumerate(meaning.examples)
        ]
    return blocks


def _vocabulary(name: str, meaning: Meaning) -> Prose:
    def words(items: tuple[Word, ...]) -> str:
        return ", ".join(f"“{item.token}”{' (beyond random)' if item.beyond_null else ''}" for item in items)

    return Prose(
        text=f"Through the unembedding the strand of {name} promotes {words(meaning.promotes)}; it suppresses "
        f"{words(meaning.suppresses)}.",
        concept=name,
    )
