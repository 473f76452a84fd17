"""From a report to what is on its page. Nothing is measured here; figures are named, put beside each other and told in words."""

from __future__ import annotations

from ..finding import Report, Unmeasured
from ..table import headline
from . import about, census, control, strands, watch
from .spec import Card, Fact, Page
from .words import brief, caveat

_CARD = (("decodable", "can be read at"), ("beyond_words", "beyond the words"), ("used", "used"), ("steer", "a push costs"))


def page(report: Report) -> Page:
    names = tuple(entry.name for entry in report.concepts)
    made = (
        about.measured(report),
        strands.section(report),
        census.section(report),
        control.section(report),
        watch.section(report),
        census.laws(report),
        about.limits(report),
        about.provenance(report),
    )
    return Page(
        title=f"Audit of {report.subject.name}",
        about=headline(report),
        quick=report.provenance.mode == "quick",
        cards=tuple(_card(report, name) for name in names),
        unmeasured=_unmeasured(report),
        concepts=names,
        sections=made,
    )


def _card(report: Report, name: str) -> Card:
    found = {word: report.finding(f"{name}.{word}") for word, _ in _CARD}
    main = found["decodable"]
    tone = {"detected": "shown", "not detected": "not shown"}.get(main.verdict, "not measured")
    facts = []
    for word, label in _CARD:
        reading = found[word].reading
        status = "not measured" if reading.value is None else "measured"
        value = f"{brief(reading)} {reading.unit}" if status == "measured" else caveat(reading.reason)
        if word == "used":
            label, value = "its use", found[word].verdict if status == "measured" else value
        facts.append(Fact(name=label, value=value, status=status))
    return Card(concept=name, question=main.question, verdict=main.verdict, tone=tone, facts=tuple(facts))  # type: ignore[arg-type]


def _unmeasured(report: Report) -> tuple[str, ...]:
    """What was not measured at all, in a line each; several concepts of one reason share theirs."""
    by: dict[tuple[str, str], list[str]] = {}
    for finding in report.findings:
        if finding.reading.value is None:
            concept, _, word = finding.id.rpartition(".")
            by.setdefault((_WHAT.get(word, word), finding.reading.reason), []).append(concept)
    lines = [f"{what}: {', '.join(concepts)} ({reason})" for (what, reason), concepts in by.items()]
    for what, part in (("census", report.census), ("monitor", report.monitor)):
        if isinstance(part, Unmeasured):
            lines.append(f"{what} ({part.reason})")
    if report.certificate.status == "not measured":
        lines.append(f"certificate ({report.certificate.reason})")
    return tuple(lines)


_WHAT = {
    "decodable": "whether it can be read",
    "best_site": "where it is read best",
    "words": "the words alone",
    "length": "the length alone",
    "beyond_words": "beyond the words",
    "beyond_length": "beyond the length",
    "detectable": "what could have been detected",
    "examples_needed": "examples needed",
    "used": "whether it is used",
    "steer": "cost of a push",
    "effect": "effect of a push on texts",
    "erasable": "whether it can be erased",
}
