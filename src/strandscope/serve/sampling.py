"""Which token comes next: the likeliest, or one drawn by a seed that is the request's own.

A draw is one number from a generator that the request alone uses, laid against the cumulated probabilities, so that it does not
depend on what else is in the batch, beyond the rounding of the probabilities themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, TrustError
from ..provenance import numpy_generator

_FIRST = 1024  # likeliest tokens that are sorted before all of them are


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 takes the likeliest token; `top_p` draws from the fewest likeliest tokens that hold so much probability."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise InputError(f"temperature: got {self.temperature:g}, wanted 0 to 2")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p: got {self.top_p:g}, wanted above 0 and at most 1")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed: got {self.seed}, wanted a whole number from 0 on, below 2^63")


class Draws:
    """The draws of one request."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator: np.random.Generator = numpy_generator(sampling.seed, "sampling")

    def token(self, logits: Tensor) -> int:
        """From the logits (vocabulary,) of one position, at a temperature above 0."""
        below = logits.double() - logits.max()  # so that a temperature near 0 leaves the likeliest, and no ∞ − ∞
        chances = torch.softmax(below / self.sampling.temperature, -1)
        order = None
        if self.sampling.top_p < 1:
            chances, order = _nucleus(chances, self.sampling.top_p)
        sums = chances.cumsum(-1)
        place = int(torch.searchsorted(sums, float(self._generator.random()) * sums[-1], right=True))
        place = min(place, len(sums) - 1)
        return place if order is None else int(order[place])


def _nucleus(chances: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens that together hold `top_p`, with their chances; at least one."""
    found, order = chances.topk(min(_FIRST, len(chances)))
    if float(found.sum()) < top_p:
        found, order = chances.sort(descending=True)
    count = int((found.cumsum(-1) < top_p).sum()) + 1
    return found[:count], order[:count]


def likeliest(logits: Tensor) -> list[int | TrustError]:
    """Of each row (rows, vocabulary), or what is wrong with it: NaN is above every number."""
    top, tokens = logits.max(-1)
    said = "the network's output is NaN or infinite under these edits; ask for fewer nats"
    fine = zip(tokens.tolist(), top.isfinite().tolist(), strict=True)
    return [token if good else TrustError(said) for token, good in fine]
