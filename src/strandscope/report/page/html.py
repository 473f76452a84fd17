"""report.html: one file that needs nothing else, no network and, to be read, no script.

What it promises: without scripts the verdicts, every table, every text and the method are there, written here; with them the same
data are drawn as figures. Everything that anyone else wrote is text: escaped in the markup, and in the embedded JSON too, so that
no string can end a block. The file's own policy forbids every connection and every script and style but those whose hash it
names. Where the page's scripts were not built (no Node), the file says so in a sentence and has its tables.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from typing import Any

from ..finding import Report
from ..record import as_json, from_json
from ..text import visible
from .build import page
from .inline import built, inner, source
from .spec import Block, Card, Figure, Mark, NotMeasured, Page, Prose, Section, Table, Texts, Tokens

NOT_BUILT = (
    "The figures of this page are drawn by scripts that were not built when it was written (no Node); the tables have all."
)


@dataclass(frozen=True, slots=True)
class Assets:
    """The page's script and style, as built, and the hashes of the styles that its figures carry."""

    script: str
    style: str
    styles: tuple[str, ...]


def assets() -> Assets | None:
    """What the front end's build left beside this file; None where it was not built."""
    script, style, hashes = built("report.js"), built("report.css"), built("styles.json")
    return Assets(script, style, tuple(json.loads(hashes or "[]"))) if script and style else None


def html(report: Report) -> str:
    """The whole file."""
    return write(page(report), assets())


def write(made: Page, parts: Assets | None) -> str:
    """The file of a page, with these scripts and styles, or with none."""
    made = from_json(Page, json.dumps(_seen(as_json(made))), "the page")
    script, style = ("", _PLAIN) if parts is None else (inner(parts.script, "report.js"), inner(parts.style, "report.css"))
    carried = () if parts is None else parts.styles
    sources = " ".join([source(style), *(f"'{one}'" for one in carried)])
    policy = f"default-src 'none'; style-src {sources}; img-src data: blob:; base-uri 'none'; form-action 'none'"
    policy += f"; script-src {source(script)}" if script else ""
    data = f'<script type="application/json" id="data">{embedded(as_json(made))}</script>'
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{_text(made.title)}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        '<div id="app">',
        *_static(made, "" if script else NOT_BUILT),
        "</div>",
        *([data, f"<script>{script}</script>"] if script else []),
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _seen(value: Any) -> Any:
    """The same with every invisible character written out, in texts and nowhere else."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {name: _seen(one) for name, one in value.items()}
    return [_seen(one) for one in value] if isinstance(value, list) else value


def embedded(value: object) -> str:
    """JSON that no browser reads as anything else: <, >, & and the two line separators are escapes."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _text(text: str) -> str:
    return escape(text)


# --- without scripts ---


def _static(made: Page, note: str) -> list[str]:
    contents = "".join(f'<li><a href="#{section.id}">{_text(section.title)}</a></li>' for section in made.sections)
    return [
        f"<header><h1>{_text(made.title)}</h1><p>{_text(made.about)}</p>",
        "<p><strong>Quick audit</strong>: fewer and shorter texts.</p>" if made.quick else "",
        f"<p>{_text(note)}</p>" if note else "",
        f'<nav aria-label="Sections"><ul>{contents}</ul></nav></header>',
        '<main><section id="verdicts" aria-labelledby="verdicts-title"><h2 id="verdicts-title">Verdicts</h2>',
        *map(_card, made.cards),
        "<h3>Not measured</h3><ul>" if made.unmeasured else "",
        *(f"<li>{_text(line)}</li>" for line in made.unmeasured),
        "</ul>" if made.unmeasured else "",
        "</section>",
        *(line for section in made.sections for line in _section(section)),
        "</main>",
    ]


def _card(card: Card) -> str:
    rows = "".join(f"<dt>{_text(one.name)}</dt><dd>{_text(one.value)}</dd>" for one in card.facts)
    head = f"<h3>{_text(card.concept)}: {_text(card.verdict)}</h3><p>{_text(card.question)}</p>"
    return f"<article>{head}<dl>{rows}</dl></article>"


def _section(section: Section) -> list[str]:
    name = f"{section.id}-title"
    return [
        f'<section id="{section.id}" aria-labelledby="{name}"><h2 id="{name}">{_text(section.title)}</h2>',
        f"<p><em>{_text(section.question)}</em></p>",
        *map(_block, section.blocks),
        "</section>",
    ]


def _block(block: Block) -> str:
    match block:
        case Prose():
            return f"<p>{_text(block.text)}</p>"
        case NotMeasured():
            return f"<p><strong>{_text(block.what)}: not measured.</strong> {_text(block.reason)}</p>"
        case Table():
            return _table(block.caption, block.columns, block.rows)
        case Figure():
            return _figure(block)
        case Texts():
            said = "".join(f"<h4>{_text(one.who)}</h4><pre>{_text(one.text)}</pre>" for one in block.said)
            return f"<article><h4>Prompt</h4><pre>{_text(block.prompt)}</pre>{said}</article>"
        case Tokens():
            return _tokens(block)


def _figure(figure: Figure) -> str:
    """A figure as its caption and the table of its points."""
    x, y = (axis.label + (f" ({axis.unit})" if axis.unit else "") for axis in (figure.x, figure.y))
    rows = [
        (mark.name, str(mark.x[number]), _point(mark, number), _ends(mark.low, mark.high, number))
        for mark in figure.marks
        if mark.role != "predicted"
        for number in range(len(mark.x))
    ]
    title = f"<h3>{_text(figure.title)}</h3><p>{_text(figure.caption)}</p>"
    return f"<div>{title}{_table(figure.title, ('series', x, y, 'interval'), rows)}</div>"


def _point(mark: Mark, number: int) -> str:
    """Its value, or what it says of why there is none."""
    value = mark.y[number]
    if value is None:
        return mark.said[number] if mark.said else "not measured"
    return f"{value:.3g}"


def _ends(lows: tuple[float | None, ...], highs: tuple[float | None, ...], number: int) -> str:
    low, high = (ends[number] if ends else None for ends in (lows, highs))
    return "" if low is None or high is None else f"[{low:.3g}, {high:.3g}]"


def _tokens(block: Tokens) -> str:
    beyond = [
        f"{token.strip() or '␣'} ({value:+.1f})"
        for token, value in zip(block.tokens, block.values, strict=True)
        if (value if block.above else abs(value)) > block.bound
    ]
    told = ", ".join(beyond) or "none"
    text = f"{block.title}. Tokens {block.beyond}: {told}."
    return f"<p>{_text(text)}</p><pre>{_text(''.join(block.tokens))}</pre>"


def _table(caption: str, columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...] | list[tuple[str, ...]]) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


_PLAIN = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:70rem;padding:1rem}"
    "table{border-collapse:collapse}th,td{padding:.2rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid}"
    "caption{text-align:left;padding:.4rem 0}.scroll{overflow-x:auto}pre{white-space:pre-wrap}"
)
