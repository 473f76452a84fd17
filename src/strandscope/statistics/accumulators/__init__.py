"""Statistics that merge: fed batch by batch, split over shards in any way and merged in any order, the result is that of all
rows.

Each has `update(batch)`, `merge(other)` (in place; `other` stays as it was), `result()` (frozen), `state_dict()` (tensors and
values that JSON can hold) and `load_state_dict(state)` (in place, of one that was made alike). Sums are kept in float64 about a
running mean, so that a common offset costs no digits, and in the machine's memory, whatever device the batches are on. Two that
were made differently are not merged but refused in a sentence.
"""

from .counts import Counts, Histogram, Quantiles
from .moments import ClassMoments, Moments
from .outer import DenseProducts, KeptRows, outer_products
from .products import Outer, OuterProducts
from .sketch import SketchedProducts

__all__ = [
    "ClassMoments",
    "Counts",
    "DenseProducts",
    "Histogram",
    "KeptRows",
    "Moments",
    "Outer",
    "OuterProducts",
    "Quantiles",
    "SketchedProducts",
    "outer_products",
]
