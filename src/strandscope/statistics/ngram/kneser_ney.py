"""Interpolated modified Kneser–Ney smoothing (Chen & Goodman 1999, §4.1.6; Kneser & Ney 1995), orders 1 to n of one set of
counts.

    p_n(w | h) = (a(hw) − D(a(hw)))₊ / A(h) + γ(h) p_{n−1}(w | h′),    γ(h) = Σ_w D(a(hw)) / A(h),    p_0 = 1 / vocabulary

h′ is h without its first token. a is the count of hw at the model's own order, and below it the number of different tokens that
were seen before hw; A(h) is their sum over w. D takes three values, for a of 1, of 2, and of 3 or more, from the numbers n₁ …
n₄ of n-grams with a of 1 … 4 (their eq. 26): D_i = i − (i + 1) Y n_{i+1}/n_i, Y = n₁/(n₁ + 2n₂).

What it promises: for every order and context the probabilities of the whole vocabulary sum to 1, and none is 0 (up to the
uniform base), so every loss is finite. A context that was never seen leaves p_{n−1}. At the beginning of a document, where the
context is shorter than n − 1 tokens, the highest order that it fills is used.

Counts that do not determine the discounts (one of n₁ … n₄ is 0, as with eight symbols and a million tokens; or a discount that
leaves (0, i]) give D = ½, 1, 1½; `fallen` names those orders. With so many counts as that takes, the choice hardly moves a
probability.

What it does not know: anything beyond n − 1 tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .count import Documents, Ints, Trie

Floats = NDArray[np.float64]
FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One order's part: of each n-gram its discounted share of its context, and of each context the mass it leaves.

    `share` (n-grams,), `rest` (contexts,); `discounts` are D₁, D₂, D₃₊, and `fallen` says that counts did not determine them.
    """

    share: Floats
    rest: Floats
    discounts: tuple[float, float, float]
    fallen: bool


class KneserNey:
    """Models of orders 1 to `counts.order`, which share their lower orders."""

    def __init__(self, counts: Trie) -> None:
        self.counts = counts
        seen_before = continuations(counts)
        self._own = [_level(counts, n, counts.counts[n - 1]) for n in range(1, counts.order + 1)]
        self._lower = [_level(counts, n, seen_before[n - 1]) for n in range(1, counts.order)]

    @property
    def order(self) -> int:
        return self.counts.order

    @property
    def fallen(self) -> tuple[int, ...]:
        """Orders at which counts did not determine the discounts, of their own or as a lower order."""
        return tuple(n + 1 for n in range(self.order) if self._own[n].fallen or (n < self.order - 1 and self._lower[n].fallen))

    def discounts(self, order: int) -> tuple[float, float, float]:
        """D₁, D₂, D₃₊ of the counts at this order, as the highest one."""
        return self._own[order - 1].discounts

    def logprobs(self, documents: Documents | Iterable[ArrayLike]) -> Floats:
        """(orders, positions) log-probability in nats of each token after those before it in its document.

        Raises:
            InputError: a token outside the vocabulary.
        """
        if not isinstance(documents, Documents):
            documents = Documents.of(documents, self.counts.vocabulary)
        grams = self.counts.walk(documents)
        below = np.full(len(documents.tokens), 1.0 / self.counts.vocabulary)
        made = np.empty((self.order, len(below)))
        for n in range(1, self.order + 1):
            context = _before(grams[n - 2]) if n > 1 else np.zeros(len(below), dtype=np.int64)
            own = _mixed(self._own[n - 1], grams[n - 1], context, below)  # overwritten where the context is another document's
            made[n - 1] = own if n == 1 else np.where(documents.place < n - 1, made[n - 2], own)
            if n < self.order:
                below = _mixed(self._lower[n - 1], grams[n - 1], context, below)
        return np.log(made)

    def distributions(self, contexts: Ints) -> Floats:
        """(orders, contexts, vocabulary) probabilities of every token after each context (contexts, tokens)."""
        size = self.counts.vocabulary
        rows = np.repeat(np.asarray(contexts, dtype=np.int64), size, axis=0)
        rows = np.concatenate([rows, np.tile(np.arange(size), len(contexts))[:, None]], axis=1)
        ends = self.logprobs(rows)[:, rows.shape[1] - 1 :: rows.shape[1]]
        return np.exp(ends).reshape(self.order, len(contexts), size)


def continuations(counts: Trie) -> list[Ints]:
    """For orders 1 to n − 1, how many different tokens were seen before each n-gram."""
    found, suffix = [], np.zeros(len(counts.keys[0]), dtype=np.int64)  # of a gram without its first token
    for n in range(2, counts.order + 1):
        suffix = counts.child(n - 1, suffix[counts.prefix(n)], counts.last(n))
        found.append(np.bincount(suffix, minlength=len(counts.keys[n - 2])))
    return found


def _level(counts: Trie, order: int, a: Ints) -> Level:
    discounts, fallen = modified_discounts(np.bincount(np.minimum(a, 5), minlength=6)[1:5])
    context = counts.prefix(order)
    contexts = 1 if order == 1 else len(counts.keys[order - 2])
    total = np.bincount(context, a, minlength=contexts)
    taken = np.array((0.0, *discounts))[np.minimum(a, 3)]
    seen = total > 0
    rest = np.ones(contexts)
    rest[seen] = np.bincount(context, taken, minlength=contexts)[seen] / total[seen]
    share = np.zeros(len(a))
    inside = seen[context]
    share[inside] = (a - taken)[inside] / total[context[inside]]
    return Level(share, rest, discounts, fallen)


def modified_discounts(counts_of_counts: Ints) -> tuple[tuple[float, float, float], bool]:
    """D₁, D₂, D₃₊ from n₁ … n₄, and whether the fallback had to stand in."""
    n1, n2, n3, n4 = (float(count) for count in counts_of_counts)
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 < one <= i for i, one in enumerate(found, start=1)):
            return found, False
    return FALLBACK, True


def _before(numbers: Ints) -> Ints:
    """Each position's number from the position before; −1 at the first."""
    return np.concatenate([[-1], numbers[:-1]])[: len(numbers)]


def _mixed(level: Level, gram: Ints, context: Ints, below: Floats) -> Floats:
    share = np.where(gram >= 0, level.share[gram], 0.0) if len(level.share) else np.zeros(len(gram))
    rest = np.where(context >= 0, level.rest[context], 1.0) if len(level.rest) else np.ones(len(gram))
    return share + rest * below
