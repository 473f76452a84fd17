"""What every accumulator refuses: rows that are none, memory that is not there, partners that were made differently."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...linalg import finite

LIMIT = 1 << 31  # bytes that one accumulator may hold unless it is told otherwise


def rows_of(batch: Tensor, d: int, name: str = "batch") -> Tensor:
    """The batch in its own precision, checked to be finite rows (n, d), and in the machine's memory, where sums are kept."""
    if batch.ndim != 2 or batch.shape[1] != d:
        raise InputError(f"{name}: got shape {tuple(batch.shape)}, wanted (rows, {d})")
    if not batch.is_floating_point() or not bool(torch.isfinite(batch.sum())):  # one pass; the sentence costs another
        finite(batch, name)
    return batch.detach().cpu()


def afford(needed: int, limit: int, what: str, instead: str) -> None:
    """Refuse what would need more than `limit` bytes, with the estimate and what to use instead."""
    if needed > limit:
        raise InputError(f"{what} would hold {needed:,} bytes, more than the limit of {limit:,}; {instead}")


def same(mine: dict[str, Any], others: dict[str, Any], verb: str = "merge") -> None:
    """Refuse a partner whose settings differ."""
    for key in mine.keys() | others.keys():
        if mine.get(key) != others.get(key):
            raise InputError(f"{verb}: {key} is {mine.get(key)!r} here and {others.get(key)!r} there; make both alike")


def partner(mine: object, other: object) -> None:
    if type(mine) is not type(other):
        raise InputError(f"merge: got a {type(other).__name__}, wanted a {type(mine).__name__}; only like merges with like")
