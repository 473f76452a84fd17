"""From losses of targets to readings: gains, the exponent of the gain, and which order of counting a context is worth.

One span of targets stands in each document, so a document's mean loss is one row, and intervals are over documents: of means and
paired differences by t, of all that is read off whole curves by the bootstrap of documents (percentiles of 2,000 resamples, the
same resamples for every figure). With fewer than a dozen documents a bootstrap's intervals are too narrow (they cover some 83 %
with six for 95 %).

The exponent is that of L(k) = L∞ + A k^−γ, least squares over the doublings from k = 4 on: with one or two tokens the network is
told so little of where it is that nothing smooth can be expected. The gain of a doubling then falls as k^−γ too. A limit of loss
is not below 0, and of least squares with that bound the fit is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..laws.fit.forms import Axis, form, values
from ..laws.fit.solve import Problem, descend, search
from ..provenance import numpy_generator
from ..reading import Reading
from ..statistics.ngram import clustered_mean

Floats = NDArray[np.float64]
DRAWS, FROM = 2000, 4
_POINTS = 4  # doublings that a fit of three parameters needs at least
NATS = "nats per token"
_BOOTSTRAP = "percentiles over resampled documents"
FORM = "L∞ + A k^−γ, least squares"


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """`model` (contexts, documents) and `counted` (orders + 1, documents): mean losses of each document's targets."""

    contexts: tuple[int, ...]
    model: Floats
    counted: Floats
    draws: Floats  # (draws, documents) weights of resampled documents
    level: float

    @classmethod
    def of(cls, contexts: Sequence[int], model: Floats, counted: Floats, length: int, level: float, seed: int) -> Losses:
        """From losses of targets (…, documents · length)."""
        by_document = [part.reshape(len(part), -1, length).mean(-1) for part in (model, counted)]
        count = by_document[0].shape[1]
        drawn = numpy_generator(seed, "language", "bootstrap").multinomial(count, np.full(count, 1 / count), DRAWS) / count
        return cls(tuple(contexts), by_document[0], by_document[1], drawn, level)

    @property
    def doublings(self) -> list[int]:
        """Places of contexts 1, 2, 4, 8, …"""
        return [place for place, k in enumerate(self.contexts) if k & (k - 1) == 0]

    def mean(self, rows: Floats, level: float | None = None, unit: str = NATS) -> Reading:
        """Of figures by document (documents,)."""
        return clustered_mean(rows, np.arange(len(rows)), self.level if level is None else level, unit=unit)

    def gains(self) -> dict[int, Reading]:
        """For each context whose half is there too, how much lower its loss is; at a level that holds for all together."""
        places = self.doublings
        pairs = [(a, b) for a, b in pairwise(places) if self.contexts[b] == 2 * self.contexts[a]]
        level = 1 - (1 - self.level) / max(len(pairs), 1)
        return {self.contexts[b]: self.mean(self.model[a] - self.model[b], level) for a, b in pairs}

    def used(self) -> Reading:
        """The longest context that still gains over its half."""
        gains = self.gains()
        method = "the longest k whose gain over k/2 is clear of 0; upper end: the longest whose gain may be above 0; Bonferroni"
        sure = max((k for k, gain in gains.items() if gain.low is not None and gain.low > 0), default=1)
        maybe = max((k for k, gain in gains.items() if gain.high is not None and gain.high > 0), default=1)
        return Reading(sure, sure, max(sure, maybe), self.level, self.model.shape[1], "tokens", None, method)

    def decay(self, most: int | None = None) -> Decay | str:
        """The fit to contexts up to `most`, or why there is none."""
        places = [p for p in self.doublings if FROM <= self.contexts[p] <= (most or max(self.contexts))]
        if len(places) < _POINTS:
            return f"{len(places)} doublings of the context from {FROM} tokens on, wanted at least {_POINTS}"
        return Decay.of(self, places)

    def equal_order(self, place: int) -> Reading:
        """The order, between those counted, whose loss is that of the network at this context."""
        orders = self.counted[:-1]
        return self.read("order", lambda weights: _crossing(orders @ weights, self.model[place] @ weights), len(orders))

    def worth(self, row: int) -> Reading:
        """Tokens of context, between those measured, that give the network the loss of this counted model."""
        logs = np.log2(self.contexts)

        def found(weights: Floats) -> Floats:
            at = _crossing(self.model @ weights, self.counted[row] @ weights)
            return np.where(np.isfinite(at), 2 ** np.interp(at, np.arange(1, len(logs) + 1), logs), at)

        return self.read("tokens", found, max(self.contexts))

    def read(self, unit: str, figure: Callable[[Floats], Floats], most: float) -> Reading:
        """A figure of weights (documents, …); ±∞ where it lies off an end, which is said if that is so of the figure itself or
        of more resamples than an interval leaves out."""
        (value,), drawn = figure(np.full((self.model.shape[1], 1), 1 / self.model.shape[1])), figure(self.draws.T)
        n = self.model.shape[1]
        if not np.isfinite(value):
            return Reading.not_measured(_off(value < 0, value > 0, most), unit=unit, method=_BOOTSTRAP, n=n)
        tail = (1 - self.level) / 2
        under, over = (float((drawn == end).mean()) > tail for end in (-np.inf, np.inf))
        if under or over:
            return Reading.not_measured(f"perhaps {_off(under, over, most)}", unit=unit, method=_BOOTSTRAP, n=n)
        low, high = np.quantile(np.clip(drawn, 1, most), [tail, 1 - tail])
        return Reading(float(value), float(min(low, value)), float(max(high, value)), self.level, n, unit, None, _BOOTSTRAP)


