"""What every form of a mean outer product shares: the sums that do not depend on the form, and how two of them join."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import InputError
from ...linalg import Spectrum
from .checks import partner, rows_of, same

Form = Literal["dense", "gram", "sketch"]


@dataclass(frozen=True, slots=True)
class Outer:
    """The mean outer product of n rows.

    Attributes:
        trace: tr M; `square`: tr M² over pairs of different rows, so without the rows' number in it (NaN of one row).
        mean: (d,) of the rows.
    """

    n: int
    d: int
    trace: float
    square: float
    mean: Tensor
    _held: OuterProducts

    @property
    def participation(self) -> float:
        """(tr M)²/tr M², both over pairs of different rows: a point without an interval (`participation` gives one)."""
        both = (self.trace**2 * self.n - self._held.fourth / self.n) / (self.n - 1)
        return both / self.square

    def top(self, k: int, *, centred: bool = False, less: Tensor | None = None) -> Spectrum:
        """The k largest eigenpairs of M, of M − ḡḡᵀ (`centred`), or of M − LᵀL (`less`, (c, d)), with residual bounds."""
        return self._held.top(k, centred, less)

    def matrix(self, *, centred: bool = False, less: Tensor | None = None) -> Tensor:
        """(d, d) M itself, M − ḡḡᵀ or M − LᵀL; of a sketch, Nyström's approximation of it."""
        return self._held.matrix(centred, less)


class OuterProducts(ABC):
    """Accumulates outer products of rows (n, d); `outer_products` makes one of a form."""

    form: Form

    def __init__(self, d: int) -> None:
        self.d, self.n, self.fourth = d, 0, 0.0
        self.scatter_trace = 0.0  # Σ‖g − ḡ‖²
        self.mean = torch.zeros(d, dtype=torch.float64)

    def update(self, batch: Tensor) -> None:
        rows = rows_of(batch, self.d)
        if len(rows):
            wide = rows.double()
            mean = wide.mean(0)
            centred = wide - mean
            self.fourth += float(wide.square().sum(1).square().sum())
            self._join(len(rows), mean, float(centred.square().sum()), self._held(rows, centred))

    def merge(self, other: OuterProducts) -> None:
        partner(self, other)
        same(self.settings(), other.settings())
        self.fourth += other.fourth
        self._join(other.n, other.mean, other.scatter_trace, other.held())

    def _join(self, n: int, mean: Tensor, scatter_trace: float, held: Tensor) -> None:
        if n:
            apart, total = mean - self.mean, self.n + n
            weight = self.n * n / total
            self._take(held, apart, weight)
            self.scatter_trace += scatter_trace + weight * float(apart @ apart)
            self.mean = self.mean + apart * (n / total)
            self.n = total

    def result(self) -> Outer:
        if not self.n:
            raise InputError("outer products: no row came yet; update them with a batch first")
        frozen = type(self)._alike(self)
        frozen.load_state_dict(self.state_dict())
        trace = self.scatter_trace / self.n + float(self.mean @ self.mean)
        pairs = (self._square() * self.n - self.fourth / self.n) / (self.n - 1) if self.n > 1 else float("nan")
        return Outer(self.n, self.d, trace, pairs, self.mean.clone(), frozen)

    def state_dict(self) -> dict[str, Any]:
        sums = {"n": self.n, "fourth": self.fourth, "scatter_trace": self.scatter_trace}
        return {"form": self.form, **self.settings(), **sums, "mean": self.mean.clone(), "held": self.held().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        mine = {"form": self.form, **self.settings()}
        same(mine, {key: state.get(key) for key in mine}, "load_state_dict")
        self.n, self.fourth, self.scatter_trace = state["n"], state["fourth"], state["scatter_trace"]
        self.mean = state["mean"].clone()
        self._put(state["held"].clone())

    def _trace(self, centred: bool, less: Tensor | None) -> float:
        taken = 0.0 if less is None else float(less.square().sum())
        return self.scatter_trace / self.n + (0.0 if centred else float(self.mean @ self.mean)) - taken

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What two have to share before they merge."""

    @classmethod
    @abstractmethod
    def _alike(cls, one: Any) -> OuterProducts: ...
    @abstractmethod
    def held(self) -> Tensor: ...
    @abstractmethod
    def _put(self, held: Tensor) -> None: ...
    @abstractmethod
    def _held(self, rows: Tensor, centred: Tensor) -> Tensor:
        """What a batch adds."""

    @abstractmethod
    def _take(self, held: Tensor, apart: Tensor, weight: float) -> None:
        """Add what another holds; `apart` is its mean less this one's, `weight` n₁n₂/(n₁ + n₂)."""

    @abstractmethod
    def _square(self) -> float:
        """tr M² of the rows at hand, pairs of a row with itself included."""

    @abstractmethod
    def top(self, k: int, centred: bool, less: Tensor | None) -> Spectrum: ...
    @abstractmethod
    def matrix(self, centred: bool, less: Tensor | None) -> Tensor: ...
