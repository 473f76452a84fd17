"""A monitor as data for a report, and the same for a terminal and a page: its threshold, what that promises, and its recall."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..reading import Reading
from .record import Unmeasured, record
from .text import aligned, plain, visible

if TYPE_CHECKING:
    from ..monitor.evaluate import Evaluation
    from ..monitor.monitor import Monitor
    from ..monitor.shown import Shown


PLACED = "by its place"


@record
class EvaluationLine:
    """One way to tell the concept, and how well it does on rows that it has not seen."""

    how: str
    auroc: Reading
    recall: Reading


@record
class ConceptMonitorEntry:
    """One concept of a monitor. `others` is the share of held-out rows without the concept that alarm: nothing is promised of
    it. `error` is the expected calibration error of the probabilities, `slope` and `intercept` theirs, None without any."""

    concept: str
    positive: str
    sites: tuple[str, ...]
    threshold: float
    recall: Reading
    others: Reading
    error: Reading
    slope: float | None
    intercept: float | None
    evaluation: tuple[EvaluationLine, ...] = ()


@record
class WatchedRow:
    """A row as the monitor reads it: each token's score less the concept's threshold, in halves of its classes' distance.

    `why` it is shown: by its place in the file, or as one of the strand's own examples.
    """

    id: str
    label: str
    concept: str
    tokens: tuple[str, ...]
    values: tuple[float, ...]
    why: str = PLACED


@record
class MonitorEntry:
    """`false_alarms` is the rate per sequence of an alarm by any concept, expected and at most with `confidence`; the threshold
    is the `order`-th largest of `sequences` benign groups."""

    status: Literal["measured"] = "measured"
    aggregation: str
    skip: int
    template: dict[str, str]
    fingerprint: str
    rate: float
    confidence: float
    order: int
    sequences: int
    rows: int
    false_alarms: Reading
    concepts: tuple[ConceptMonitorEntry, ...]
    examples: tuple[WatchedRow, ...] | Unmeasured = Unmeasured(reason="rows are read in an audit alone")


def shown_as(concept: str, row: str) -> str:
    """The name of a row of a pack, wherever in a report it is shown."""
    return f"{concept} {row}"


@dataclass(frozen=True, slots=True)
class Look:
    """What a row is, why it is looked at, and by which concept; None: by every one."""

    label: str
    why: str = PLACED
    concept: str | None = None


def watched(monitor: Monitor, rows: Iterable[tuple[Look, Shown]]) -> tuple[WatchedRow, ...]:
    """Rows, once for each concept that looks at them."""
    return tuple(
        WatchedRow(
            id=row.id,
            label=look.label,
            concept=name,
            tokens=row.tokens,
            values=tuple(row.values[:, place].tolist()),
            why=look.why,
        )
        for look, row in rows
        for place, name in enumerate(monitor.concepts)
        if look.concept in (None, name)
    )


def entry(monitor: Monitor, evaluations: tuple[Evaluation, ...] = ()) -> MonitorEntry:
    """The record of a monitor, with what `monitor.evaluate` measured of its concepts."""
    return MonitorEntry(
        aggregation=str(monitor.reader.aggregation),
        skip=monitor.reader.skip,
        template=dict(monitor.template),
        fingerprint=monitor.fingerprint,
        rate=monitor.threshold.rate,
        confidence=monitor.threshold.confidence,
        order=monitor.threshold.order,
        sequences=monitor.threshold.sequences,
        rows=monitor.threshold.rows,
        false_alarms=monitor.false_alarms,
        concepts=tuple(_concept(monitor, name, evaluations) for name in monitor.concepts),
    )


def _concept(monitor: Monitor, name: str, evaluations: tuple[Evaluation, ...]) -> ConceptMonitorEntry:
    judged, channels = monitor.judged[name], [row for row in monitor.reader.channels.rows if row.concept == name]
    curve = judged.probability
    return ConceptMonitorEntry(
        concept=name,
        positive=str(channels[0].about["positive"]),
        sites=tuple(channel.site for channel in channels),
        threshold=monitor.threshold_of(name).value,
        recall=judged.recall,
        others=judged.false_alarms,
        error=judged.error,
        slope=None if curve is None else curve.slope,
        intercept=None if curve is None else curve.intercept,
        evaluation=tuple(
            EvaluationLine(how=line.how, auroc=line.auroc, recall=line.recall)
            for evaluation in evaluations
            if evaluation.concept == name
            for line in evaluation.lines
        ),
    )


def lines(made: MonitorEntry) -> list[str]:
    """For a terminal."""
    head = (
        f"false alarms per sequence: {made.false_alarms.value:.2%} to expect, at most {made.rate:.3g} with confidence "
        f"{made.confidence:g} (the {_nth(made.order)}largest of {made.sequences} benign groups, {made.rows} rows)"
    )
    table = [("concept", "sites", "threshold", "recall", "alarms on others", "calibration error")]
    table += [
        (one.concept, ", ".join(one.sites), f"{one.threshold:.2f}", _short(one.recall), _short(one.others), _short(one.error))
        for one in made.concepts
    ]
    over = f"over tokens: {made.aggregation}, the first {made.skip} left out" if made.skip else f"over tokens: {made.aggregation}"
    rows = [tuple(visible(cell, lines=False) for cell in row) for row in table]
    return [head, over, "", *aligned(rows), *(line for one in made.concepts for line in _evaluated(one))]


def _evaluated(one: ConceptMonitorEntry) -> list[str]:
    if not one.evaluation:
        return []
    rows = [("told by", "AUROC", "recall"), *((line.how, _short(line.auroc), _short(line.recall)) for line in one.evaluation)]
    return ["", visible(one.concept, lines=False), *aligned(rows)]


def section(made: MonitorEntry) -> list[str]:
    """The part of a page in Markdown."""
    about = (
        f"Calibrated on {made.sequences} benign groups ({made.rows} sequences) to at most {made.rate:g} false alarms per "
        f"sequence, by any concept, with confidence {made.confidence:g}; to expect: {made.false_alarms}. Over tokens: "
        f"{plain(made.aggregation)}. It holds for sequences that are drawn as those were."
    )
    table = _table(
        ("concept", "sites", "threshold", "recall at it", "others that alarm", "calibration error"),
        [
            (
                plain(one.concept), plain(", ".join(one.sites)), f"{one.threshold:.2f}", _short(one.recall), _short(one.others),
                _short(one.error),
            )
            for one in made.concepts
        ],
    )  # fmt: skip
    parts = ["## Monitor", about, table]
    for one in made.concepts:
        if one.evaluation:
            rows = [(plain(line.how), _short(line.auroc), _short(line.recall)) for line in one.evaluation]
            parts.append(f"What tells {plain(one.concept)}, on rows that it has not seen:")
            parts.append(_table(("told by", "AUROC", "recall at the threshold"), rows))
    return parts


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ("---",) * len(columns), *rows])


def _short(reading: Reading) -> str:
    if reading.value is None:
        return "not measured"
    return f"{reading.value:.2f} [{reading.low:.2f}, {reading.high:.2f}], n = {reading.n}"


def _nth(order: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(order % 10, "th") if order % 100 not in (11, 12, 13) else "th"
    return "" if order == 1 else f"{order}{ending} "
