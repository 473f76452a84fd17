"""A run as lines of text: what was watched, what formed when, what jumped, what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..reading import Reading

if TYPE_CHECKING:
    from .run import Run


def told(run: Run) -> str:
    """One block of plain text; widths follow what stands in the columns."""
    if not run.records:
        return f"{run.about['model']}: no record yet"
    steps = f"{run.records[-1].step} steps, {len(run.records)} records"
    lines = [f"{run.about['model']} ({run.about['parameters']:,} weights), {steps}, measured in {run.about['mode']}"]
    share = "not measured" if run.overhead.value is None else f"{run.overhead.value:.1%}"
    lines += [f"overhead: {share} of the training time, of {run.about['budget']:.0%} allowed", ""]
    rank = run.about["quantities"]["features"]["rank"]
    table = [("site", f"share along the last {rank}", "emerged at step", "relevant dimension")]
    for site in run.sites:
        aligned = run.alignment(site)
        table.append((site, _both(aligned), _step(run.emergence(site)), _both(run.series(f"{site}/dimension"))))
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    for moved in run.spikes():
        turned = ", ".join(f"{site} {_plain(reading)}" for site, reading in moved.rotation.items())
        lines.append(
            f"spike at step {moved.spike.first}, {moved.spike.height:.1f} times the loss before; turned from step "
            f"{moved.between[0]} to {moved.between[1]}: {turned or 'not measured'}"
        )
    return "\n".join([*lines, *(note for note in run.notes if not note.startswith("closed"))])


def _both(readings: list[Reading | None]) -> str:
    """From the first to the last."""
    first, last = readings[0], readings[-1]
    return f"{_plain(first)} → {_plain(last)}"


def _plain(reading: Reading | None) -> str:
    """Value and interval, without unit and null."""
    if reading is None or reading.value is None or reading.low is None or reading.high is None:
        return "not measured"
    digits = 1 if reading.value >= 10 else 2
    ends = "" if reading.low == reading.high else f" [{reading.low:.{digits}f}, {reading.high:.{digits}f}]"
    return f"{reading.value:.{digits}f}{ends}"


def _step(reading: Reading) -> str:
    if reading.value is None:
        return f"not measured ({reading.reason})"
    return f"{reading.value:.0f} [{reading.low:.0f}, {reading.high:.0f}]"
