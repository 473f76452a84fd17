"""Documents that losses are measured on, and those that n-grams are counted in.

The standard library's sources are split by package or module: a package is in one part or in the other, never in both, so that
what is scored was not copied from what was counted. The network has probably read some version of the library. It cannot have
read the sources of Strandscope themselves, which are of the same kind, nor its passages, which are prose.

What it does not know: near-copies that two packages share (a licence, a stub); the longest match finds those.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import io
from ..capture import library
from ..capture.examples import Examples, passages
from ..errors import InputError
from ..provenance import digest, numpy_generator

if TYPE_CHECKING:
    from ..subject.subject import Subject

Ints = NDArray[np.int64]
SCORED = 0.25  # of the library's characters
_TABLES = ("encodings", "_sysconfigdata")  # files that are tables, not text


@dataclass(frozen=True, slots=True)
class Document:
    """`group` is what would be drawn again together: a package, a kind of writing."""

    name: str
    group: str
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents of one source; `about` says what they are and whether the network may have read them."""

    name: str
    about: str
    documents: tuple[Document, ...]

    @property
    def digest(self) -> str:
        return digest(*([one.name, one.text] for one in self.documents))


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """A corpus in a network's tokens: ids and bytes of each document."""

    corpus: Corpus
    ids: tuple[Ints, ...]
    bytes: tuple[int, ...]

    @property
    def count(self) -> int:
        return sum(map(len, self.ids))

    @property
    def bytes_per_token(self) -> float:
        return sum(self.bytes) / self.count


def standard_library(seed: int = 0, scored: float = SCORED) -> tuple[Corpus, Corpus]:
    """The part that n-grams are counted in, and the disjoint part that is scored, about `scored` of all characters."""
    held: dict[str, list[Document]] = {}
    for name, text in library.sources().items():
        package = name.split("/")[0].removesuffix(".py")
        if not package.startswith(_TABLES):
            held.setdefault(package, []).append(Document(name, package, text))
    packages = sorted(held)
    total, taken, chosen = sum(len(one.text) for part in held.values() for one in part), 0, set[str]()
    for place in numpy_generator(seed, "language", "split").permutation(len(packages)):
        if taken >= scored * total:
            break
        chosen.add(packages[place])
        taken += sum(len(one.text) for one in held[packages[place]])
    parts = [tuple(one for name in packages if (name in chosen) is want for one in held[name]) for want in (False, True)]
    about = "sources of the Python standard library, docstrings included; the network has probably read some version of them"
    return Corpus("standard library, counted", about, parts[0]), Corpus("standard library", about, parts[1])


def own_sources() -> Corpus:
    """The sources of Strandscope, as installed."""
    root = resources.files("strandscope")
    found = [Document(name, name.rpartition("/")[0], text) for name, text in sorted(_sources(root, ""))]
    about = "sources of Strandscope, docstrings included, written after the network was trained"
    return Corpus("own sources", about, tuple(found))


def _sources(place: Traversable, prefix: str) -> list[tuple[str, str]]:
    found = []
    for entry in place.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            found += _sources(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            found.append((prefix + entry.name, entry.read_text(encoding="utf-8")))
    return found


def own_passages() -> Corpus:
    """The project's passages: short prose of many kinds."""
    rows = passages().rows
    found = [Document(row.id, str(row.group), row.input) for row in rows if isinstance(row.input, str)]
    return Corpus("own passages", "short passages of many kinds and six languages, written for Strandscope", tuple(found))


def from_files(paths: Sequence[str | os.PathLike[str]]) -> Corpus:
    """One corpus of the files named: each is a document, except that a .jsonl or .csv file holds one a row.

    Raises:
        InputError, MissingError: a file cannot be read, or holds no text.
    """
    found: list[Document] = []
    for path in map(Path, paths):
        if path.suffix.lower() in (".jsonl", ".csv"):
            rows = Examples.from_file(path)
            found += [Document(row.id, str(row.group), text) for row, text in zip(rows.rows, rows.texts(), strict=True)]
        else:
            text = io.read_text(path)
            if not text.strip():
                raise InputError(f"{path.name}: the file has no text; name files that hold some")
            found.append(Document(str(path), str(path), text))
    return Corpus("texts given", ", ".join(str(path) for path in paths), tuple(found))


def tokenised(subject: Subject, corpus: Corpus) -> Tokens:
    """The documents in the subject's tokens, without special ones.

    Raises:
        InputError: the subject has no tokenizer.
    """
    if subject.tokenizer is None:
        raise InputError(f"{subject.name}: has no tokenizer, and losses are measured on text; load it with tokenizer=…")
    texts = [one.text for one in corpus.documents]
    rows = subject.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    ids = tuple(np.asarray(row, dtype=np.int64) for row in rows)  # type: ignore[union-attr]
    return Tokens(corpus, ids, tuple(len(text.encode()) for text in texts))
