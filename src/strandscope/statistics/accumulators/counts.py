"""Counts: of keys, in fixed bins, and in buckets of fixed relative width from which quantiles are read.

Whole numbers add up exactly, so any split and any order give the same result to the last bit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...linalg import finite
from .checks import partner, same

Key = int | str


class Counts:
    """How often each key (a whole number or a text) came."""

    def __init__(self) -> None:
        self.counts: Counter[Key] = Counter()

    def update(self, batch: Tensor | Iterable[Key]) -> None:
        if isinstance(batch, Tensor) and batch.is_floating_point():
            raise InputError("batch: got floating-point numbers, wanted whole numbers or texts; Histogram counts the others")
        self.counts.update(batch.flatten().tolist() if isinstance(batch, Tensor) else batch)

    def merge(self, other: Counts) -> None:
        partner(self, other)
        self.counts.update(other.counts)

    def result(self) -> Mapping[Key, int]:
        return MappingProxyType(dict(self.counts))

    def state_dict(self) -> dict[str, Any]:
        return {"counts": [[key, count] for key, count in self.counts.items()]}  # pairs: JSON would turn numbers into texts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts = Counter(dict(map(tuple, state["counts"])))


@dataclass(frozen=True, slots=True)
class Bins:
    """counts[i] values lay in [edges[i], edges[i + 1]); `below` and `above` outside all of them."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int


class Histogram:
    """Counts of numbers between fixed, ascending edges."""

    def __init__(self, edges: Iterable[float]) -> None:
        self.edges = tuple(float(edge) for edge in edges)
        rising = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        if len(self.edges) < 2 or not rising or not all(map(math.isfinite, self.edges)):
            raise InputError(f"edges: got {self.edges[:6]}, wanted at least two finite ascending numbers")
        self.counts = torch.zeros(len(self.edges) + 1, dtype=torch.int64)

    def update(self, batch: Tensor) -> None:
        place = torch.bucketize(finite(batch, "batch").flatten().cpu(), torch.tensor(self.edges, dtype=torch.float64), right=True)
        self.counts += torch.bincount(place, minlength=len(self.counts))

    def merge(self, other: Histogram) -> None:
        partner(self, other)
        same({"edges": self.edges}, {"edges": other.edges})
        self.counts += other.counts

    def result(self) -> Bins:
        below, *inside, above = self.counts.tolist()
        return Bins(self.edges, tuple(inside), below, above)

    def state_dict(self) -> dict[str, Any]:
        return {"edges": list(self.edges), "counts": self.counts.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        same({"edges": self.edges}, {"edges": tuple(state["edges"])}, "load_state_dict")
        self.counts = state["counts"].clone()


@dataclass(frozen=True, slots=True)
class Buckets:
    """n values as (value, count), ascending; each value stands for those within `error` of it, relatively."""

    error: float
    values: tuple[float, ...]
    counts: tuple[int, ...]
    n: int

    def quantile(self, q: float) -> float:
        """The value of rank ⌊q(n − 1)⌋, within `error` of the true one."""
        if not 0 <= q <= 1:
            raise InputError(f"q: got {q}, wanted a number from 0 to 1")
        if not self.n:
            raise InputError("quantile: nothing was counted yet; update it with a batch first")
        running, rank = 0, math.floor(q * (self.n - 1))
        for value, count in zip(self.values, self.counts, strict=True):
            running += count
            if running > rank:
                return value
        raise AssertionError("counts do not add up to n")


class Quantiles:
    """Quantiles of any numbers within a stated relative error (buckets of DDSketch, Masson et al. 2019, none of them ever
    joined).

    A bucket holds (γ^(i−1), γ^i] with γ = (1 + error)/(1 − error); zero and the negative numbers have their own. There are as
    many as the numbers' range needs: at .001 some 1,150 a decade.
    """

    def __init__(self, error: float = 0.001) -> None:
        if not 0 < error < 0.5:
            raise InputError(f"error: got {error}, wanted a relative error between 0 and 0.5, such as 0.001")
        self.error = error
        self.buckets: Counter[tuple[int, int]] = Counter()  # (sign, bucket)

    @property
    def _width(self) -> float:
        return math.log((1 + self.error) / (1 - self.error))

    def update(self, batch: Tensor) -> None:
        values = finite(batch, "batch").flatten().cpu()
        sign = values.sign().long()
        bucket = torch.where(sign != 0, (values.abs().clamp_min(5e-324).log() / self._width).ceil(), 0.0).long()
        keys, counts = torch.stack([sign, bucket], 1).unique(dim=0, return_counts=True)
        for (side, place), count in zip(keys.tolist(), counts.tolist(), strict=True):
            self.buckets[side, place] += count

    def merge(self, other: Quantiles) -> None:
        partner(self, other)
        same({"error": self.error}, {"error": other.error})
        self.buckets.update(other.buckets)

    def result(self) -> Buckets:
        middle = 2 / (1 + math.exp(self._width))  # of a bucket, as a share of its upper end
        found = sorted((sign * math.exp(bucket * self._width) * middle, count) for (sign, bucket), count in self.buckets.items())
        return Buckets(self.error, tuple(v for v, _ in found), tuple(c for _, c in found), sum(c for _, c in found))

    def state_dict(self) -> dict[str, Any]:
        return {"error": self.error, "buckets": [[*key, count] for key, count in sorted(self.buckets.items())]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        same({"error": self.error}, {"error": state["error"]}, "load_state_dict")
        self.buckets = Counter({(sign, bucket): count for sign, bucket, count in state["buckets"]})
