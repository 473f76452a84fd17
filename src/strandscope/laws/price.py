"""The law of price: what a push costs before it is given, and up to which dose that can be known.

For an edit of size c, KL(p₀ ‖ p_c) = ½c²χ + O(c³) with the susceptibility χ = Var_{y~p}[∂_c log p(y)]. That is Taylor's theorem
and cannot fail; the law with content is its edge. The ratio of means over prompts,

    KL(c) / ½c²χ = 1 + a·c + b·c² + O(c³),

has its a from half the difference of the ratios at +c and −c and its b from their average, both at c and c/2 and extrapolated to
0 (Richardson), so that the next orders do not reach them. The edge is the least c > 0 with |a·c + b·c²| = 0.2: it is predicted
from small doses on some prompts and tested by the dose at which the measured ratio of other prompts leaves 0.8 to 1.2.

Everything is a ratio of sums over prompts, so prompts that share a topic are left out together: intervals are those of the
delete-one-topic jackknife (of logarithms, where a figure is positive), with the degrees of freedom of t that the kurtosis of
the topics' influence leaves, at most topics − 1. On a softmax model with skewed slopes they hold the edge in .95 to .96 from 16
to 75 topics of four prompts, and in .98 with 8; percentiles of a bootstrap, t or not, in .90 with 32.

What it does not know: orders beyond b. Where the ratio bends back before it leaves the band, the predicted edge is off, and the
test on other prompts says so. Nor how heavy the tails are: where a few rows hold most of the third and fourth orders, intervals
of any kind are too short (docs/decisions/2026-11-26-price-edge-and-use.md has figures), and more prompts are the only help.

For a linear softmax model a = κ₃/3κ₂ and b = κ₄/12κ₂ with the cumulants κ of the logits' slopes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from ..errors import InputError
from ..reading import Reading
from ..statistics.effect import half_width
from ..statistics.paired import jackknife_variance
from ..statistics.pairs import freedom
from .law import Control, Law, LawResult, judge

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOLERANCE = 0.2  # the ratio's distance from 1 at the edge
LEVEL = 0.95
FEWEST = 4  # topics; with fewer, an interval over topics says nothing
LENGTHS = "lengths of the direction"
NATS = "nats per next token"
_A, _B = "1 / length of the direction", "1 / squared length of the direction"
CHI = "nats per next token and squared length of the direction"

EDGE_LAW = Law(
    name="edge of the price",
    formula="KL(c)/(½c²χ) = 1 + a·c + b·c²; the edge is the least c > 0 with |a·c + b·c²| = 0.2",
    symbols={
        "c": f"size of the push ({LENGTHS})",
        "KL(c)": f"mean KL(plain ‖ pushed) over prompts ({NATS})",
        "χ": f"mean variance of ∂_c log p(y) under p ({CHI})",
        "a": "odd part of the ratio, from pushes of ±c (1/length)",
        "b": "even part of the ratio, from pushes of ±c (1/length²)",
    },
    domain="pushes whose small doses stand clear of rounding in the network's dtype",
    tolerance=0.5,
)


def susceptibility(logprobs: Tensor, slope: Tensor) -> Floats:
    """χ of each row: Var_{y~p}[∂_c log p(y)] from log p (rows, vocabulary) and ∂_c log p (rows, vocabulary).

    The mean E[∂ log p] is 0 in exact arithmetic; it is subtracted all the same, so that a slope known up to a constant serves.
    """
    share = logprobs.double().exp()
    share = share / share.sum(-1, keepdim=True)
    slope = torch.where(share > 0, slope.double(), 0.0)  # what cannot come may have any slope
    centred = slope - (share * slope).sum(-1, keepdim=True)
    return (share * centred.square()).sum(-1).numpy()


def divergence(plain: Tensor, edited: Tensor) -> Floats:
    """KL(plain ‖ edited) of each row (…, vocabulary) of log-probabilities, in nats, and never below 0."""
    plain = plain.double()
    return (plain.exp() * (plain - edited.double())).sum(-1).clamp_min(0).numpy()


@dataclass(frozen=True, eq=False)
class Costs:
    """What pushes cost: KL (sizes, rows) at +size (`up`) and −size (`down`), χ (rows,), and each row's topic."""

    sizes: Floats
    up: Floats
    down: Floats
    chi: Floats
    topics: Ints

    def __post_init__(self) -> None:
        wanted = (len(self.sizes), len(self.chi))
        if self.up.shape != wanted or self.down.shape != wanted or len(self.topics) != wanted[1]:
            got = f"{self.up.shape}, {self.down.shape} and {len(self.topics)} topics"
            raise InputError(f"costs: got {got}, wanted (sizes, rows) = {wanted} and a topic for each row")
        if not bool((self.sizes > 0).all()) or not bool(np.isfinite(self.sizes).all()):
            raise InputError(f"costs: got sizes {self.sizes.tolist()}, wanted finite ones above 0")

    @property
    def opposite(self) -> Costs:
        """The same seen along the opposite direction."""
        return Costs(self.sizes, self.down, self.up, self.chi, self.topics)

    def of(self, rows: Ints | NDArray[np.bool_]) -> Costs:
        return Costs(self.sizes, self.up[:, rows], self.down[:, rows], self.chi[rows], self.topics[rows])

    def at(self, sizes: Ints | NDArray[np.bool_]) -> Costs:
        return Costs(self.sizes[sizes], self.up[sizes], self.down[sizes], self.chi, self.topics)

    def ratios(self, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Measured over predicted mean KL at +sizes and at −sizes: (sizes,), or (sets, sizes) for weights (sets, topics)."""
        _, topic = np.unique(self.topics, return_inverse=True)
        member = np.eye(int(topic.max()) + 1)[topic]  # (rows, topics)
        weights = np.ones((1, member.shape[1])) if weights is None else weights
        predicted = 0.5 * (weights @ (self.chi @ member))[:, None] * self.sizes**2
        found = tuple(weights @ (costs @ member).T / predicted for costs in (self.up, self.down))
        return (found[0][0], found[1][0]) if len(weights) == 1 else (found[0], found[1])


def expand(sizes: Floats, up: Floats, down: Floats) -> tuple[Floats, Floats]:
    """a and b (…,) from ratios (…, 2) at two sizes, extrapolated to size 0."""
    small, large = sizes
    odd, even = (up - down) / 2 / sizes, ((up + down) / 2 - 1) / sizes**2
    pull = small**2 / (large**2 - small**2)
    return odd[..., 0] - pull * (odd[..., 1] - odd[..., 0]), even[..., 0] - pull * (even[..., 1] - even[..., 0])


def edge_of(a: Floats | float, b: Floats | float, tolerance: float = TOLERANCE) -> Floats:
    """The least c > 0 with |a·c + b·c²| = tolerance; infinite where a and b are both 0."""
    a, b = np.broadcast_arrays(np.asarray(a, dtype=float), np.asarray(b, dtype=float))
    roots = []
    for side in (tolerance, -tolerance):
        square = a**2 + 4 * b * side
        root = np.sqrt(np.maximum(square, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            # 2·side/(a ± root): the form that does not cancel where b is small
            both = np.stack([2 * side / (a + root), 2 * side / (a - root)])
        roots.append(np.where((square >= 0) & np.isfinite(both) & (both > 0), both, np.inf).min(0))
    return np.minimum(*roots)


def passage(sizes: Floats, ratios: Floats, tolerance: float = TOLERANCE) -> Floats:
    """The first size at which ratios (…, sizes) leave 1 ± tolerance, by lines over log size; infinite where they never do."""
    ratios, log = np.atleast_2d(ratios), np.log(sizes)
    out = np.abs(ratios - 1) >= tolerance
    first = np.where(out.any(-1), out.argmax(-1), len(sizes))
    left = np.full(len(ratios), np.inf)
    for row, at in enumerate(first):
        if at == 0:
            left[row] = sizes[0]
        elif at < len(sizes):
            before, after = ratios[row, at - 1], ratios[row, at]
            share = (1 + math.copysign(tolerance, after - 1) - before) / (after - before)
            left[row] = math.exp(log[at - 1] + share * (log[at] - log[at - 1]))
    return left


@dataclass(frozen=True)
class Expansion:
    """a, b and the edge with its cost, as small doses predict them. `without` has the edge without each topic."""

    a: Reading
    b: Reading
    edge: Reading
    nats: Reading
    without: Floats

    @classmethod
    def not_measured(cls, reason: str, n: int) -> Expansion:
        a, b, edge, nats = (
            Reading.not_measured(reason, unit=unit, method="pushes of two small sizes", n=n) for unit in (_A, _B, LENGTHS, NATS)
        )
        return cls(a, b, edge, nats, np.empty(0))


def foretell(small: Costs, method: str) -> Expansion:
    """a, b and the edge from the costs of pushes of two small sizes, one twice the other or so.

    Raises:
        InputError: other than two sizes, or fewer than 4 topics.
    """
    if len(small.sizes) != 2 or small.sizes[0] == small.sizes[1]:
        raise InputError(f"small doses: got sizes {small.sizes.tolist()}, wanted two that differ")
    small = small.at(np.argsort(small.sizes))
    one_out = _one_out(small.topics)
    how = f"{method}; interval by topic, jackknife and t"
    a, b = (float(figure) for figure in expand(small.sizes, *small.ratios()))
    some_a, some_b = expand(small.sizes, *small.ratios(one_out))
    at, ends = float(edge_of(a, b)), edge_of(some_a, some_b)
    n = len(small.chi)
    chi, some_chi = float(small.chi.mean()), _means(small.chi, small.topics, one_out)

    def nats(c: Floats | float, a: Floats | float, b: Floats | float, chi: Floats | float) -> Floats:
        return np.asarray(0.5 * np.square(c) * chi * (1 + a * np.asarray(c) + b * np.square(c)))

    cost, costs = float(nats(at, a, b, chi)), nats(ends, some_a, some_b, some_chi)
    return Expansion(
        _reading(a, some_a, n, _A, f"odd part of the ratio, {how}"),
        _reading(b, some_b, n, _B, f"even part of the ratio, {how}"),
        _positive(at, ends, n, LENGTHS, f"least c with |ac + bc²| = {TOLERANCE}, {how}"),
        _positive(cost, costs, n, NATS, f"cost at the predicted edge, {how}"),
        ends,
    )


def measure_edge(costs: Costs, method: str) -> tuple[Reading, Floats]:
    """The size at which the measured ratio leaves 1 ± 0.2, and the same without each topic.

    What never leaves once a topic is out counts as leaving at the largest size; where the prompts themselves never do, the edge
    is not measured.
    """
    costs = costs.at(np.argsort(costs.sizes))
    at = float(passage(costs.sizes, costs.ratios()[0])[0])
    without = np.minimum(passage(costs.sizes, costs.ratios(_one_out(costs.topics))[0]), costs.sizes[-1])
    how = f"first size at which the measured ratio leaves 1 ± {TOLERANCE}, {method}; interval by topic, jackknife and t"
    if not math.isfinite(at):
        reason = f"the ratio stays within 1 ± {TOLERANCE} up to the largest size tried, {costs.sizes[-1]:.3g}"
        return Reading.not_measured(reason, unit=LENGTHS, method=how, n=len(costs.chi)), without
    return _positive(at, without, len(costs.chi), LENGTHS, how), without


def judge_edge(where: str, predicted: Expansion, unseen: Costs) -> LawResult:
    """The predicted edge against the measured one of prompts that had no part in the prediction.

    Its negative control is the prediction of a direction twice as long, which has its edge at half the lengths: it must come out
    violated, or these prompts could not have told a wrong edge from a right one.
    """
    measured, without = measure_edge(unseen, "on prompts that had no part in the prediction")
    unit, how = "measured / predicted", "edge on unseen prompts over edge from small doses; interval from both sets of topics"
    if measured.value is None or predicted.edge.value is None:
        reason = measured.reason or predicted.edge.reason
        ratio = doubled = Reading.not_measured(reason, unit=unit, method=how)
    else:
        reason, value = "", measured.value / predicted.edge.value
        parts = [np.log(without), np.log(predicted.without)]
        ratio, doubled = (_scaled(times * value, parts, measured.n, unit, how) for times in (1, 2))
    control = Control("the same edge predicted for a direction twice as long", "violated", judge(doubled, EDGE_LAW), doubled)
    return LawResult(EDGE_LAW, where, predicted.edge, measured, ratio, judge(ratio, EDGE_LAW), control, reason)


def mean_reading(values: Floats, topics: Ints, unit: str, method: str) -> Reading:
    """The mean over rows of values that are never negative, its interval clustered by topic (t with topics − 1 degrees)."""
    mean, reach = float(values.mean()), half_width(values, topics)
    return Reading(mean, max(0.0, mean - reach), mean + reach, LEVEL, len(values), unit, None, method)


def _one_out(topics: Ints) -> Floats:
    """(topics, topics) weights: all topics but one, each in turn."""
    count = len(np.unique(topics))
    if count < FEWEST:
        raise InputError(f"topics: got {count}, wanted at least {FEWEST}, for an interval over topics; use more prompts")
    return 1 - np.eye(count)


def _means(values: Floats, topics: Ints, weights: Floats) -> Floats:
    _, topic = np.unique(topics, return_inverse=True)
    return weights @ np.bincount(topic, values) / (weights @ np.bincount(topic))


def _reach(*without: Floats) -> float:
    """Half the width of the interval of a sum whose independent parts were taken without each topic of theirs.

    The variance is that of the jackknife; the degrees of freedom are what the kurtosis of the topics' influence leaves each
    part, at most its topics − 1, together by Satterthwaite.
    """
    variance = doubt = 0.0
    for part in without:
        own, influence = float(jackknife_variance(part)), torch.as_tensor(part.mean() - part)
        variance += own
        doubt += own**2 / min(float(freedom(influence)), len(part) - 1)
    degrees = variance**2 / doubt if doubt > 0 else 1.0
    return float(student.ppf(0.5 + LEVEL / 2, max(degrees, 1.0))) * math.sqrt(variance)


def _reading(value: float, without: Floats, n: int, unit: str, method: str) -> Reading:
    """A figure from its values without each topic."""
    if not (math.isfinite(value) and np.isfinite(without).all()):
        return Reading.not_measured("the ratio has no slope at small doses", unit=unit, method=method, n=n)
    reach = _reach(without)
    return Reading(value, value - reach, value + reach, LEVEL, n, unit, None, method)


def _positive(value: float, without: Floats, n: int, unit: str, method: str) -> Reading:
    """The same of a figure above 0, by its logarithm."""
    if not (math.isfinite(value) and np.isfinite(without).all() and value > 0 and (without > 0).all()):
        return Reading.not_measured("the ratio has no slope at small doses", unit=unit, method=method, n=n)
    return _scaled(value, [np.log(without)], n, unit, method)


def _scaled(value: float, logs: Sequence[Floats], n: int, unit: str, method: str) -> Reading:
    times = math.exp(min(_reach(*logs), 700.0))
    return Reading(value, value / times, value * times, LEVEL, n, unit, None, method)
