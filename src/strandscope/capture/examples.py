"""Labelled examples: texts, chats or tensors, each with a label, a group and an id.

What a set promises: every row is of one kind and none is empty; ids are unique; either every row has a label or none has, and
labels then name at least two classes; a row without a group is its own group, and the two rows of a pair share one. Rows with
the same input, but for case, spaces and how a character is written, are in one group whatever they say (their groups are
joined), so that no copy of a row is evidence for what was trained on it. The digest depends on what is measured (inputs, labels,
groups, pairs, order) and not on file names or ids.

Of two classes, the one called 1, true, yes or positive is scored high (or the one that a pack declares); of two others, the later
one in alphabetical order, and the set says so when printed.
"""

from __future__ import annotations

import difflib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..errors import InputError
from ..provenance import digest
from .rows import (
    Draft,
    Kind,
    Value,
    check_same_labels,
    check_together,
    csv_objects,
    display_names,
    drafts,
    jsonl_objects,
    ordered,
)

_WANTED = 'wanted at least one, such as {"text": …, "label": …}'
_READERS: dict[str, Callable[..., Iterator[tuple[str, dict[str, Any]]]]] = {
    ".jsonl": jsonl_objects,
    ".ndjson": jsonl_objects,
    ".csv": csv_objects,
}


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One row. `label` is an index into the set's classes, None in a set without labels."""

    input: Value
    label: int | None
    group: str
    id: str
    pair: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows of one kind; see the module for what they promise.

    `classes` names the labels in the order of their codes; of two, the second is scored high. `order` says who put
    them so.
    """

    rows: tuple[Example, ...]
    classes: tuple[str, ...]
    kind: Kind
    name: str
    order: Literal["declared", "by meaning", "alphabetical"] = "declared"

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Examples:
        """A .jsonl or .csv file."""
        return cls.from_files([path])

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str]) -> Examples:
        name = Path(path).name
        return _assemble(drafts(jsonl_objects(path, name)), Path(path).stem, name)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> Examples:
        name = Path(path).name
        return _assemble(drafts(csv_objects(path, name)), Path(path).stem, name)

    @classmethod
    def from_files(cls, paths: Sequence[str | os.PathLike[str]]) -> Examples:
        """Several files as one set; they must hold the same kind of rows and the same labels."""
        if not paths:
            raise InputError("examples: got no file; name at least one .jsonl or .csv file")
        read = {}
        for path, name in zip(paths, display_names(list(paths)), strict=True):
            reader = _READERS.get(Path(path).suffix.lower())
            if reader is None:
                raise InputError(f"{name}: files of this kind are not read; wanted .jsonl or .csv")
            read[name] = drafts(reader(path, name))
            if not read[name]:
                raise InputError(f"{name}: the file has no rows; {_WANTED}")
        check_same_labels(read)
        rows = [row for part in read.values() for row in part]
        check_together(rows)
        return _assemble(rows, "+".join(Path(path).stem for path in paths), ", ".join(read))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], name: str = "rows") -> Examples:
        """Objects with the keys of a JSONL file, or with `tensor` in place of a text."""
        _check_list(rows, name, 'objects such as {"text": …, "label": …}')
        return _assemble(drafts((f"{name}:{number}", row) for number, row in enumerate(rows, start=1)), name, name)

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[Any, Any]], name: str = "pairs") -> Examples:
        """(positive, negative) texts or chats; each pair is a group."""
        _check_list(pairs, name, "pairs (positive, negative)")
        return cls.from_rows([_pair_object(f"{name}:{number}", pair) for number, pair in enumerate(pairs, start=1)], name)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        groups = len(set(self.groups.tolist()))
        text = f"{self.name}: {len(self)} {self.kind} rows in {groups} groups"
        text += f" (repeated rows: {self.copies}; copies share a group)" if self.copies else ""
        if not self.labelled:
            return f"{text}, no labels"
        counts = Counter(self.classes[code] for code in self.labels.tolist())
        text += ", " + ", ".join(f"{counts[name]} {name}" for name in self.classes)
        if self.positive is None:
            return text
        return f"{text}; {self.positive} is scored high" + (" (alphabetical order)" if self.order == "alphabetical" else "")

    __repr__ = __str__

    @property
    def labelled(self) -> bool:
        return bool(self.classes)

    @property
    def positive(self) -> str | None:
        """The class that is scored high; None with more classes than two, or none."""
        return self.classes[1] if len(self.classes) == 2 else None

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(row.id for row in self.rows)

    @cached_property
    def labels(self) -> np.ndarray:
        """Codes (rows), indices into `classes`."""
        if not self.labelled:
            raise InputError(f'{self.name}: no row has a "label"; add one to every row')
        return np.array([row.label for row in self.rows], dtype=np.int64)

    @cached_property
    def groups(self) -> np.ndarray:
        """Codes (rows), numbered as the groups first appear; groups that share an input or a pair are one."""
        named, inputs = _codes([row.group for row in self.rows]), _codes(self._inputs)
        rows = len(self)
        # a graph of groups and, after them, inputs and pairs: each row joins its group to its input and to its pair
        ends = np.concatenate([rows + inputs, 2 * rows + self.pairs])
        edges = coo_array((np.ones(2 * rows), (np.tile(named, 2), ends)), shape=(3 * rows, 3 * rows))
        _, joined = connected_components(edges, directed=False)
        return _codes(joined[named].tolist())

    @cached_property
    def pairs(self) -> np.ndarray:
        """Codes (rows), numbered as the pairs first appear; a row that is in none has its own."""
        return _codes([number if row.pair is None else row.pair for number, row in enumerate(self.rows)])

    @cached_property
    def copies(self) -> int:
        """How many rows have the input of an earlier one."""
        return len(self) - len(set(self._inputs))

    @cached_property
    def _inputs(self) -> tuple[str, ...]:
        """What is the same in copies of a row: its words, without case and spacing, or its tensor."""
        return tuple(digest(_hashable(_folded(row.input))) for row in self.rows)

    @cached_property
    def row_digests(self) -> tuple[str, ...]:
        """SHA-256 of each row's input and label: what a row is, wherever it stands."""
        return tuple(digest(_hashable(row.input), None if row.label is None else self.classes[row.label]) for row in self.rows)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of inputs, labels, groups and pairs, in order."""
        inputs = [_hashable(row.input) for row in self.rows]
        labels = [None if row.label is None else self.classes[row.label] for row in self.rows]
        return digest(self.kind, list(self.classes), labels, self.groups.tolist(), self.pairs.tolist(), *inputs)

    def texts(self) -> list[str]:
        """Each row as plain text; the messages of a chat joined by line breaks, without roles."""
        return [_text(row.input, row.id) for row in self.rows]

    def subset(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """These rows in this order (or, given a mask, the rows where it is true); the classes stay as they are."""
        chosen = np.asarray(indices)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise InputError(f"subset: a mask of shape {chosen.shape} for {len(self)} rows; wanted one entry per row")
            chosen = np.flatnonzero(chosen)
        rows = tuple(self.rows[int(index)] for index in chosen)
        return Examples(rows, self.classes, self.kind, self.name, self.order)

    def limit(self, n: int, generator: np.random.Generator) -> Examples:
        """At most `n` rows: whole groups drawn at random, in the order in which they stand here."""
        if n >= len(self):
            return self
        sizes = np.bincount(self.groups)
        kept, room = set(), n
        for group in generator.permutation(len(sizes)).tolist():
            if sizes[group] <= room:
                kept.add(group)
                room -= int(sizes[group])
        if not kept:
            raise InputError(
                f"limit {n}: the smallest group of {self.name} has {sizes.min()} rows and groups stay whole; allow more rows"
            )
        return self.subset(np.isin(self.groups, sorted(kept)))

    def require(self, min_per_class: int = 10, folds: int = 5) -> None:
        """Raise InputError unless there is enough here to cross-validate a direction."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if np.count_nonzero(counts) < 2:
            only = self.classes[int(counts.argmax())]
            raise InputError(f"{self.name}: one class only ({only}); a direction needs rows of at least two")
        least = int(counts.argmin())
        if counts[least] < min_per_class:
            short = f"class {self.classes[least]} has {counts[least]} rows"
            raise InputError(f"{self.name}: {short}, wanted at least {min_per_class}; add rows of that class")
        groups = len(set(self.groups.tolist()))
        if groups < folds:
            raise InputError(
                f"{self.name}: {groups} groups for {folds} folds; name at least {folds} groups"
                + (f" ({self.copies} rows are copies of others, and copies share a group)" if self.copies else "")
            )
        for code, name in enumerate(self.classes):
            holding = len(set(self.groups[self.labels == code].tolist()))
            if 0 < holding < folds:
                raise InputError(
                    f"{self.name}: class {name} sits in {holding} groups for {folds} folds; spread it over at least {folds}"
                )


