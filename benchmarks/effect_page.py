"""The page of the benchmark of effects: figures and tables of what `effect.py` measured, from its plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from common import Line, Table
from strandscope.control.preflight import Case, record

COSTS = {
    "perplexity": "perplexity of neutral passages",
    "repetition": "repeated 4-grams in replies",
    "accuracy": "next tokens predicted right",
    "reply": "KL over a reply",
}


def lines(found: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]]) -> list[Line]:
    made: list[Line | None] = []
    for one in found:
        for read in one["effect"]["reads"]:
            for kind, shift in read["against"].items():
                note = f"{one['push']}, {one['nats']:g} nats; p {shift['move']['null']['p']:.2g}"
                made.append(_line(f"{one['concept']}, {read['reader']}: effect beyond {kind} directions", shift["beyond"], note))
                if (read["reader"], kind) == ("states", "matched"):
                    low, unit = float(shift["beyond"]["low"]), shift["beyond"]["unit"]
                    made.append(Line(f"{one['concept']}, states: lower end of that interval", low, unit=unit, least=0.0))
        costs = one["cost"] or {}
        made += [_line(f"{one['concept']}: {name}", costs[key], "") for key, name in COSTS.items() if key in costs]
    cases = [Case(one["concept"], one["preflight"]["verdict"], one["outcome"]) for one in verdicts]
    made += [_right(cases)] if cases else []
    return [line for line in made if line is not None]


def _right(cases: Sequence[Case]) -> Line:
    right, what = record(cases).right, "verdicts beforehand that came true"
    said = sum(case.verdict != "cannot tell" for case in cases)
    note = f"{said} of {len(cases)} said yes or no"
    return _line(what, asdict(right), note) or Line(what, 0.0, n=0, note=right.reason)


def _line(what: str, reading: dict[str, Any], note: str) -> Line | None:
    if reading["value"] is None:
        return None
    value, low, high = (float(reading[key]) for key in ("value", "low", "high"))
    return Line(what, value, low, high, reading["n"], reading["unit"], range_of="95 %", note=note)


def tables(found: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]]) -> tuple[Table, ...]:
    made = []
    reads = [(one, read) for one in found for read in [*one["effect"]["reads"], one["effect"]["next_token"]]]
    made.append(
        Table(
            "Effects, in distances between the classes",
            (
                "concept",
                "reader",
                "AUROC",
                "effect",
                "random: mean",
                "isotropic: mean",
                "wrong way",
                "10, 50, 90 %",
                "instruction",
            ),
            tuple(_row(one, read) for one, read in reads),
        )
    )
    made.append(
        Table(
            "Against the strand",
            ("concept", "effect", "beyond matched"),
            tuple((one["concept"], *_away(one["away"])) for one in found if one["away"]),
        )
    )
    made.append(
        Table(
            "Windows of use (on prompts and passages that chose nothing)",
            ("concept", "verdict", "least", "greatest", "nats", "beyond matched", "perplexity"),
            tuple(
                (
                    one["concept"],
                    frame["verdict"],
                    frame["least"],
                    frame["greatest"],
                    step["nats"],
                    _told(step["beyond"]),
                    _told(step["perplexity"]),
                )
                for one in found
                for frame in [one["window"]]
                if frame
                for step in frame["curve"]
            ),
        )
    )
    made.append(
        Table(
            "What was tried on the prompts that choose",
            ("concept", "push", "nats", "move", "its lower end", "perplexity"),
            tuple(
                (one["concept"], *(t[key] for key in ("push", "nats", "move", "low", "perplexity")))
                for one in found
                for t in one["tried"]
            ),
        )
    )
    made.append(
        Table(
            "Verdicts before the push, and what came",
            ("concept", "site", "verdict", "why", "outcome", "beyond matched"),
            tuple(
                (one["concept"], said["site"], said["verdict"], said["why"], one["outcome"], _told(one["beyond"]))
                for one in verdicts
                for said in [one["preflight"]]
            ),
        )
    )
    for one in found:
        for n, text in enumerate(one["effect"]["texts"][:3]):
            made.append(
                Table(
                    f"{one['concept']}, text {n + 1}", ("", "text"), tuple((key, " ".join(v.split())) for key, v in text.items())
                )
            )
    return tuple(table for table in made if table.rows)


def _row(one: dict[str, Any], read: dict[str, Any]) -> tuple[Any, ...]:
    against = read["against"]
    if not against:
        return (one["concept"], read["reader"], _told(read["auroc"]), f"not measured: {read['reason']}", "", "", "", "", "")
    shift = against.get("matched") or next(iter(against.values()))
    nulls = [f"{against[kind]['move']['null']['value']:.3f}" if kind in against else "" for kind in ("matched", "isotropic")]
    quantiles = ", ".join(f"{q['value']:.2f}" for q in shift["quantiles"])
    asked = _told(read["instruction"])
    return (
        one["concept"],
        read["reader"],
        _told(read["auroc"]),
        _told(shift["move"]),
        *nulls,
        _told(shift["wrong"]),
        quantiles,
        asked,
    )


def _away(effect: dict[str, Any]) -> tuple[str, str]:
    read = effect["reads"][0]
    if not read["against"]:
        return read["reason"], ""
    return _told(read["against"]["matched"]["move"]), _told(read["against"]["matched"]["beyond"])


def _told(reading: dict[str, Any]) -> str:
    return "not measured" if reading["value"] is None else f"{reading['value']:.3f} [{reading['low']:.3f}, {reading['high']:.3f}]"
