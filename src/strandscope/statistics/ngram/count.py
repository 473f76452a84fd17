"""How often each n-gram came, for all orders up to n at once, in documents of whole numbers.

What it promises: counts are exact; an n-gram never crosses from one document into the next; documents split over shards in any
way and merged in any order give the same arrays to the last bit. Memory is that of the distinct n-grams, 16 bytes each.

The form is a trie in sorted arrays. An n-gram is the number of its first n − 1 tokens among the distinct (n − 1)-grams, times the
size of the vocabulary, plus its last token: one 64-bit key whatever n is, and a look-up is a binary search an order. An order is
counted by sorting such keys.

What it does not know: what a token is. Text is made into tokens elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError
from ..accumulators.checks import partner, same

Ints = NDArray[np.int64]
_SETTLE = 1 << 20  # tokens that wait before they are counted; more at a time costs memory and saves little


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """Documents one after the other: `tokens` (positions,) and `place` (positions,), a token's number in its document from 0."""

    tokens: Ints
    place: Ints
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, documents: Iterable[ArrayLike], vocabulary: int) -> Documents:
        """From arrays of whole numbers, a document each.

        Raises:
            InputError: a document is no vector of whole numbers from 0 to vocabulary − 1.
        """
        rows = [_checked(row, vocabulary) for row in documents]
        lengths = [len(row) for row in rows]
        tokens = np.concatenate([*rows, np.empty(0, dtype=np.int64)])
        starts = np.repeat(np.cumsum([0, *lengths])[:-1], lengths)
        return cls(tokens, np.arange(len(tokens)) - starts, tuple(lengths))

    @property
    def document(self) -> Ints:
        """(positions,) the number of each token's document."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def _checked(row: ArrayLike, vocabulary: int) -> Ints:
    tokens = np.asarray(row)
    if tokens.ndim != 1 or (len(tokens) and not np.issubdtype(tokens.dtype, np.integer)):
        raise InputError(f"document: got shape {tokens.shape} of {tokens.dtype}, wanted a vector of whole numbers")
    tokens = tokens.astype(np.int64)
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocabulary:
        raise InputError(f"document: tokens {tokens.min()} to {tokens.max()}, wanted 0 to {vocabulary - 1}; name the vocabulary")
    return tokens


@dataclass(frozen=True, slots=True, eq=False)
class Trie:
    """Distinct n-grams of orders 1, 2, …: `keys[n − 1]` ascending and `counts[n − 1]`, both (distinct n-grams,)."""

    vocabulary: int
    keys: tuple[Ints, ...]
    counts: tuple[Ints, ...]

    @property
    def order(self) -> int:
        return len(self.keys)

    @property
    def tokens(self) -> int:
        return int(self.counts[0].sum())

    def prefix(self, order: int) -> Ints:
        """The number of each n-gram's first n − 1 tokens among the (n − 1)-grams; 0 at order 1."""
        return self.keys[order - 1] // self.vocabulary

    def last(self, order: int) -> Ints:
        """Each n-gram's last token."""
        return self.keys[order - 1] % self.vocabulary

    def grams(self, order: int) -> Ints:
        """(distinct n-grams, n) their tokens."""
        rows = np.arange(len(self.keys[order - 1]))
        columns = []
        for n in range(order, 0, -1):
            columns.append(self.last(n)[rows])
            rows = self.prefix(n)[rows]
        return np.stack(columns[::-1], axis=1)

    def child(self, order: int, prefix: Ints, token: Ints) -> Ints:
        """The numbers of the n-grams that end so; −1 where there is none, or no prefix (−1)."""
        keys = self.keys[order - 1]
        wanted = prefix * self.vocabulary + token
        found = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        return np.where((prefix >= 0) & (keys[found] == wanted), found, -1) if len(keys) else np.full(len(wanted), -1)

    def walk(self, documents: Documents) -> list[Ints]:
        """For each order, the number of the n-gram that ends at each position; −1 where it was not counted or would begin
        before its document."""
        found, before = [], np.zeros(len(documents.tokens), dtype=np.int64)
        for order in range(1, self.order + 1):
            numbers = self.child(order, before, documents.tokens)
            numbers[documents.place < order - 1] = -1
            found.append(numbers)
            before = np.concatenate([[-1], numbers[:-1]])[: len(numbers)]
        return found


