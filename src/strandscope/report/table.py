"""The verdicts of a report as a table: a row a concept, read in ten seconds. The terminal and the page show the same rows."""

from __future__ import annotations

from .finding import Report
from .text import aligned, visible
from .verdict import brief

HEADER = ("concept", "verdict", "AUROC", "null", "best site", "beyond the words", "used at the last token", "cost of the push")
_USED = {"read and used": "used", "read, and equivalent to no use at this position": "equivalent to no use"}


def rows(report: Report) -> list[tuple[str, ...]]:
    made = []
    for entry in report.concepts:
        found = {
            name: report.finding(f"{entry.name}.{name}") for name in ("decodable", "best_site", "beyond_words", "used", "steer")
        }
        decodable, cost = found["decodable"].reading, found["steer"].reading
        null = (
            "not measured"
            if decodable.null is None
            else f"{decodable.null.value:.2f} [{decodable.null.low:.2f}, {decodable.null.high:.2f}]"
        )
        made.append(
            (
                entry.name,
                found["decodable"].verdict,
                brief(decodable),
                null,
                found["best_site"].verdict,
                brief(found["beyond_words"].reading, signed=True),
                _USED.get(found["used"].verdict, found["used"].verdict),
                "not measured" if cost.value is None else f"{cost.value:.2g} nats",
            )
        )
    return made


def lines(report: Report) -> list[str]:
    """For a terminal; below the table, what could have been detected where nothing was."""
    table = aligned([HEADER, *[tuple(visible(cell, lines=False) for cell in row) for row in rows(report)]])
    limits = [_limit(report, entry.name) for entry in report.concepts if _absent(report, entry.name)]
    return [headline(report), "", *table, *(["", *limits] if limits else [])]


def _absent(report: Report, name: str) -> bool:
    return report.finding(f"{name}.decodable").verdict == "not detected"


def _limit(report: Report, name: str) -> str:
    reading = report.finding(f"{name}.detectable").reading
    shown = f"these {reading.n} rows would have shown an AUROC from {brief(reading)} on (power 0.8, asked alone)"
    said = reading.reason if reading.value is None else shown
    return visible(f"{name} was not detected: {said}", lines=False)


def headline(report: Report) -> str:
    subject = report.subject
    anatomy = f"{subject.anatomy.family}, {subject.anatomy.blocks} blocks, d {subject.anatomy.width}"
    about = f"{anatomy}, {subject.dtype} on {subject.device}"
    passed = sum(line.status == "passed" for line in subject.selfcheck)
    quick = "; QUICK: fewer and shorter texts" if report.provenance.mode == "quick" else ""
    return visible(f"{subject.name} ({about}, {subject.fingerprint[:12]}); selfcheck: {passed} lines passed{quick}", lines=False)
