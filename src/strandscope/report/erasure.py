"""An erasure as data: what probes read before and after it, at its site and later, and what it costs; and how it is shown.

What it promises is what every report does: each figure is a `Reading` with its interval, n, unit and method, or says that it was
not measured; unknown keys are refused. The same records stand in an audit's report and in what `strandscope erase` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..reading import Reading
from .record import record
from .text import aligned, plain, visible

if TYPE_CHECKING:
    from ..control.erase import Erasure

SCHEMA = "strandscope/erasure/1"
Verdict = Literal["erased", "leaks", "cannot tell"]


@record
class LeakEntry:
    """A probe's AUROC before and after, on rows and groups that the eraser has not seen; the verdict is of the interval."""

    probe: str
    before: Reading
    after: Reading
    verdict: Verdict
    reason: str


@record
class PlaceEntry:
    """Where probes looked: `later` blocks after the erasure."""

    site: str
    later: int
    leaks: tuple[LeakEntry, ...]


@record
class ErasureEntry:
    """One concept erased at one site of one network.

    `file` holds the eraser, "" where none was saved. `less` is by how much more a linear probe reads after plain LEACE of the
    same rows; `moved` the share of the variance that is taken out; `kl`, `loss` and `added` are the damage to neutral text,
    erased at all positions; `needed` the rows with which the best linear probe would be left .55, `bound` the same by the law
    of plain LEACE.
    """

    schema: Literal["strandscope/erasure/1"] = SCHEMA
    name: str
    classes: tuple[str, ...]
    site: str
    position: str
    verdict: Verdict
    rank: int
    shrinkages: tuple[float, ...]
    how: str
    file: str
    places: tuple[PlaceEntry, ...]
    less: Reading
    moved: Reading
    kl: Reading
    loss: Reading
    added: Reading
    needed: Reading
    bound: int | None
    fitted_rows: int
    fitted_groups: int
    certified_rows: int
    certified_groups: int
    permutations: int
    seed: int
    digest: str
    fingerprint: str

    @property
    def worst(self) -> LeakEntry:
        """The probe that reads most at the site itself."""
        return max(self.places[0].leaks, key=lambda leak: leak.after.value or 0.0)


def erasure_entry(made: Erasure, file: str = "") -> ErasureEntry:
    """The record of an erasure; nothing is computed here, only named."""
    places = tuple(
        PlaceEntry(
            site=place.site,
            later=place.later,
            leaks=tuple(
                LeakEntry(probe=one.probe, before=one.before, after=one.after, verdict=one.verdict, reason=one.reason)
                for one in place.leaks
            ),
        )
        for place in made.places
    )
    return ErasureEntry(
        name=made.name,
        classes=made.classes,
        site=made.site,
        position=made.position,
        verdict=made.verdict,
        rank=made.eraser.rank,
        shrinkages=made.eraser.shrinkages,
        how=made.eraser.how,
        file=file,
        places=places,
        less=made.less,
        moved=made.moved,
        kl=made.damage.kl,
        loss=made.damage.loss,
        added=made.damage.added,
        needed=made.needed,
        bound=made.bound,
        fitted_rows=made.fitted[0],
        fitted_groups=made.fitted[1],
        certified_rows=made.certified[0],
        certified_groups=made.certified[1],
        permutations=made.permutations,
        seed=made.seed,
        digest=made.digest,
        fingerprint=made.eraser.fingerprint,
    )


def sentence(entry: ErasureEntry) -> str:
    """What was done and found, in a line; for a finding's detail."""
    worst, kinds = entry.worst, [leak.verdict for place in entry.places for leak in place.leaks]
    counts = ", ".join(f"{word} {kinds.count(word)}" for word in ("erased", "leaks", "cannot tell") if word in kinds)
    return (
        f"Erased at {entry.site} with rank {entry.rank}, from {entry.fitted_rows} rows in {entry.fitted_groups} groups, judged "
        f"on {entry.certified_rows} others in {entry.certified_groups}. Of {len(kinds)} lines (probes, there and up to "
        f"{len(entry.places) - 1} blocks later): {counts}. The {worst.probe} probe reads most: {_brief(worst.before)} before, "
        f"{_brief(worst.after)} after. The cost is {_brief(entry.kl)} nats per next token."
    )


