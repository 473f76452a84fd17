"""What is on a page: sections of one question each, with figures as data, tables, texts and tokens. Never pixels, never markup.

What it promises: every number on a page was decided in Python; whoever draws it chooses colours and places, nothing else. A
text is a text: whoever shows it shows it as text nodes. What was not measured is a block of its own kind and cannot look like a
result.
`page.schema.json` beside this file publishes the shape; the page's types are generated from it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from ..draw import html, save, svg
from ..record import record

SCHEMA = "strandscope/page/1"
Role = Literal["first", "second", "third", "fourth", "null", "predicted", "control"]


@record
class Axis:
    """`link` names what a category stands for ("site"), so that choosing one here chooses it everywhere."""

    label: str
    unit: str = ""
    scale: Literal["linear", "log", "category"] = "linear"
    categories: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    link: Literal["", "site", "concept"] = ""


@record
class Mark:
    """A series: points (n,) with the ends of their intervals where they have some; a gap is a y of None, and `said` tells why.

    `said` has what each point says in words, for tips and screen readers.
    """

    name: str
    role: Role = "first"
    shape: Literal["line", "points"] = "points"
    x: tuple[float | str, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    said: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y), *(len(part) for part in (self.low, self.high, self.said) if part)}
        if len(lengths) != 1:
            raise ValueError(f"mark {self.name!r}: {sorted(lengths)} points, wanted as many of each")


@record
class Rule:
    """A line across the figure at one value of an axis."""

    axis: Literal["x", "y"]
    at: float
    label: str


@record
class Band:
    """A range of y, shaded: a null, a tolerance."""

    low: float
    high: float
    label: str


@record
class Figure:
    """One pair of axes. `caption` states the finding in words; `python` gives the same figures from `report`, the report.json."""

    kind: Literal["figure"] = "figure"
    id: str
    title: str
    caption: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    rules: tuple[Rule, ...] = ()
    bands: tuple[Band, ...] = ()
    python: str
    concept: str = ""

    def svg(self) -> str:
        """The figure as an SVG file; it needs the extra [figures]."""
        return svg(self)

    def save(self, path: str | Path) -> None:
        """Write it as .svg or .png; as `draw.save`."""
        save(self, path)

    def _repr_html_(self) -> str:
        return html(self)


@record
class Table:
    kind: Literal["table"] = "table"
    id: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False
    concept: str = ""


@record
class Prose:
    kind: Literal["prose"] = "prose"
    text: str
    concept: str = ""


@record
class NotMeasured:
    kind: Literal["not measured"] = "not measured"
    what: str
    reason: str
    concept: str = ""


@record
class Said:
    who: str
    text: str


@record
class Texts:
    """What was said to one prompt, in several ways side by side. Blocks of the same `example` are about the same prompt or row,
    and choosing it in one chooses it in all."""

    kind: Literal["texts"] = "texts"
    id: str
    example: str
    prompt: str
    said: tuple[Said, ...]
    concept: str = ""


@record
class Tokens:
    """A text with a value for each token. Marked are those beyond `bound`, on either side or `above` it alone, a shade darker for
    each `step`; `beyond` says in words what these are, with the unit. `example`: as of texts."""

    kind: Literal["tokens"] = "tokens"
    id: str
    example: str
    title: str
    tokens: tuple[str, ...]
    values: tuple[float, ...]
    bound: float
    step: float
    beyond: str
    above: bool = False
    concept: str = ""


Block = Annotated[Figure | Table | Prose | NotMeasured | Texts | Tokens, Field(discriminator="kind")]


@record
class Section:
    id: str
    title: str
    question: str
    blocks: tuple[Block, ...]


@record
class Fact:
    """One line of a card: what it is about and what is known, in words."""

    name: str
    value: str
    status: Literal["measured", "not measured"]


@record
class Card:
    """One concept in the strip of verdicts."""

    concept: str
    question: str
    verdict: str
    tone: Literal["shown", "not shown", "not measured"]
    facts: tuple[Fact, ...]


@record
class Page:
    schema: Literal["strandscope/page/1"] = SCHEMA
    title: str
    about: str
    quick: bool
    cards: tuple[Card, ...]
    unmeasured: tuple[str, ...]
    concepts: tuple[str, ...]
    sections: tuple[Section, ...]


def schema_text() -> str:
    """The JSON Schema of a page, as published in page.schema.json."""
    made: dict[str, Any] = TypeAdapter(Page).json_schema(mode="serialization")
    for kind in (made, *made.get("$defs", {}).values()):
        kind["required"] = list(kind.get("properties", {}))  # all are written, those that have a default too
        for field in kind.get("properties", {}).values():
            field.pop("title", None)  # a name of its own for each field would make a type of each
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Page"}
    return json.dumps(about | {key: value for key, value in made.items() if key != "title"}, indent=2, ensure_ascii=False) + "\n"
