"""The effect of a push as data for a report, and the same for a terminal and a page: what moved, beside what, at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..reading import Reading
from .record import record
from .text import aligned, fenced, plain, visible

if TYPE_CHECKING:
    from ..control.cost import Cost
    from ..control.effect import Effect, Read
    from ..control.preflight import Preflight
    from ..control.window import Step, Window

NONE = 0.1  # class distances
KINDS = {"matched": "directions with the states' covariance", "isotropic": "directions at random"}


@record
class AgainstEntry:
    """A push beside random ones of one kind: its mean move, what of it is beyond theirs, the share of prompts that move the wrong
    way, and the move of the prompt at the 10th, 50th and 90th percentile."""

    kind: Literal["matched", "isotropic"]
    move: Reading
    beyond: Reading
    wrong: Reading
    quantiles: tuple[Reading, ...]


@record
class ReadEntry:
    """What one reader saw, in distances between the classes; without `against`, `reason` says why it was not measured."""

    reader: str
    told: str
    auroc: Reading
    against: tuple[AgainstEntry, ...]
    instruction: Reading
    reason: str


@record
class CostEntry:
    perplexity: Reading
    entropy: Reading
    accuracy: Reading
    repetition: Reading
    reply: Reading


@record
class StepEntry:
    nats: float
    beyond: Reading
    perplexity: Reading


@record
class WindowEntry:
    """Doses from `least` (an effect) to `greatest` (within the budget of perplexity), chosen on half of the prompts and passages;
    `curve` is of the other half."""

    reader: str
    verdict: str
    budget: float
    least: float | None
    greatest: float | None
    curve: tuple[StepEntry, ...]


@record
class PreflightEntry:
    """What was said before anything was pushed."""

    verdict: Literal["will steer", "will not", "cannot tell"]
    why: str
    use: str
    agreement: Reading
    predicted: Reading
    edge: Reading


@record
class EffectTexts:
    prompt: str
    said: dict[str, str]  # plain, pushed, instructed, random


@record
class EffectEntry:
    """The effect of a push at one dose on what the network says, paired by prompt."""

    status: Literal["measured"] = "measured"
    site: str
    positions: str
    nats: float
    cost_measured: float
    prompts: int
    topics: int
    empty: int
    reads: tuple[ReadEntry, ...]
    next_token: ReadEntry
    cost: CostEntry | None
    window: WindowEntry | None
    preflight: PreflightEntry | None
    texts: tuple[EffectTexts, ...]


def entry(
    effect: Effect, cost: Cost | None = None, window: Window | None = None, preflight: Preflight | None = None
) -> EffectEntry:
    """The record of an effect with what stands beside it; nothing is computed here."""
    return EffectEntry(
        site=effect.push,
        positions=effect.positions,
        nats=effect.nats,
        cost_measured=effect.cost,
        prompts=effect.prompts,
        topics=effect.topics,
        empty=effect.empty,
        reads=tuple(map(_read, effect.reads)),
        next_token=_read(effect.next_token),
        cost=None if cost is None else CostEntry(**{name: getattr(cost, name) for name in COSTS}),
        window=None if window is None else _window(window),
        preflight=None if preflight is None else _preflight(preflight),
        texts=tuple(
            EffectTexts(prompt=one["prompt"], said={name: text for name, text in one.items() if name != "prompt"})
            for one in effect.texts
        ),
    )


def _read(one: Read) -> ReadEntry:
    against = tuple(
        AgainstEntry(kind=kind, move=shift.move, beyond=shift.beyond, wrong=shift.wrong, quantiles=shift.quantiles)
        for kind, shift in one.against.items()
    )
    return ReadEntry(
        reader=one.reader, told=one.told, auroc=one.auroc, against=against, instruction=one.instruction, reason=one.reason
    )


def _window(one: Window) -> WindowEntry:
    return WindowEntry(
        reader=one.reader,
        verdict=one.verdict,
        budget=one.budget,
        least=one.least,
        greatest=one.greatest,
        curve=tuple(map(_step, one.curve)),
    )


def _step(one: Step) -> StepEntry:
    return StepEntry(nats=one.nats, beyond=one.beyond, perplexity=one.perplexity)


def _preflight(one: Preflight) -> PreflightEntry:
    return PreflightEntry(
        verdict=one.verdict,
        why=one.why,
        use=one.use,
        agreement=one.agreement,
        predicted=one.predicted,
        edge=one.edge,
    )


def headline(made: EffectEntry) -> Reading:
    """The effect on generated text beyond matched directions, by the reader of states; else by the first that reads."""
    found = [one for read in made.reads for one in read.against if one.kind == "matched"]
    if found:
        return found[0].beyond
    reasons = "; ".join(f"{read.reader}: {read.reason}" for read in made.reads) or "no reader was given"
    return Reading.not_measured(reasons, unit="class distances", method="scores of generated texts")


def verdict(made: EffectEntry) -> str:
    """What is said of a push by its headline; no effect only where the whole interval says so."""
    reading = headline(made)
    if reading.value is None or reading.low is None or reading.high is None:
        return "not measured"
    if reading.low > 0:
        return "moves the texts"
    if reading.high < 0:
        return "moves the texts away"
    return "no effect beyond random" if reading.low > -NONE and reading.high < NONE else "cannot tell"


COSTS = ("perplexity", "entropy", "accuracy", "repetition", "reply")
_COST_TITLES = {
    "perplexity": "perplexity of neutral passages",
    "accuracy": "next tokens predicted right",
    "repetition": "repeated 4-grams in replies",
    "reply": "KL over a reply",
}


# --- for a terminal and a page ---


def lines(made: EffectEntry) -> list[str]:
    """For a terminal."""
    head = f"{verdict(made)} at {made.nats:g} nats ({made.site}, {made.positions} positions, {made.prompts} prompts)"
    cells = [HEADER, *(row for read in (*made.reads, made.next_token) for row in _rows(read))]
    table = [visible(head, lines=False), *aligned([tuple(visible(cell, lines=False) for cell in row) for row in cells])]
    if made.cost is not None:
        table += ["", *(f"{title}: {getattr(made.cost, name)}" for name, title in _COST_TITLES.items())]
    if made.window is not None:
        table.append(visible(_window_line(made.window), lines=False))
    if made.preflight is not None:
        table.append(visible(f"said beforehand: {made.preflight.verdict} ({made.preflight.why})", lines=False))
    return table


HEADER = ("read by", "AUROC", "beside", "effect", "beyond them", "p", "wrong way", "an instruction")


def _rows(read: ReadEntry) -> list[tuple[str, ...]]:
    if not read.against:
        return [(read.reader, _short(read.auroc), "not measured", "", "", "", "", read.reason)]
    return [
        (
            read.reader,
            _short(read.auroc),
            f"{one.move.null.n if one.move.null else 0} {KINDS[one.kind]}",
            _short(one.move),
            _short(one.beyond),
            "" if one.move.null is None or one.move.null.p is None else f"{one.move.null.p:.2g}",
            _short(one.wrong),
            _short(read.instruction),
        )
        for one in read.against
    ]


def section(made: EffectEntry, level: str = "###") -> list[str]:
    """The part of a page in Markdown."""
    about = (
        f"**{verdict(made).capitalize()}** at {made.nats:g} nats per next token (measured: {made.cost_measured:.3g}), written at "
        f"{plain(made.site)}, {plain(made.positions)} positions. Effects are read off replies to {made.prompts} neutral prompts "
        f"of {made.topics} topics, in distances between the classes, by readers fitted on rows that did not make the push, "
        "and are paired with the plain reply to the same prompt; beside them random directions of the same nats. "
        f"{_empty(made)}The coordinate that the push writes is never read."
    )
    rows = [tuple(map(plain, row)) for read in (*made.reads, made.next_token) for row in _rows(read)]
    parts = [f"{level} The effect on generated text", about, _table(HEADER, rows)]
    spread = [_spread(read) for read in made.reads if read.against]
    parts += ["\n".join(f"- {line}" for line in spread)] if spread else []
    if made.cost is not None:
        cost = made.cost
        figures = [(title, _short(getattr(cost, name)), plain(getattr(cost, name).unit)) for name, title in _COST_TITLES.items()]
        parts += ["What it costs beside that, paired with the plain network:", _table(("", "pushed", "in"), figures)]
    if made.window is not None:
        steps = [(f"{one.nats:g}", _short(one.beyond), _short(one.perplexity)) for one in made.window.curve]
        parts += [plain(_window_line(made.window)), _table(("nats", "effect beyond random", "perplexity"), steps)]
    if made.preflight is not None:
        parts.append(f"Said beforehand: **{made.preflight.verdict}** ({plain(made.preflight.why)}).")
    for one in made.texts[:2]:
        parts.append(f"Asked:\n\n{fenced(one.prompt)}")
        parts += [f"*{plain(name)}*\n\n{fenced(text)}" for name, text in one.said.items()]
    return parts


def _empty(made: EffectEntry) -> str:
    return f"{made.empty} prompts got an empty text and are left out. " if made.empty else ""


def _spread(read: ReadEntry) -> str:
    quantiles = ", ".join(_short(one) for one in read.against[0].quantiles)
    return f"by {plain(read.reader)}, the prompt at the 10th, 50th and 90th percentile moves by {quantiles}"


def _window_line(one: WindowEntry) -> str:
    ends = " to ".join("none" if end is None else f"{end:g}" for end in (one.least, one.greatest))
    return (
        f"window of use: {one.verdict}; from the least dose with an effect to the greatest within {one.budget:g} times the plain "
        f"perplexity: {ends} nats (chosen on half of the prompts and passages, read on the other)"
    )


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ("---",) * len(columns), *rows])


def _short(reading: Reading) -> str:
    if reading.value is None:
        return "not measured"
    return f"{reading.value:.2f} [{reading.low:.2f}, {reading.high:.2f}]"