def _off(under: bool, over: bool, most: float) -> str:
    """Off which end, or both."""
    if under and over:
        return f"below 1 or beyond {most:g}, the first and the last there are"
    return "below 1, the first there is" if under else f"beyond {most:g}, the last there is"


def _crossing(curve: Floats, height: Floats) -> Floats:
    """(draws,) where a falling curve (places, draws) first comes down to a height, counted from 1, linearly between places; −∞
    where it begins below, ∞ where it never does."""
    below = curve <= height
    first = np.where(below.any(0), below.argmax(0), len(curve))
    inside = np.clip(first, 1, len(curve) - 1)
    columns = np.arange(curve.shape[1])
    before, after = curve[inside - 1, columns], curve[inside, columns]
    at = inside + (before - height) / np.where(before > after, before - after, 1)
    return np.where(first == 0, np.where(curve[0] == height, 1.0, -np.inf), np.where(first == len(curve), np.inf, at))


@dataclass(frozen=True, slots=True, eq=False)
class Decay:
    """L∞ + A k^−γ fitted to all documents (first) and to each resample: parameters (1 + draws, 3) in the coordinates of `axis`;
    `unsettled` refits did not come to an end, and `adrift` are these and those that came to an edge of the search."""

    theta: Floats
    axis: Axis
    level: float
    documents: int
    unsettled: int
    adrift: int

    @classmethod
    def of(cls, losses: Losses, places: Sequence[int]) -> Decay | str:
        """Or why there is none: the losses do not fall, the search does not end, or it ends at an edge."""
        wanted, model = form("power+const"), losses.model[list(places)]
        sizes = np.array([[losses.contexts[p] for p in places]], dtype=np.float64)
        axis = Axis.of(sizes, logarithmic=True)
        problem = Problem(wanted, axis, axis.of_sizes(sizes), np.ones(len(places)), "additive", 1.0)
        whole = model.mean(1)
        starts = search(problem, whole)
        if not len(starts):
            return "the losses do not fall"
        theta, squares, ended = descend(problem, starts, np.broadcast_to(whole, (len(starts), len(whole))), floor=True)
        best = int(np.argmin(squares))
        (box,) = problem.boxes()
        if not box[0] < theta[best, 2] < box[1]:
            return "the best exponent lies at an edge of the search: the losses do not fall as a power of the context"
        if not ended[best]:
            return "the search for the exponent did not end"
        start = np.repeat(theta[best : best + 1], len(losses.draws), 0)
        drawn, _, settled = descend(problem, start, losses.draws @ model.T, floor=True)
        adrift = ~settled | (drawn[:, 2] <= box[0]) | (drawn[:, 2] >= box[1])
        unsettled = int((~settled).sum())
        return cls(np.vstack([theta[best], drawn]), axis, losses.level, model.shape[1], unsettled, int(adrift.sum()))

    def at(self, k: float) -> Floats:
        """(1 + draws,) the fitted loss at k."""
        return values(form("power+const"), self.theta, self.axis.of_sizes(np.array([[k]])), slopes=False)[0][:, 0]

    @property
    def exponent(self) -> Reading:
        draws = len(self.theta) - 1
        if self.adrift > draws * (1 - self.level) / 2:  # a power too steep to tell from a step has no least squares to settle at
            reason = f"the losses do not bound it: {self.adrift:,} of {draws:,} refits did not settle within the search"
            return Reading.not_measured(reason, unit="1", method=self._how, n=self.documents)
        return self.reading(np.exp(self.theta[:, 2]), "1")

    @property
    def limit(self) -> Reading:
        if (self.theta[1:, 0] > 0).mean() <= (1 - self.level) / 2:
            reason = "the losses want a limit below 0; the form does not hold"
            return Reading.not_measured(reason, unit=NATS, method=self._how, n=self.documents)
        return self.reading(self.theta[:, 0], NATS)

    def reading(self, figures: Floats, unit: str, level: float | None = None) -> Reading:
        """Of figures (1 + draws,), the first of all documents."""
        level = self.level if level is None else level
        low, high = np.quantile(figures[1:], [(1 - level) / 2, (1 + level) / 2])
        value = float(figures[0])
        return Reading(value, float(min(low, value)), float(max(high, value)), level, self.documents, unit, None, self._how)

    @property
    def _how(self) -> str:
        method = f"{FORM}; {_BOOTSTRAP}"
        return f"{method}, {self.unsettled:,} of {len(self.theta) - 1:,} refits not settled" if self.unsettled else method
