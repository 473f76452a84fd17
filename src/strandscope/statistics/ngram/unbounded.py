"""The n-gram of unbounded order: what followed the longest context that the training tokens hold, mixed with Kneser–Ney.

    p(w | x) = λ c(sw)/c(s) + (1 − λ) p_KN(w | x)

s is the longest run of tokens at the end of x that was seen, with a token after it, in the training documents, c counts there,
and p_KN is modified Kneser–Ney of the highest order that was counted in the same documents. λ depends on the length of s and on
c(s), by the cells of `LENGTHS` and `OFTEN`. It is the most likely one on training documents that were held out of all counts (a
tenth, drawn by the generator; Jelinek & Mercer 1980), found by EM with one made-up hit and one made-up miss a cell, so that a
cell without held-out tokens has λ = ½. Where nothing was seen, λ is 0.

What it promises: the probabilities of the vocabulary sum to 1, none is 0, and nothing that is scored has a part in λ.

What it does not know: contexts that resemble each other. It looks for the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError
from .count import Documents, Ints, NGramCounts
from .kneser_ney import KneserNey
from .suffix import SuffixArray

Floats = NDArray[np.float64]
LENGTHS = (1, 2, 3, 4, 5, 7, 9, 13, 17, 33, 65)  # least lengths of s, a row of cells each
OFTEN = (1, 2, 4)  # least c(s), a column each
HELD = 0.1
_ROUNDS = 50


@dataclass(frozen=True, slots=True, eq=False)
class Unbounded:
    """`weights` (lengths, often) are λ; `held` is how many held-out tokens they were fitted on."""

    array: SuffixArray
    base: KneserNey
    weights: Floats
    held: int

    @classmethod
    def of(cls, documents: Sequence[ArrayLike], vocabulary: int, order: int, generator: np.random.Generator) -> Unbounded:
        """From training documents, a tenth of which (at least one) is held out for λ; `order` is that of Kneser–Ney.

        Raises:
            InputError: fewer than two documents.
        """
        if len(documents) < 2:
            raise InputError(f"documents: got {len(documents)}, wanted at least 2, one of them to fit the weights on")
        drawn = generator.permutation(len(documents))
        cut = max(1, round(HELD * len(documents)))
        held, kept = ([documents[place] for place in np.sort(part)] for part in (drawn[:cut], drawn[cut:]))
        counts = NGramCounts(vocabulary, order)
        for document in kept:
            counts.update(document)
        array, base = SuffixArray(kept, vocabulary), KneserNey(counts.result())
        made = cls(array, base, np.zeros((len(LENGTHS), len(OFTEN))), 0)
        rows = Documents.of(held, vocabulary)
        length, often, direct, below = made._parts(rows, np.arange(len(rows.tokens)))
        return cls(array, base, _weights(length, often, direct, below), len(rows.tokens))

    def logprobs(self, documents: Documents | Sequence[ArrayLike], places: Ints | None = None) -> tuple[Floats, Ints]:
        """(places,) log-probability in nats of the token at each place after those before it in its document, and the length of
        the context that was found; all places by default."""
        if not isinstance(documents, Documents):
            documents = Documents.of(documents, self.array.vocabulary)
        places = np.arange(len(documents.tokens)) if places is None else places
        length, often, direct, below = self._parts(documents, places)
        share = np.where(length > 0, self.weights[_cell(length, often)], 0.0)
        return np.log(share * direct + (1 - share) * below), length

    def _parts(self, documents: Documents, places: Ints) -> tuple[Ints, Ints, Floats, Floats]:
        """Length of s, c(s), c(sw)/c(s) and p_KN at each place."""
        length, often = self.array.longest(documents, places)
        hits = self.array.count(documents, places, length + 1)
        below = np.exp(self.base.logprobs(documents)[-1][places])
        return length, often, hits / np.maximum(often, 1), below


def _cell(length: Ints, often: Ints) -> tuple[Ints, Ints]:
    row = np.searchsorted(LENGTHS, length, side="right") - 1
    return np.maximum(row, 0), np.maximum(np.searchsorted(OFTEN, often, side="right") - 1, 0)


def _weights(length: Ints, often: Ints, direct: Floats, below: Floats) -> Floats:
    """(lengths, often) λ by EM."""
    seen = length > 0
    row, column = _cell(length[seen], often[seen])
    cell, size = row * len(OFTEN) + column, len(LENGTHS) * len(OFTEN)
    direct, below = direct[seen], below[seen]
    weights, count = np.full(size, 0.5), np.bincount(cell, minlength=size)
    for _ in range(_ROUNDS):
        mine = weights[cell] * direct
        share = mine / (mine + (1 - weights[cell]) * below)
        weights = (np.bincount(cell, share, minlength=size) + 1) / (count + 2)
    return weights.reshape(len(LENGTHS), len(OFTEN))
