"""A study of context as a table and sentences: on a terminal, and as the page that stands beside its data."""

from __future__ import annotations

from ..reading import Reading
from .result import Counting, Curve, Study

_HEAD = ("context", "loss (nats/token)", "nats/byte", "gain of the doubling", "n-gram of the same loss")
_BELOW = ("counted", "loss (nats/token)", "nats/byte", "above the network", "tokens that are worth it")


def lines(study: Study) -> list[str]:
    """For a terminal."""
    made = [f"{study.subject} ({study.dtype} on {study.device}), {study.seconds:.0f} s; {_counted_in(study)}"]
    for curve in study.curves:
        made += ["", f"{curve.name}: {_size(curve)}", ""]
        for head, rows in ((_HEAD, _points(curve)), (_BELOW, _rows(curve))):
            made += [*_aligned([head, *rows]), ""]
        made += sentences(curve)
    return made


def markdown(study: Study) -> str:
    """context.md; the figures' data are in context.json."""
    parts = [
        f"# What {study.subject} makes of its context",
        f"{_sentence(_counted_in(study))} {_how(study)}",
    ]
    for curve in study.curves:
        parts += [f"## {curve.name.capitalize()}", f"{_sentence(curve.about)} {_sentence(_size(curve))}"]
        parts += [_table(_HEAD, _points(curve)), _table(_BELOW, _rows(curve))]
        parts.append("\n".join(f"- {one}" for one in sentences(curve)))
    versions = ", ".join(f"{name} {number}" for name, number in study.versions.items())
    parts.append(f"Fingerprint {study.fingerprint[:12]}, seed {study.seed}, {study.seconds:.0f} s; {versions}.")
    return "\n\n".join(parts) + "\n"


def sentences(curve: Curve) -> list[str]:
    """What the figures say, in words."""
    last = curve.deepest
    made = [_stops(curve), _uses(curve, curve.used)]
    if curve.exponent.value is not None:
        towards = f"towards a loss of {_brief(curve.limit)} nats" if curve.limit.value is not None else curve.limit.reason
        made.append(f"The gain of a doubling falls as k^−γ, γ = {_brief(curve.exponent)}, {towards}.")
    if last.loss.value is not None and (best := _best(curve)).gap.value is not None:
        made.append(
            f"With {last.k} tokens its loss is {_brief(best.gap)} nats a token below that of the best count ({best.name}); "
            f"{_worth(best)}."
        )
    if curve.law is not None:
        check, control = curve.law.checks[0], curve.law.control
        made.append(
            f"From at most {last.k // 4} tokens L({last.k}) is foretold as {_brief(check.predicted)} and measured as "
            f"{_brief(check.reading)}, {_brief(check.compared)} of it: {curve.law.verdict}; with another document's context "
            f"{control.found}."
        )
    return made


def _stops(curve: Curve) -> str:
    n, most = curve.order, len(curve.everywhere)
    if n.value is None:
        return f"At which order counting stops was not measured ({n.reason})."
    loss = curve.everywhere[int(n.value) - 1]
    if int(n.value) == most:
        return f"Counting still gains at order {most}, the last there is ({_brief(loss)} nats a token over all tokens)."
    return f"Counting stops at order {n.value:.0f} [{n.low:.0f}, {n.high:.0f}] ({_brief(loss)} nats a token over all tokens)."


def _uses(curve: Curve, used: Reading) -> str:
    if used.value is None or used.value <= 1:
        return "No doubling of the context gains clearly: too few documents to tell."
    point, at = curve.at(int(used.value)), f"the doubling to {used.value:.0f} gains"
    made = f"The network uses {point.k} tokens of context, {at} {_brief(point.gain)} nats a token"
    if point is curve.deepest:
        return f"{made}; more were not tried."
    return (
        f"{made}; whether it uses {used.high:.0f} cannot be told." if used.high != used.value else f"{made}, and no longer one."
    )


def _best(curve: Curve) -> Counting:
    return min(curve.counting, key=lambda row: row.loss.value or 0.0)


def _worth(row: Counting) -> str:
    if row.worth.value is None:
        return f"what context that is worth is {row.worth.reason}"
    return f"{_brief(row.worth)} tokens of context give it that count's loss"


def _points(curve: Curve) -> list[tuple[str, ...]]:
    return [
        (
            f"{point.k}" if point.exact else f"{point.k} ± {point.k // 16}",
            _brief(point.loss),
            _per_byte(point.loss, curve),
            "" if point.gain.value is None else _brief(point.gain),
            _brief(point.equal) if point.equal.value is not None else point.equal.reason.split(",")[0],
        )
        for point in curve.points
    ]


def _rows(curve: Curve) -> list[tuple[str, ...]]:
    return [
        (row.name, _brief(row.loss), _per_byte(row.loss, curve), _brief(row.gap), _brief(row.worth) if row.worth.value else
         row.worth.reason.split(",")[0]) for row in curve.counting
    ]  # fmt: skip


def _per_byte(loss: Reading, curve: Curve) -> str:
    return "" if loss.value is None else f"{loss.value / curve.bytes_per_token:.3f}"


def _brief(reading: Reading) -> str:
    """The figure and its interval, without unit and method."""
    return str(reading).removesuffix(f" {reading.unit}") if reading.value is not None else "not measured"


def _size(curve: Curve) -> str:
    return (
        f"{curve.documents} documents, {curve.targets} target tokens, the same at every context; "
        f"{curve.bytes_per_token:.2f} bytes a token"
    )


def _counted_in(study: Study) -> str:
    about = study.counted_in
    return f"n-grams counted in {about['tokens']:,} tokens of {about['documents']} documents of the {about['name'].split(',')[0]}"


def _how(study: Study) -> str:
    return (
        "Both see the same tokens. The network gets exactly the last k tokens, at positions from 0, without a special token; "
        f"from k = 16 on, up to {study.span} neighbouring targets share a row, so that k is within a sixteenth. Intervals "
        f"are at {study.level:.0%} over documents; those of gains hold together."
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))
