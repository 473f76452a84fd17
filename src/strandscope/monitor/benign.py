"""Sequences that should raise no alarm: the project's own prompts, conversations and passages, and the standard library's prose.

All of them were written one by one, none filled into a template. They are grouped by what would be drawn again: the prompts by
topic, the passages by kind of writing, a conversation by itself, docstrings by module, since those of one module are alike. The
library's docstrings are those of the Python that runs, so they differ between versions of it; a monitor records their digest.

Passages in Spanish and in the languages closest to it are left out, since one of the project's concepts is just that.

What it does not know: whether traffic is like them. And a concept that occurs in ordinary prose (good cheer, a polite
form) occurs here too: its threshold is then as high as such prose scores.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from ..capture import library
from ..capture.examples import Example, Examples, neutral_prompts, passages
from ..errors import MissingError

SHORTEST, LONGEST = 8, 60  # words
_ROMANCE = frozenset({"spanish-portuguese", "french-italian"})
_TURNS = 2  # passages of each kind: more would cost time and count no more, since a group counts once


def benign(chat: bool = True) -> Examples:
    """All of it as one set: as chats, a prose text being what a user says, or as plain texts, a chat being its messages alone."""
    rows: list[dict[str, Any]] = []
    prose = passages()
    prose = prose.subset([number for number, row in enumerate(prose.rows) if row.group not in _ROMANCE])
    prose = prose.subset(range(_TURNS * len(set(prose.groups.tolist()))))  # the kinds take turns
    for kind, examples in (("prompt", neutral_prompts()), ("passage", prose), ("conversation", conversations())):
        rows += [row_of(f"{kind}:{row.group}", row, chat) for row in examples.rows]
    rows += [row_of(f"docstring:{row.group}", row, chat) for row in docstrings().rows]
    return Examples.from_rows(rows, "benign")


def row_of(group: str, row: Example, chat: bool) -> dict[str, Any]:
    """A text or conversation as a row of chats, or of plain texts."""
    value = row.input
    if chat:
        content = [{"role": "user", "content": value}] if isinstance(value, str) else list(value)  # type: ignore[arg-type]
        return {"messages": content, "group": group, "id": row.id}
    text = value if isinstance(value, str) else "\n".join(message["content"] for message in value)  # type: ignore[union-attr]
    return {"text": text, "group": group, "id": row.id}


def conversations() -> Examples:
    """Short exchanges on many subjects, each its own group."""
    source = resources.files("strandscope") / "monitor" / "data" / "conversations.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    return Examples.from_rows([{**row, "group": row["id"]} for row in rows], "conversations")


def docstrings(each: int = 1, shortest: int = SHORTEST, longest: int = LONGEST) -> Examples:
    """Docstrings of the standard library of the Python that runs, grouped by module, in the order of the modules' names.

    Args:
        each: at most so many a module; the longest that are short enough, so that a module's first is its richest.
        shortest, longest: words of one, both included.

    Raises:
        MissingError: the library's sources are not there.
    """
    rows = [
        {"text": text, "group": module, "id": f"{module}:{number}"}
        for module, texts in library.docstrings().items()
        for number, text in enumerate([text for text in texts if shortest <= len(text.split()) <= longest][:each], start=1)
    ]
    if not rows:
        raise MissingError(f"docstrings: no sources in {library.folder()}; install Python with its library")
    return Examples.from_rows(rows, "docstrings")
