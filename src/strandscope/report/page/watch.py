"""The monitor: its operating point, what that promises, and what tells the concepts."""

from __future__ import annotations

from ..finding import Report, Unmeasured
from ..monitored import PLACED, MonitorEntry
from .marks import mark
from .spec import Axis, Block, Figure, NotMeasured, Prose, Section, Table, Tokens
from .words import three

SHADE = 0.25  # of that unit


def section(report: Report) -> Section:
    made = report.monitor
    question = "If the network is watched, how often does it alarm falsely, and how much does it catch?"
    if isinstance(made, Unmeasured):
        return Section(
            id="monitor", title="Monitor", question=question, blocks=(NotMeasured(what="Monitor", reason=made.reason),)
        )
    text = (
        f"Calibrated on {made.sequences} benign groups ({made.rows} sequences) to at most {made.rate:g} false alarms per "
        f"sequence, by any concept, with confidence {made.confidence:g}; to expect: {three(made.false_alarms)}. It holds for "
        "sequences that are drawn as those were."
    )
    names = tuple(one.concept for one in made.concepts)
    figure = Figure(
        id="recall",
        title="What the monitor catches",
        caption="The share of held-out rows with the concept that alarm, and of those without it; 95 % intervals. Nothing is "
        "promised of rows that are not benign.",
        x=Axis(label="concept", scale="category", categories=names, link="concept"),
        y=Axis(label="share that alarms", unit="of rows", low=0.0, high=1.0),
        marks=(
            mark("recall at the threshold", "first", names, [one.recall for one in made.concepts]),
            mark("others that alarm", "second", names, [one.others for one in made.concepts]),
        ),
        python='{c["concept"]: (c["recall"], c["others"]) for c in report["monitor"]["concepts"]}',
    )
    rows = tuple(
        (one.concept, ", ".join(one.sites), f"{one.threshold:.2f}", three(one.recall), three(one.others), three(one.error))
        for one in made.concepts
    )
    columns = ("concept", "sites", "threshold", "recall at it", "others that alarm", "calibration error")
    blocks: list[Block] = [Prose(text=text), figure]
    blocks.append(Table(id="monitor-concepts", caption="The operating point of each concept.", columns=columns, rows=rows))
    for one in made.concepts:
        if one.evaluation:
            told = tuple((line.how, three(line.auroc), three(line.recall)) for line in one.evaluation)
            caption = f"What tells {one.concept}, on rows that it has not seen."
            blocks.append(
                Table(
                    id=f"evaluation-{one.concept}", caption=caption, columns=("told by", "AUROC", "recall at the threshold"),
                    rows=told, folded=True, concept=one.concept,
                )
            )  # fmt: skip
    return Section(id="monitor", title="Monitor", question=question, blocks=(*blocks, *_rows(made)))


def _rows(made: MonitorEntry) -> list[Block]:
    """A few rows token by token."""
    if isinstance(made.examples, Unmeasured):
        return [NotMeasured(what="Rows token by token", reason=made.examples.reason)]
    placed = "taken by their place in the files, whatever their scores"
    if any(row.why != PLACED for row in made.examples):
        placed = f"some {placed}, others the strand's own examples, which were chosen by theirs"
    tokens = [
        Tokens(
            id=f"watched-{number}",
            example=row.id,
            title=f"{row.concept} in {row.id}, {row.label} ({row.why})",
            tokens=row.tokens,
            values=row.values,
            bound=0.0,
            step=SHADE,
            beyond="above the threshold (by so many halves of the distance between the classes)",
            above=True,
            concept=row.concept,
        )
        for number, row in enumerate(made.examples)
    ]
    return [Prose(text=f"Rows as the monitor reads them, {placed}. A row alarms by its {made.aggregation} over tokens."), *tokens]
