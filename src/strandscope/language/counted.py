"""What counting makes of the same tokens: Kneser–Ney of orders 1 to 8 and the longest match, from the library's counted part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..provenance import numpy_generator
from ..reading import Reading
from ..statistics.ngram import Documents, KneserNey, NGramCounts, Unbounded, clustered_mean, effective_order
from .context import Targets
from .texts import Tokens

Floats = NDArray[np.float64]
ORDERS = 8
NAMES = ("unigram", "bigram", "trigram", "quadrigram", "5-gram", "6-gram", "7-gram", "8-gram")


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """The models, and what they were made from."""

    smoothed: KneserNey
    longest: Unbounded
    trained: Tokens

    @classmethod
    def of(cls, trained: Tokens, vocabulary: int, seed: int) -> Counted:
        counts = NGramCounts(vocabulary, ORDERS)
        for row in trained.ids:
            counts.update(row)
        generator = numpy_generator(seed, "language", "held out")
        return cls(KneserNey(counts.result()), Unbounded.of(trained.ids, vocabulary, ORDERS, generator), trained)

    def at(self, scored: Tokens, targets: Targets) -> tuple[Floats, NDArray[np.int64]]:
        """(orders + 1, targets) losses in nats, the longest match last; and the length of each target's longest match."""
        chosen = Documents.of([scored.ids[number] for number in targets.document], self.smoothed.counts.vocabulary)
        starts = np.cumsum([0, *chosen.lengths])[:-1]
        places = np.repeat(starts, targets.length) + targets.places
        smoothed = self.smoothed.logprobs(chosen)[:, places]
        longest, length = self.longest.logprobs(chosen, places)
        return -np.vstack([smoothed, longest]), length

    def everywhere(self, scored: Tokens, level: float) -> tuple[list[Reading], Reading]:
        """The loss of each order over all of the scored tokens that have a context of its length, and the effective order."""
        rows = Documents.of(scored.ids, self.smoothed.counts.vocabulary)
        inside = rows.place >= ORDERS - 1
        losses, documents = -self.smoothed.logprobs(rows)[:, inside], rows.document[inside]
        return [clustered_mean(loss, documents, level) for loss in losses], effective_order(list(losses), documents, level)