class NGramCounts:
    """Counts of n-grams of orders 1 to `order`; a document an `update`."""

    def __init__(self, vocabulary: int, order: int) -> None:
        if vocabulary < 1 or order < 1:
            raise InputError(f"n-grams: got a vocabulary of {vocabulary} and order {order}, wanted both 1 or more")
        self.vocabulary, self.order = vocabulary, order
        self.held = Trie(vocabulary, *((np.empty(0, dtype=np.int64),) * order for _ in range(2)))
        self.waiting: list[Ints] = []

    def update(self, document: ArrayLike) -> None:
        self.waiting.append(_checked(document, self.vocabulary))
        if sum(map(len, self.waiting)) >= _SETTLE:
            self._settle()

    def merge(self, other: NGramCounts) -> None:
        partner(self, other)
        same({"vocabulary": self.vocabulary, "order": self.order}, {"vocabulary": other.vocabulary, "order": other.order})
        self._settle()
        self.held = joined(self.held, other.result())

    def result(self) -> Trie:
        self._settle()
        return self.held

    def state_dict(self) -> dict[str, Any]:
        trie = self.result()
        return {
            "vocabulary": self.vocabulary,
            "order": self.order,
            **{f"keys {n + 1}": keys.copy() for n, keys in enumerate(trie.keys)},
            **{f"counts {n + 1}": counts.copy() for n, counts in enumerate(trie.counts)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        same(
            {"vocabulary": self.vocabulary, "order": self.order},
            {name: state[name] for name in ("vocabulary", "order")},
            "load_state_dict",
        )
        parts = (tuple(state[f"{what} {n + 1}"].copy() for n in range(self.order)) for what in ("keys", "counts"))
        self.held, self.waiting = Trie(self.vocabulary, *parts), []

    def _settle(self) -> None:
        if self.waiting:
            documents = Documents.of(self.waiting, self.vocabulary)
            self.held, self.waiting = joined(self.held, counted(documents, self.vocabulary, self.order)), []


def counted(documents: Documents, vocabulary: int, order: int) -> Trie:
    """The trie of these documents: an order at a time, each position's prefix known by its number from the order before."""
    keys, counts = [], []
    before = np.zeros(len(documents.tokens), dtype=np.int64)
    for n in range(1, order + 1):
        inside = documents.place >= n - 1
        made = before[inside] * vocabulary + documents.tokens[inside]
        if n < order:
            distinct, number, often = np.unique(made, return_inverse=True, return_counts=True)
            before = np.zeros(len(documents.tokens) + 1, dtype=np.int64)
            before[1:][inside] = number
            before = before[:-1]
        else:
            distinct, often = np.unique(made, return_counts=True)
        keys.append(distinct)
        counts.append(often.astype(np.int64))
    return Trie(vocabulary, tuple(keys), tuple(counts))


def joined(one: Trie, other: Trie) -> Trie:
    """The trie of both: an order at a time, prefixes renumbered as they stand in the joint order before."""
    if not one.tokens or not other.tokens:
        return one if one.tokens else other
    keys: list[Ints] = []
    counts: list[Ints] = []
    places: Sequence[Ints] = [np.zeros(1, dtype=np.int64)] * 2
    for n in range(one.order):
        moved = [
            place[trie.prefix(n + 1)] * trie.vocabulary + trie.last(n + 1)
            for place, trie in zip(places, (one, other), strict=True)
        ]
        distinct = np.sort(np.concatenate(moved))
        distinct = distinct[np.concatenate([[True], distinct[1:] != distinct[:-1]])]
        places = [np.searchsorted(distinct, part) for part in moved]
        total = np.zeros(len(distinct), dtype=np.int64)
        for place, trie in zip(places, (one, other), strict=True):
            total[place] += trie.counts[n]  # the keys of one trie are distinct, so each place comes once
        keys.append(distinct)
        counts.append(total)
    return Trie(one.vocabulary, tuple(keys), tuple(counts))
