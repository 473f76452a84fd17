"""Counting what follows what: n-grams of whole numbers, the models that are made of their counts, and how far these reach.

`NGramCounts` counts and merges; `KneserNey` turns counts into probabilities of orders 1 to n; `Unbounded` follows the longest
context that the training tokens hold; `gap` compares losses over documents. Losses are in nats per token.
"""

from .count import Documents, NGramCounts, Trie
from .gap import clustered_mean, effective_order, gains
from .kneser_ney import KneserNey
from .unbounded import Unbounded

__all__ = ["Documents", "KneserNey", "NGramCounts", "Trie", "Unbounded", "clustered_mean", "effective_order", "gains"]
