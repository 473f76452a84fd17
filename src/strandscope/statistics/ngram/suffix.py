"""Where any sequence of tokens occurs: a suffix array over documents read backwards, so that a context is a prefix.

What it promises: for each position, the longest run of tokens before it that was seen in the documents with some token after it,
whatever its length, and how often; occurrences do not cross from one document into the next. The array is built by doubling
(Manber & Myers 1993), each round sorting only what is not yet told apart (as Larsson & Sadakane 2007): about a second a million
tokens, more where long passages repeat. Memory: some 40 bytes a token.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from .count import Documents, Ints


class SuffixArray:
    """All suffixes of the documents read backwards, in order. Separators are numbers below 0, each of its own."""

    def __init__(self, documents: Iterable[ArrayLike], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        held = Documents.of(documents, vocabulary)
        ends = np.cumsum(held.lengths)
        text = np.insert(held.tokens, [0, *ends], np.arange(-len(ends) - 1, 0))
        self.text = text[::-1].copy()  # a separator before, between and after
        self.order = ranked(self.text)
        after = np.concatenate([[-1], self.text[:-1]])[self.order]  # what stands before a suffix follows the context
        self.followed = np.concatenate([[0], np.cumsum(after >= 0)])

    def longest(self, documents: Documents, places: Ints) -> tuple[Ints, Ints]:
        """(places,) length of the longest context that was seen with a token after it, and how often it was; 0 and the number of
        all tokens where not even the last token was."""
        limits = documents.place[places]
        length, low, high = self._descend(documents.tokens, places - 1, limits, needs_next=True)
        return length, self.followed[high] - self.followed[low]

    def count(self, documents: Documents, places: Ints, lengths: Ints) -> Ints:
        """(places,) how often the `lengths` tokens that end with the one at each place occur."""
        length, low, high = self._descend(documents.tokens, places, lengths, needs_next=False)
        return np.where(length == lengths, high - low, 0)

    def _descend(self, tokens: Ints, last: Ints, limits: Ints, *, needs_next: bool) -> tuple[Ints, Ints, Ints]:
        """How many tokens back from each `last` (at most `limits`) were seen, and the range of suffixes that begin so."""
        low, high = np.zeros(len(last), dtype=np.int64), np.full(len(last), len(self.order))
        length = np.zeros(len(last), dtype=np.int64)
        active, depth = np.flatnonzero(limits > 0), 0
        while len(active):
            token = tokens[last[active] - depth]
            start = self._bound(low[active], high[active], depth, token)
            stop = self._bound(start, high[active], depth, token + 1)
            found = self.followed[stop] > self.followed[start] if needs_next else stop > start
            active, start, stop = active[found], start[found], stop[found]
            depth += 1
            low[active], high[active], length[active] = start, stop, depth
            active = active[limits[active] > depth]
        return length, low, high

    def _bound(self, low: Ints, high: Ints, depth: int, token: Ints) -> Ints:
        """The first place in [low, high) whose suffix has a symbol of at least `token` at `depth`; the symbols ascend there."""
        low, high = low.copy(), high.copy()
        while (open_ := low < high).any():
            middle = (low + high) // 2
            below = np.zeros(len(low), dtype=bool)
            below[open_] = self.text[self.order[middle[open_]] + depth] < token[open_]
            low = np.where(open_ & below, middle + 1, low)
            high = np.where(open_ & ~below, middle, high)
        return low


def ranked(text: Ints) -> Ints:
    """(positions,) where the suffixes of `text` begin, in ascending order."""
    order = np.argsort(text, kind="stable")
    ordered = text[order]
    fresh = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    rank = np.empty(len(text), dtype=np.int64)  # the first place in `order` of those that begin alike
    rank[order] = np.maximum.accumulate(np.where(fresh, np.arange(len(text)), 0))
    unsure = np.flatnonzero(~(fresh & np.concatenate([fresh[1:], [True]])))  # places of suffixes not yet told apart
    step = 1
    while len(unsure):
        here = order[unsure]
        following = here + step
        inside = following < len(text)
        key = rank[here] * (len(text) + 1) + np.where(inside, rank[np.where(inside, following, 0)] + 1, 0)
        sorting = np.argsort(key, kind="stable")
        here, key = here[sorting], key[sorting]
        order[unsure] = here
        fresh = np.concatenate([[True], key[1:] != key[:-1]])
        rank[here] = unsure[np.maximum.accumulate(np.where(fresh, np.arange(len(unsure)), 0))]
        unsure = unsure[~(fresh & np.concatenate([fresh[1:], [True]]))]
        step *= 2
    return order
