"""The contexts that a census measures at: texts, each cut where a draw of its own says.

The response is measured at a context's last token. A written passage ends with a full stop, and a set of passages would measure
the ends of sentences alone; so each text is cut after a token drawn for it (from a quarter of its tokens to all of them, each as
likely). The draw is named by the seed and the text, so it does not depend on the other rows. Chats end where the network is to
answer, and rows that are tensors end where their maker wanted: neither is cut. Nothing is shortened to fit: a text longer than
the network's context is an error that names the row.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import io
from ..capture.examples import Examples, passages
from ..capture.tokens import TokenRows, tokenise
from ..errors import InputError
from ..provenance import numpy_generator
from ..subject.subject import Subject

LEAST = 8  # contexts; with fewer no interval is worth its name
SHORTEST = 2  # tokens: the first position is a sink that many networks treat as no other
Texts = str | os.PathLike[str] | Examples | None


@dataclass(frozen=True, eq=False)
class Contexts:
    """Rows as they are measured, where they are from, and how they were cut. `lengths` are tokens, where rows have such."""

    examples: Examples
    source: str
    cut: str
    lengths: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.examples)


def read_texts(texts: Texts) -> tuple[Examples, str]:
    """Rows and where they are from: a .jsonl or .csv file, a .txt file with a text a line, Examples, or the project's passages.

    Raises:
        InputError, MissingError: the file cannot be read as such, or holds no row.
    """
    if texts is None:
        return passages(), "the project's passages"
    if isinstance(texts, Examples):
        return texts, "rows given"
    path = Path(texts)
    if path.suffix.lower() != ".txt":
        return Examples.from_file(path), str(path)
    lines = enumerate(io.read_text(path).splitlines(), start=1)
    rows = [{"text": line, "id": f"{path.name}:{number}"} for number, line in lines if line.strip()]
    if not rows:
        raise InputError(f"{path.name}: the file has no text; wanted one a line")
    return Examples.from_rows(rows, path.stem), str(path)


def choose(subject: Subject, texts: Texts = None, count: int = 100, *, cut: bool = True, seed: int = 0) -> Contexts:
    """At most `count` contexts, drawn by `seed` from all groups alike, each cut at its own place unless `cut` is false.

    Raises:
        InputError: fewer than 8 rows, a row that this network cannot take or that is longer than its context.
    """
    if count < LEAST:
        raise InputError(f"contexts: got {count}, wanted at least {LEAST}, for intervals over contexts")
    rows, source = read_texts(texts)
    if texts is None and (subject.tokenizer is None or not subject.anatomy.tokens):
        raise InputError(
            f"{subject.name} takes no text, so the project's passages do not fit it; give texts=Examples.from_rows(…)"
        )
    if len(rows) < LEAST:
        raise InputError(f"{rows.name}: {len(rows)} rows, wanted at least {LEAST} contexts; add texts")
    rows = _some(rows, count, seed)
    if len(rows) < LEAST or len(set(rows.groups.tolist())) < LEAST:
        groups = len(set(rows.groups.tolist()))
        raise InputError(
            f"{rows.name}: {len(rows)} contexts in {groups} groups, wanted at least {LEAST} groups; name more groups"
        )
    if not subject.anatomy.tokens or (rows.kind != "tensor" and subject.tokenizer is None):
        return Contexts(rows, source, "rows as given", None)
    tokens = tokenise(subject, rows)
    if rows.kind == "text" and cut:
        kept = [
            _length(ids, name, digest, seed) for ids, name, digest in zip(tokens.ids, tokens.names, rows.row_digests, strict=True)
        ]
        how = "each text cut after a token drawn for it, from a quarter of its tokens to all of them"
    else:
        kept = [len(ids) for ids in tokens.ids]
        how = {"text": "texts whole", "chat": "chats up to where the network answers", "tensor": "token ids as given"}[rows.kind]
    return Contexts(_as_tokens(rows, tokens, kept), source, how, tuple(kept))


def _some(rows: Examples, count: int, seed: int) -> Examples:
    """`count` rows at random, from every group as alike in number as can be, in the order in which they stand."""
    if count >= len(rows):
        return rows
    order = numpy_generator(seed, "census contexts").permutation(len(rows))
    turn = np.empty(len(rows), dtype=np.int64)  # a row's turn within its group
    for group in np.unique(rows.groups):
        mine = order[rows.groups[order] == group]
        turn[mine] = np.arange(len(mine))
    return rows.subset(np.sort(order[np.argsort(turn[order], kind="stable")][:count]))


def _length(ids: tuple[int, ...], name: str, row: str, seed: int) -> int:
    if len(ids) < SHORTEST:
        raise InputError(f"row {name}: {len(ids)} token, wanted at least {SHORTEST}; write a longer text or delete the row")
    least = max(SHORTEST, math.ceil(len(ids) / 4))
    return int(numpy_generator(seed, "census cut", row).integers(least, len(ids) + 1))


def _as_tokens(rows: Examples, tokens: TokenRows, kept: list[int]) -> Examples:
    """The same rows as token ids; groups stay what they were."""
    made: list[Mapping[str, Any]] = [
        {"tensor": torch.tensor(ids[:length]), "id": name, "group": f"group {group}"}
        for ids, length, name, group in zip(tokens.ids, kept, tokens.names, np.asarray(rows.groups).tolist(), strict=True)
    ]
    return Examples.from_rows(made, rows.name)
