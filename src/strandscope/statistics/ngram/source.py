"""A Markov source of known entropy: what a count of n-grams can at best say about it, in closed form.

The next symbol depends on the last `order` ones: p(w | s₁ … s_k) is a softmax of a sum of tables, one of the last symbol, one
of the last two, and so on up to all k, so that every further symbol of context tells something. From the stationary
distribution π of the chain on contexts, h_n = H(X_n | X_1 … X_{n−1}) follows for every n; it falls up to n = k + 1 and is the
entropy rate from there on.

What it does not know: estimators. It imports none, so that it can stand as their truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class MarkovSource:
    """`table` (symbols,)·order + (symbols,): p of the next symbol after the last `order` of them, the oldest first."""

    table: Floats

    @classmethod
    def drawn(cls, order: int, symbols: int, generator: np.random.Generator, strength: float = 1.0) -> MarkovSource:
        """Tables of logits N(0, strength²), one for each length of context from 1 to `order`."""
        logits = np.zeros((symbols,) * (order + 1))
        for length in range(1, order + 1):
            logits = logits + strength * generator.normal(size=(symbols,) * (length + 1))  # the oldest symbols broadcast
        table = np.exp(logits - logits.max(-1, keepdims=True))
        return cls(table / table.sum(-1, keepdims=True))

    @property
    def order(self) -> int:
        return self.table.ndim - 1

    @property
    def symbols(self) -> int:
        return self.table.shape[-1]

    def stationary(self) -> Floats:
        """(symbols,)·order probabilities of contexts, from the balance equations."""
        size = self.symbols**self.order
        moved = np.zeros((size, size))
        state = np.arange(size)
        for symbol in range(self.symbols):
            moved[state, state * self.symbols % size + symbol] += self.table.reshape(size, -1)[:, symbol]
        balance = np.vstack([moved.T - np.eye(size), np.ones(size)])
        solved = np.linalg.lstsq(balance, np.append(np.zeros(size), 1.0), rcond=None)[0]
        return np.maximum(solved, 0).reshape((self.symbols,) * self.order)

    def entropies(self, most: int) -> list[float]:
        """h_1 … h_most (nats)."""
        joint = self.stationary()[..., None] * self.table
        found = []
        for n in range(1, most + 1):
            kept = min(n, self.order + 1)
            block = joint.sum(axis=tuple(range(joint.ndim - kept)))  # the last `kept` symbols
            context = block.sum(-1, keepdims=True)
            inside = block > 0
            found.append(float(-(block[inside] * np.log((block / np.where(context > 0, context, 1))[inside])).sum()))
        return found

    @property
    def entropy_rate(self) -> float:
        """Nats per symbol."""
        return self.entropies(self.order + 1)[-1]

    def sample(self, documents: int, length: int, generator: np.random.Generator) -> Ints:
        """(documents, length) symbols, each document on its own from the stationary distribution."""
        size, symbols = self.symbols**self.order, self.symbols
        start = self.stationary().ravel()
        state = generator.choice(size, documents, p=start / start.sum())
        cumulative = self.table.reshape(size, symbols).cumsum(-1)[:, :-1]
        made = np.empty((documents, length), dtype=np.int64)
        for place in range(length):
            symbol = (generator.random(documents)[:, None] > cumulative[state]).sum(-1)
            made[:, place] = symbol
            state = state * symbols % size + symbol
        return made

    def logprobs(self, rows: Ints) -> Floats:
        """(documents, length) the source's own log-probabilities (nats); NaN at the first `order` symbols of a document."""
        found = np.full(rows.shape, np.nan)
        past = [rows[:, lag : rows.shape[1] - self.order + lag] for lag in range(self.order + 1)]
        found[:, self.order :] = np.log(self.table[tuple(past)])
        return found
