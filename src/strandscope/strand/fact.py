"""FACT: what WᵀW of a layer must be where training with L2 decay has come to rest (arXiv 2507.05644).

With the loss (1/n)Σℓ_i + (λ/2)‖W‖², z = Wh and nothing else of W in it, a stationary point has (1/n)Σ(∂ℓ_i/∂z)hᵢᵀ + λW = 0.
Multiplied by Wᵀ,

    WᵀW = −(1/(nλ)) Σ (∇_h ℓ_i) h_iᵀ,     ∇_hℓ_i = Wᵀ ∂ℓ_i/∂z the gradient of the row's own loss by the layer's input through W.

It is an identity there, for any loss and any network, and so an exact test of the instrument that takes the gradients; away from
rest its residual is ‖Wᵀ∇_W L‖/(λ‖WᵀW‖), which falls with the gradient. It is one for L2 decay in the loss, and none for decoupled
decay (AdamW), whose points of rest are others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..linalg import finite
from ..reading import Reading
from ..statistics.accumulators.checks import LIMIT, afford, partner, rows_of, same
from .nfa import matched


@dataclass(frozen=True, slots=True)
class Fact:
    """Both sides of the identity: `left` WᵀW and `right` −(1/(nλ))Σ(∇_hℓ)hᵀ, (d, d), from n rows."""

    n: int
    left: Tensor
    right: Tensor

    @property
    def residual(self) -> float:
        """‖left − right‖/‖left‖, Frobenius."""
        return float((self.left - self.right).norm() / self.left.norm())

    @property
    def cosine(self) -> float:
        """Of the two sides' entries."""
        return matched(self.left, self.right)

    def reading(self) -> Reading:
        """The residual. It has no sampling in it: it is about these rows, and its interval has no width."""
        value = self.residual
        return Reading(value, value, value, None, self.n, "share of ‖WᵀW‖", None, "FACT residual over the training rows")


class FactSums:
    """Σ(∇_hℓ)hᵀ over rows, batch by batch."""

    def __init__(self, d: int, *, limit: int = LIMIT) -> None:
        afford(8 * d * d, limit, f"a matrix of {d} × {d}", "take a narrower layer")
        self.d, self.n = d, 0
        self.total = torch.zeros(d, d, dtype=torch.float64)

    def update(self, gradients: Tensor, inputs: Tensor) -> None:
        """Add rows: (n, d) gradients of each row's own loss (not of the mean) by the layer's input, and that input (n, d)."""
        one, other = rows_of(gradients, self.d, "gradients").double(), rows_of(inputs, self.d, "inputs").double()
        if len(one) != len(other):
            raise InputError(f"inputs: got {len(other)} rows, wanted {len(one)}, one for each gradient")
        self.total += one.T @ other
        self.n += len(one)

    def merge(self, other: FactSums) -> None:
        partner(self, other)
        same({"d": self.d}, {"d": other.d})
        self.total += other.total
        self.n += other.n

    def result(self, weight: Tensor, decay: float) -> Fact:
        """Both sides for a layer W (k, d) trained with the penalty (decay/2)‖W‖²."""
        wide = finite(weight.detach().cpu(), "weight")
        if wide.ndim != 2 or wide.shape[1] != self.d:
            raise InputError(f"weight: got shape {tuple(weight.shape)}, wanted (k, {self.d})")
        if not self.n or not decay > 0:
            raise InputError(f"decay: got {decay:g} and {self.n} rows, wanted decay above 0 and at least one row")
        if not float(wide.norm()) > 0:
            raise InputError("weight: it is zero; decay has taken the layer away, and the identity says 0 = 0")
        return Fact(self.n, wide.T @ wide, self.total / (-decay * self.n))

    def state_dict(self) -> dict[str, Any]:
        return {"d": self.d, "n": self.n, "total": self.total.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        same({"d": self.d}, {"d": state["d"]}, "load_state_dict")
        self.n, self.total = state["n"], state["total"].clone()