def lines(entry: ErasureEntry) -> list[str]:
    """For a terminal: a row a probe and place, then what it costs and what it would take."""
    head = f"{entry.name} erased at {entry.site} ({entry.position} token), rank {entry.rank}: {entry.verdict}"
    rows = [("site", "probe", "before", "after", "null", "verdict", "")]
    rows += [
        (place.site, leak.probe, _brief(leak.before), _brief(leak.after), _null(leak.after), leak.verdict, _why(leak))
        for place in entry.places
        for leak in place.leaks
    ]
    bound = "" if entry.bound is None else f"; by the law of plain LEACE {entry.bound:,}"
    return [
        visible(head, lines=False),
        visible(
            f"fitted on {entry.fitted_rows} rows in {entry.fitted_groups} groups, judged on {_judged_on(entry)}", lines=False
        ),
        "",
        *aligned([tuple(visible(cell, lines=False) for cell in row) for row in rows]),
        "",
        f"beyond plain LEACE  {_brief(entry.less)} AUROC less for a linear probe (shrinkages {_shrinkages(entry)})",
        f"taken out           {_brief(entry.moved)} of the variance of unseen rows",
        f"cost                {_brief(entry.kl)} nats per next token after neutral prompts, at all positions",
        f"loss                {_brief(entry.added)} nats per token more on neutral passages, from {_brief(entry.loss)}",
        f"rows needed         {_rows(entry.needed)}, for an AUROC of .55 at most{bound}",
    ]


def section(entries: Sequence[ErasureEntry]) -> list[str]:
    """The parts of a page: what was erased, a table of all concepts, and one of each."""
    if not entries:
        return []
    head = (
        "concept",
        "site",
        "verdict",
        "probe that reads most",
        "before",
        "after",
        "KL (nats)",
        "added loss (nats)",
        "rows needed",
    )
    rows = [
        (
            plain(one.name), plain(one.site), one.verdict, one.worst.probe, _brief(one.worst.before), _brief(one.worst.after),
            _brief(one.kl), _brief(one.added), _rows(one.needed),
        )
        for one in entries
    ]  # fmt: skip
    return [
        "## Erasure",
        "Can the concept be erased, so that no probe reads it any more? An eraser (least squares, closed form) was fitted on "
        "half of the groups. Probes were trained and tested on the other half, always on other groups, before and after. "
        "*Erased*: the interval of every probe lies within .5 ± .05, and the probe could read the concept before. *Leaks*: a "
        "probe reads it, at a level that holds for all lines of a concept together. *Rows needed*: to fit, until the best "
        "linear probe is left .55. The damage is that of the erasure at all positions of neutral prompts and passages.",
        _table([head, *rows]),
        *(part for one in entries for part in _one(one)),
    ]


def _one(entry: ErasureEntry) -> list[str]:
    head = ("probe", *(f"{plain(place.site)} {word}" for place in entry.places for word in ("before", "after", "verdict")))
    rows = [
        (
            entry.places[0].leaks[number].probe,
            *(
                cell
                for place in entry.places
                for cell in (_brief(place.leaks[number].before), _brief(place.leaks[number].after), place.leaks[number].verdict)
            ),
        )
        for number in range(len(entry.places[0].leaks))
    ]
    note = (
        f"Rank {entry.rank}, shrinkages {_shrinkages(entry)}, from {entry.fitted_rows} rows in {entry.fitted_groups} groups, "
        f"judged on {_judged_on(entry)}. A linear probe reads {_brief(entry.less)} less than after plain LEACE of the same rows. "
        f"{_brief(entry.moved)} of the variance of unseen rows is taken out."
    )
    return [f"### {plain(entry.name)}, erased at {plain(entry.site)}", _table([head, *rows]), plain(note)]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def _judged_on(entry: ErasureEntry) -> str:
    return f"{entry.certified_rows} rows in {entry.certified_groups} others; null of {entry.permutations} permutations"


def _shrinkages(entry: ErasureEntry) -> str:
    return ", ".join(f"{one:g}" for one in entry.shrinkages) or "none"


def _why(leak: LeakEntry) -> str:
    return leak.reason if leak.verdict == "cannot tell" else ""


def _null(reading: Reading) -> str:
    return "" if reading.null is None else f"{reading.null.value:.2f} [{reading.null.low:.2f}, {reading.null.high:.2f}]"


def _rows(reading: Reading) -> str:
    if reading.value is None or reading.low is None or reading.high is None:
        return f"not measured ({reading.reason})"
    return f"{reading.value:,.0f} [{reading.low:,.0f}, {reading.high:,.0f}]"


def _brief(reading: Reading) -> str:
    if reading.value is None or reading.low is None or reading.high is None:
        return "not measured"
    digits = 3 if reading.high - reading.low < 0.02 or abs(reading.value) < 0.1 else 2
    return f"{reading.value:.{digits}f} [{reading.low:.{digits}f}, {reading.high:.{digits}f}]"
