"""Laws as lines for a terminal and as pages of Markdown, made from the entry and, where there is one, its last run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from ..law import Check, LawResult
from .entry import Entry
from .run import LawRun, Ran

_WIDTH = 100


def listed(entries: Sequence[Entry]) -> Iterator[str]:
    """One line a law."""
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        yield f"{entry.name:{width}}  {entry.law.formula}"


def shown(entry: Entry) -> Iterator[str]:
    """What a law says, where it holds, and how it is tested."""
    law = entry.law
    yield f"{law.name}: {law.formula}"
    yield ""
    for symbol, meaning in law.symbols.items():
        yield f"  {symbol}: {meaning}"
    yield ""
    yield from textwrap.wrap(entry.about, _WIDTH)
    yield ""
    for title, text in (("domain", law.domain), ("negative control", entry.control), ("source", entry.source)):
        yield from textwrap.wrap(f"{title}: {text}", _WIDTH, subsequent_indent="  ")
    yield f"takes about {entry.seconds:.0f} s on one core; `strandscope law run '{law.name}'` runs it"


def lines(run: LawRun) -> Iterator[str]:
    """A row a law, what was not as it should be below it."""
    width = max(len(one.result.name) for one in run.ran)
    yield f"{'law':{width}}  seed  {'verdict':12}  {'measured against predicted':38}  control"
    for one in run.ran:
        result = one.result
        control = result.control
        as_stated = (
            f"{control.found}, as stated" if control.verdict == "passed" else f"{control.found}, wanted {control.expected}"
        )
        yield f"{result.name:{width}}  {one.seed:4}  {result.verdict:12}  {_compared(result):38}  {as_stated}"
    for one in run.ran:
        yield from _not_met(one)
    passed = sum(one.passed for one in run.ran)
    yield f"{passed} of {len(run.ran)} passed; {sum(one.seconds for one in run.ran):.0f} s of one core"


def _compared(result: LawResult) -> str:
    return str(result.ratio).replace("measured/predicted", "of predicted")


def _not_met(one: Ran) -> Iterator[str]:
    result, control = one.result, one.result.control
    if result.verdict != "consistent":
        for check in result.checks:
            if check.verdict != "consistent":
                yield f"{result.name}, seed {one.seed}: {_check(check)}"
        if result.reason:
            yield f"{result.name}, seed {one.seed}: {result.reason}"
    if control.verdict != "passed":
        yield f"{result.name}, seed {one.seed}: the control ({control.what}) was {control.found}, wanted {control.expected}"


def _check(check: Check) -> str:
    return f"{check.what}: {check.verdict}, {check.compared}, wanted {_band(check.band)}"


def _band(band: tuple[float, float]) -> str:
    low, high = band
    if low == float("-inf"):
        return f"at most {high:.6g}"
    if high == float("inf"):
        return f"at least {low:.6g}"
    return f"{low:.6g} to {high:.6g}"


def markdown(entry: Entry, ran: Sequence[dict[str, Any]], figure: str | None = None) -> str:
    """A law's page.

    Args:
        ran: entries of `law run --json`, one for each seed; none where it was never run.
        figure: where its picture lies, relative to the page.
    """
    law = entry.law
    parts = [f"# {law.name[0].upper()}{law.name[1:]}", f"    {law.formula}"]
    parts.append("\n".join(f"- {symbol}: {meaning}" for symbol, meaning in law.symbols.items()))
    parts += [entry.about, f"**Domain.** {law.domain[0].upper()}{law.domain[1:]}.", f"**Source.** {entry.source}."]
    parts.append(f"**Negative control.** {entry.control}")
    if figure is not None:
        parts.append(f"![{law.name}]({figure})")
    parts += _last_run(ran)
    parts.append(f"Run it: `strandscope law run '{law.name}'` (about {entry.seconds:.0f} s on one core).")
    return "\n\n".join(parts) + "\n"


def _last_run(ran: Sequence[dict[str, Any]]) -> list[str]:
    if not ran:
        return []
    seeds = ", ".join(f"{one['seed']}: {one['verdict']}, control {one['negative_control']['found']}" for one in ran)
    first = ran[0]
    rows = ["| what | predicted | measured | compared | band | verdict |", f"|{'---|' * 6}"]
    named = [("", check) for check in first["checks"]]
    named += [("control: ", check) for check in first["negative_control"]["checks"]]
    for prefix, check in named:
        low, high = check["band"]
        band = _band((float("-inf") if low is None else low, float("inf") if high is None else high))
        figures = [_figure(check[name]) for name in ("predicted", "reading", "compared")]
        rows.append("| " + " | ".join([f"{prefix}{check['what']}".replace("|", "\\|"), *figures, band, check["verdict"]]) + " |")
    because = first["negative_control"]["because"]
    told = [f"Seed {first['seed']} in full:", "\n".join(rows)] if len(rows) > 2 else []
    return [f"**Last run**, by seed: {seeds}.", *told, *([f"The control comes out so because {because}."] if because else [])]


def _figure(reading: dict[str, Any]) -> str:
    if reading["value"] is None:
        return f"not measured ({reading['reason']})"
    value, low, high = (reading[name] for name in ("value", "low", "high"))
    unit = "" if reading["unit"] == "1" else " " + reading["unit"].replace("|", "\\|")
    return f"{value:.4g}{unit}" if low == high else f"{value:.4g} [{low:.4g}, {high:.4g}]{unit}"
