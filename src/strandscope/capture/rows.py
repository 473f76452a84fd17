"""One row of a file, checked: what it says, or one sentence that names the place where it goes wrong.

A row is an object with `text` (raw text), `messages` (a chat) or, from Python only, `tensor`; and optional `label`, `group`, `id`
and `pair`. An object with `positive` and `negative` gives two rows that share a group. Any other key is kept in `extra`.
Nothing is repaired: a row that is not understood is an error.
"""

from __future__ import annotations

import csv
import io as text_io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .. import io
from ..errors import InputError

Kind = Literal["text", "chat", "tensor"]
Message = dict[str, str]
Value = str | tuple[Message, ...] | Tensor
_HIGH = {"1", "true", "yes", "positive"}
_NUMBER = re.compile(r"-?\d+\.\d*")  # 1.0, as tables write labels
_LONE = re.compile("[\ud800-\udfff]")  # half a character: JSON can spell it, no text can hold it
ROLES = ("system", "user", "assistant", "tool")
_KIND_OF_KEY: dict[str, Kind] = {"text": "text", "messages": "chat", "tensor": "tensor"}


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A row as it was written, before the whole set has given its label a code. `where` is its place: `pairs.jsonl:17`."""

    where: str
    kind: Kind
    input: Value
    label: str | None
    group: str
    id: str
    pair: str | None
    extra: dict[str, Any]


def drafts(objects: Iterator[tuple[str, Mapping[str, Any]]]) -> list[Draft]:
    """The rows of (place, object) pairs, in order; two rows for each `positive`/`negative` object.

    Raises:
        InputError: an object is no row, kinds are mixed, ids repeat, or only some rows carry a label.
    """
    rows = [row for where, value in objects for row in _rows_of(where, value)]
    check_together(rows)
    return rows


def check_together(rows: list[Draft]) -> None:
    """Raise InputError unless these rows can stand in one set."""
    places: dict[str, str] = {}
    labelled = next((row for row in rows if row.label is not None), None)
    for row in rows:
        if row.id in places:
            raise InputError(f"{row.where}: id {row.id!r} is already used at {places[row.id]}; give every row its own id")
        places[row.id] = row.where
        if row.kind != rows[0].kind:
            raise InputError(
                f"{row.where}: {row.kind} where {rows[0].where} is {rows[0].kind}; keep text and chat in separate sets"
            )
        if labelled is None or labelled.label is None:
            continue
        if row.label is None:
            raise InputError(f'{row.where}: missing "label"; {labelled.where} has one, so every row needs one')
        if _sort_of(row.label) != _sort_of(labelled.label):
            raise InputError(
                f"{row.where}: label {row.label} is a {_sort_of(row.label)} where {labelled.where} has {labelled.label}; "
                "write all labels alike"
            )


def check_same_labels(read: Mapping[str, list[Draft]]) -> None:
    sets = {name: sorted({row.label or "(no label)" for row in rows}) for name, rows in read.items()}
    first = next(iter(sets))
    for name, labels in sets.items():
        if labels != sets[first]:
            raise InputError(f"{name}: labels {', '.join(labels)} where {first} has {', '.join(sets[first])}; use one label set")


def ordered(labels: set[str]) -> tuple[list[str], Literal["by meaning", "alphabetical"]]:
    """Labels in the order of their codes, and what decided it; of two, the one that means yes comes second."""
    high = [label for label in labels if label.lower() in _HIGH]
    if len(labels) == 2 and len(high) == 1:
        return [*(labels - set(high)), *high], "by meaning"
    if all(label.lstrip("-").isdecimal() for label in labels):
        return sorted(labels, key=int), "by meaning"
    return sorted(labels), "alphabetical"


def jsonl_objects(path: str | os.PathLike[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for line, value in io.read_jsonl(path):
        yield f"{name}:{line}", value


def csv_objects(path: str | os.PathLike[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a CSV file with a header. An empty cell is a key that is not there; a row of another width is an error."""
    reader = csv.reader(text_io.StringIO(io.read_text(path), newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(header, name)
        start = reader.line_num + 1
        for cells in reader:
            if cells:  # a blank line holds no row
                if len(cells) != len(header):
                    raise InputError(
                        f"{name}:{start}: {len(cells)} cells under a header of {len(header)}; fill the gap or quote the commas"
                    )
                value: dict[str, Any] = {key: cell for key, cell in zip(header, cells, strict=True) if cell.strip()}
                if _NUMBER.fullmatch(value.get("label", "").strip()):
                    value["label"] = float(value["label"])
                yield f"{name}:{start}", value
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}:{reader.line_num}: not CSV ({error}); quote cells that hold commas or quotes") from None


def _check_header(header: list[str], name: str) -> None:
    if not header:
        raise InputError(f"{name}: the file is empty; wanted a header line such as text,label and at least one row")
    if "messages" in header:
        raise InputError(f"{name}:1: a CSV file cannot hold messages; write chats as JSONL")
    if "text" not in header and not {"positive", "negative"} <= set(header):
        raise InputError(
            f'{name}:1: missing column "text"; got {", ".join(header)}, wanted text and label, or positive and negative'
        )
    repeated = next((key for key in header if not key or header.count(key) > 1), None)
    if repeated is not None:
        raise InputError(f"{name}:1: column {repeated!r} is empty or repeated; give every column its own name")


def _rows_of(where: str, value: Mapping[str, Any]) -> Iterator[Draft]:
    if not isinstance(value, Mapping):
        raise InputError(f'{where}: got a {type(value).__name__}, wanted an object such as {{"text": …, "label": …}}')
    broken = next((key for key, item in value.items() if _has_lone_surrogate([key, item])), None)
    if broken is not None:
        raise InputError(f"{where}: {broken!a} holds half a character (a lone surrogate); write the text again or delete the row")
    if "positive" in value or "negative" in value:
        yield from _pair(where, value)
        return
    _check_group_key(where, value)
    keys = [key for key in _KIND_OF_KEY if value.get(key) is not None]
    if not keys:
        raise InputError(f'{where}: missing "text" (or "messages"); wanted an object such as {{"text": …, "label": …}}')
    if len(keys) > 1:
        raise InputError(f'{where}: both "{keys[0]}" and "{keys[1]}"; a row is raw text or a chat, not both')
    key = keys[0]
    label = _label(value.get("label"), where)
    name = _name(value, "id", where) or where
    extra = {other: item for other, item in value.items() if other not in (key, "label", "group", "id", "pair")}
    group = _name(value, "group", where) or f"row:{name}"
    checked = _input(value[key], key, where)
    yield Draft(where, _KIND_OF_KEY[key], checked, label, group, name, _name(value, "pair", where), extra)


def _pair(where: str, value: Mapping[str, Any]) -> Iterator[Draft]:
    _check_group_key(where, value)
    name = _name(value, "id", where) or where
    group = _name(value, "group", where) or f"pair:{name}"
    misplaced = next((key for key in ("label", "text", "messages", "tensor") if value.get(key) is not None), None)
    if misplaced:
        raise InputError(f'{where}: "{misplaced}" beside "positive" and "negative"; a pair has its labels and texts already')
    extra = {key: item for key, item in value.items() if key not in ("positive", "negative", "group", "id", "pair")}
    for side in ("positive", "negative"):
        if value.get(side) is None:
            raise InputError(f'{where}: missing "{side}"; a pair holds "positive" and "negative"')
        content = value[side]
        key = "text" if isinstance(content, str) else "tensor" if isinstance(content, Tensor) else "messages"
        checked = _input(content, key, where, called=side)
        yield Draft(where, _KIND_OF_KEY[key], checked, side, group, f"{name}:{side}", name, dict(extra))


def _check_group_key(where: str, value: Mapping[str, Any]) -> None:
    """A group under another name would go unread, and rows that belong together would be evidence for each other."""
    if "group" in value:
        return
    near = next((key for key in value if isinstance(key, str) and key.strip().lower().startswith("group")), None)
    if near is not None:
        raise InputError(f'{where}: key {near!r} is not read; name it "group", or otherwise if it does not group the rows')


def _input(content: Any, key: str, where: str, called: str = "") -> Value:
    called = called or key
    if key == "tensor":
        if not isinstance(content, Tensor):
            raise InputError(f'{where}: "{called}" is of type {type(content).__name__}, wanted a torch.Tensor')
        if not bool(torch.isfinite(content).all()):
            raise InputError(f'{where}: "{called}" holds a NaN or an infinity; mend or delete the row')
        return content
    if key == "messages":
        return _messages(content, called, where)
    if not isinstance(content, str):
        raise InputError(f'{where}: "{called}" is of type {type(content).__name__}, wanted a string')
    if not content.strip():
        raise InputError(f'{where}: "{called}" is empty; write a text or delete the row')
    return content


def _messages(content: Any, called: str, where: str) -> tuple[Message, ...]:
    if not isinstance(content, list | tuple) or not content:
        raise InputError(f'{where}: "{called}" is not a list of messages; wanted [{{"role": "user", "content": …}}]')
    for number, message in enumerate(content, start=1):
        place = f"{where}: message {number}"
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise InputError(f'{place} needs exactly "role" and "content"; got {_described(message)}')
        if message["role"] not in ROLES:
            raise InputError(f"{place} has role {message['role']!r}; wanted one of {', '.join(ROLES)}")
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise InputError(f"{place} has no text in its content; write one or delete the row")
    if content[-1]["role"] not in ("user", "assistant"):
        raise InputError(f"{where}: the last message is from {content[-1]['role']!r}; a chat ends with user or assistant")
    return tuple({"role": message["role"], "content": message["content"]} for message in content)


def _has_lone_surrogate(item: Any) -> bool:
    waiting = [item]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str) and _LONE.search(part):
            return True
        if isinstance(part, Mapping):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple):
            waiting += part
    return False


def _described(message: Any) -> str:
    return ", ".join(map(str, message)) or "no key" if isinstance(message, Mapping) else f"a {type(message).__name__}"


def _label(value: Any, where: str) -> str | None:
    """The label as a class name: 1 and 1.0 are "1", true is "true" (bool before int, for True is an int in Python)."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | str):
        return str(value).strip()
    raise InputError(f"{where}: label {value!r} is of type {type(value).__name__}, wanted 0 or 1, true or false, or a class name")


def _sort_of(label: str) -> str:
    """1 and true in one file are far more likely two spellings than two classes, so labels of two sorts are refused."""
    if label.lstrip("-").isdecimal():
        return "number"
    return "truth value" if label.lower() in ("true", "false") else "word"


def _name(value: Mapping[str, Any], key: str, where: str) -> str | None:
    name = value.get(key)
    if name is None or (isinstance(name, str) and not name.strip()):
        return None
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise InputError(f'{where}: "{key}" is of type {type(name).__name__}, wanted a string')
    return str(name).strip()


def display_names(paths: list[str | os.PathLike[str]]) -> list[str]:
    """How messages call each file: its name, or the whole path where two files share a name."""
    names = [Path(path).name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
