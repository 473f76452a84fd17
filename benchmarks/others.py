"""Data that others wrote: held-out AUROC, and what the states know beyond the words and the length, whichever way it comes out.

Nothing of this data is shipped, and no choice was made on it: positions and groups were fixed in this file before the first
run.

- refusal: 260 harmful requests of the refusal-direction data set (its training split) against the 120 harmless requests of our
  pack `harm`, as chats, last token. Each harmful row is a group of its own (the set names no topics); our rows keep their
  topics. Two authors wrote the two classes, so words and length can tell them apart by style: the paired differences are the
  point.
- facts: 612 true and false statements (representation-engineering), raw text, last token, each row a group of its own, although
  some statements come in variants of one another: a held-out variant helps words and states alike.
- axbench, ten concepts: 72 texts with the concept against the 72 without it that are of its genre (text, code or mathematics),
  as raw text, the mean over tokens, since a text is cut anywhere and the concept stands anywhere in it. Rows of one instruction
  are a group. Evidence is cross-fitted on these 144 rows; the set's evaluation rows are left untouched.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

import strandscope as ss
from common import Line, Results, Size, Table, main, messages_of

PERMUTATIONS = 200
Position = Literal["last", "mean"]


@dataclass(frozen=True, slots=True)
class Case:
    examples: ss.Examples
    positions: Position


def refusal(data: Path) -> Case:
    harmful = json.loads((data / "refusal" / "harmful_train.json").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = [
        {
            "messages": [{"role": "user", "content": row["instruction"]}],
            "label": 1,
            "group": f"refusal-{number}",
            "id": f"refusal-{number}",
        }
        for number, row in enumerate(harmful)
    ]
    rows += [
        {"messages": messages_of(row), "label": 0, "group": f"harm-{row.group}", "id": row.id}
        for row in ss.concept("harm").rows
        if row.label == 0
    ]
    return Case(ss.Examples.from_rows(rows, "refusal"), "last")


def facts(data: Path) -> Case:
    with (data / "repe" / "facts_true_false.csv").open(encoding="utf-8", newline="") as file:
        rows = [{"text": row["statement"], "label": int(row["label"])} for row in csv.DictReader(file)]
    return Case(ss.Examples.from_rows(rows, "facts"), "last")


def axbench(data: Path) -> Iterator[Case]:
    table = pd.read_parquet(data / "axbench" / "concept10_2b_l20_train_data.parquet")
    negatives = table[table["category"] == "negative"]
    for concept in sorted(set(table["concept_id"]) - {-1}):
        positives: Any = table[table["concept_id"] == concept]
        genre: Any = negatives[negatives["concept_genre"] == positives["concept_genre"].iloc[0]]
        rows = [
            {"text": output, "label": label, "group": instruction}
            for part, label in ((positives, 1), (genre, 0))
            for instruction, output in zip(part["input"], part["output"], strict=True)
        ]
        yield Case(ss.Examples.from_rows(rows, f"axbench {concept}"), "mean")


def measure(subject: ss.Subject, case: Case, at: str) -> ss.Found:
    acts = ss.capture(subject, case.examples, at=at, positions=case.positions)
    return ss.find(acts, permutations=PERMUTATIONS)


def _line(what: str, reading: ss.Reading) -> Line:
    if reading.value is None:
        raise SystemExit(f"{what}: {reading}")
    return Line(what, reading.value, reading.low, reading.high, reading.n, range_of="95 %")


def lines_of(found: ss.Found) -> tuple[Line, ...]:
    return (
        _line(f"{found.name}: held-out AUROC", found.decodable),
        _line(f"{found.name}: paired difference to bag of words", found.beyond_words),
        _line(f"{found.name}: paired difference to length", found.beyond_length),
    )


def _row(case: Case, found: ss.Found) -> tuple[Any, ...]:
    groups, null = len(set(case.examples.groups.tolist())), found.decodable.null
    about = (found.name, len(case.examples), groups, case.positions, found.verdict)
    readings = (found.decodable, found.words, found.length)
    beyond = (found.beyond_words, found.beyond_length)
    return (
        *about,
        *map(_short, readings),
        f"{null.value:.2f}" if null else "–",
        *(_short(reading, "+") for reading in beyond),
        found.best.site,
    )


def _short(reading: ss.Reading, sign: str = "") -> str:
    return f"{reading.value:{sign}.3f} [{reading.low:{sign}.3f}, {reading.high:{sign}.3f}]"


def run(size: Size) -> Results:
    if not size.data.is_dir():
        raise SystemExit(f"{size.data}: no such folder; name the data with --data or STRANDSCOPE_DATA")
    subject = ss.load("smollm2")
    cases = [refusal(size.data), facts(size.data), *axbench(size.data)]
    if not size.full:
        cases = cases[:1] + cases[-1:]
    found = [measure(subject, case, "resid:*" if size.full else "resid:20") for case in cases]
    columns = (
        "data",
        "rows",
        "groups",
        "state",
        "verdict",
        "AUROC",
        "words",
        "length",
        "null",
        "beyond words",
        "beyond length",
        "best site",
    )
    return Results(
        "SmolLM2-135M-Instruct, 30 block outputs, default methods, evidence cross-fitted over five folds of groups, "
        f"{PERMUTATIONS} permutations; AUROC with 95 % intervals clustered by group. None of this has a bar to reach.",
        tuple(line for each in found for line in lines_of(each)),
        (Table("As they came out", columns, tuple(_row(case, each) for case, each in zip(cases, found, strict=True))),),
        {f"axbench {row['concept_id']}": row["concept"] for row in _concepts(size.data)},
    )


def _concepts(data: Path) -> list[dict[str, Any]]:
    text = (data / "axbench" / "concept10_2b_l20_metadata.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


if __name__ == "__main__":
    main("others", run, __doc__ or "")