def _check_list(given: Any, name: str, wanted: str) -> None:
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise InputError(f"{name}: got a {type(given).__name__}, wanted a list of {wanted}")


def _pair_object(where: str, pair: Any) -> dict[str, Any]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise InputError(f"{where}: got {type(pair).__name__} {pair!r:.40}, wanted a pair (positive, negative)")
    return {"positive": pair[0], "negative": pair[1]}


def concept(name: str) -> Examples:
    """A concept pack that ships with Strandscope, such as "harm"; `concept_index()` lists them."""
    index = concept_index()
    if Path(name).suffix.lower() in _READERS:
        raise InputError(f"concept {name!r}: that is a file, and packs have names; open it with Examples.from_file")
    labelled = [pack for pack, about in index.items() if about["positive"]]
    if name not in index:
        near = difflib.get_close_matches(name, labelled, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(
            f"concept {name!r}: there is no such pack; {hint}there are {', '.join(labelled)}, or name a .jsonl or .csv file"
        )
    about = index[name]
    with resources.as_file(resources.files("strandscope") / "concepts" / f"{name}.jsonl") as path:
        rows = drafts(jsonl_objects(path, path.name))
    declared = {"0": about["negative"], "1": about["positive"]} if about["positive"] else None
    return _assemble(rows, name, f"{name}.jsonl", declared)


def neutral_prompts(chat: bool = True) -> Examples:
    """The varied prompts of no particular concept, without labels, on which doses are measured; as chats or as plain texts."""
    prompts = concept("neutral")
    if chat:
        return prompts
    rows = tuple(replace(row, input=text) for row, text in zip(prompts.rows, prompts.texts(), strict=True))
    return replace(prompts, rows=rows, kind="text")


def passages() -> Examples:
    """The varied passages on which a census is taken by default, without labels; a row's group is its kind of writing.

    Most break off inside a sentence, so that a network that is read at their ends is not read at full stops alone. The kinds take
    turns: the first rows are already varied.
    """
    return concept("passages")


@cache
def concept_index() -> dict[str, dict[str, Any]]:
    """What each shipped pack asks and how it is written: question, positive, negative, format, language, licence."""
    return json.loads((resources.files("strandscope") / "concepts" / "index.json").read_text(encoding="utf-8"))


def _assemble(rows: list[Draft], name: str, source: str, declared: Mapping[str, str] | None = None) -> Examples:
    """A set from checked rows. `declared` maps the labels as written to class names, low class first."""
    if not rows:
        raise InputError(f"{source}: no rows; {_WANTED}")
    written = {row.label for row in rows if row.label is not None}
    if len(written) == 1:
        raise InputError(f"{source}: one class only ({written.pop()}); wanted rows of at least two")
    if declared is not None and written != set(declared):
        raise InputError(f"{source}: labels {', '.join(sorted(written))}; wanted {' and '.join(declared)}")
    labels, order = (list(declared), "declared") if declared is not None else ordered(written)
    codes = {label: code for code, label in enumerate(labels)}
    examples = tuple(
        Example(row.input, None if row.label is None else codes[row.label], row.group, row.id, row.pair, row.extra)
        for row in rows
    )
    classes = tuple(declared.values()) if declared is not None else tuple(labels)
    return Examples(examples, classes, rows[0].kind, name, order)


def _codes(names: Sequence[Any]) -> np.ndarray:
    codes: dict[Any, int] = {}
    return np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int64)


def _folded(value: Value) -> Value:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, str):
        return _folded_text(value)
    return tuple({**message, "content": _folded_text(message["content"])} for message in value)


def _folded_text(text: str) -> str:
    """Without case, spacing, invisible characters and the several ways to write one character."""
    composed = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(letter for letter in composed if unicodedata.category(letter) != "Cf").split())


def _hashable(value: Value) -> Any:
    if isinstance(value, Tensor):
        data = value.detach().contiguous().cpu()
        return [str(data.dtype), list(data.shape), digest(data.flatten().view(torch.uint8).numpy().tobytes())]
    return value if isinstance(value, str) else list(value)


def _text(value: Value, row: str) -> str:
    if isinstance(value, Tensor):
        raise InputError(f"row {row}: a tensor has no text; only text and chat rows do")
    return value if isinstance(value, str) else "\n".join(message["content"] for message in value)
