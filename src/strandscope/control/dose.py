"""The dose of an edit in nats: the scale at which it costs a given mean KL per next token on neutral prompts.

The cost of a scale c is the mean over prompts of KL(p₀ ‖ p_c), p₀ the plain network's distribution of the token after the
prompt and p_c the one under the edit, applied in exactly the scope in which it will be used.

The scale is predicted before anything is pushed: ½c²χ(1 + ac + bc²) = nats, with the susceptibility χ of all prompts from one
forward-mode derivative, and a, b from a `Price` where one is given. A few of many prompts correct it, each measured against its
own prediction. Then all prompts are measured once, and a dose that lands is "predicted and confirmed". Where it does not, secant
steps on logarithms follow, inside a bracket that they halve when a step would leave it. Beyond the edge, where the
measured cost is not within a fifth of the predicted one, prediction has no standing: such a dose was solved numerically, and says
so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, TrustError
from ..laws.price import LENGTHS, LEVEL, NATS, TOLERANCE, half_width, mean_reading
from ..reading import Reading
from ..subject.attach import Scope
from ..subject.site import Site
from .bench import Applied, Bench, check_positions, finer
from .push import Push

if TYPE_CHECKING:
    from .price import Price

HUNDREDTH = 0.01  # of the dose: without rounding it costs about a ten-thousandth
TOO_ROUGH = 0.25  # share of the wanted cost that rounding may make up
SMALL = 0.01  # nats up to which a cost that is not the predicted one is taken for rounding: the square law holds there
CLOSE = 0.02  # relative distance of the measured cost from the wanted one at which the search ends
MOST = 24  # evaluations before the search gives up
APART = 0.05  # of log scales: nearer ones tell more of rounding than of the slope (in bfloat16 a cost jitters by some per cent)
FEW = 48  # prompts on which a scale is corrected before many more are measured

Floats = NDArray[np.float64]
How = Literal["predicted and confirmed", "predicted, then corrected", "solved numerically: beyond the edge"]
BEYOND: How = "solved numerically: beyond the edge"


@dataclass(frozen=True, slots=True)
class Dose:
    """How far to push for a given cost.

    `scale` counts lengths of the direction (for a strand: distances between its classes); its interval is that of the scale
    whose mean cost over all such prompts is `target`. `cost` is the mean KL measured at `scale`, `rounding` that at a hundredth
    of it: what adding anything costs in the network's dtype. Intervals are clustered by the prompts' topics.

    `predicted` is the mean cost at `scale` as foretold (½c²χ, times 1 + ac + bc² where a and b were known); `edge` the scale up
    to which that holds within a fifth, where it was known; `how` says which of the two settled the scale.
    """

    site: str  # several with commas between them
    positions: str
    network: str  # fingerprint and dtype of the network
    push: str  # digest of the direction, its sign included
    target: float
    scale: Reading
    cost: Reading
    rounding: Reading
    prompts: int
    predicted: Reading
    edge: Reading
    how: How

    @property
    def beyond(self) -> bool:
        """Whether it lies beyond the edge, where the measured cost is not within a fifth of the predicted one."""
        return self.how == BEYOND

    def require_within(self, what: str, within_the_law: bool) -> None:
        """Refuse a dose beyond the edge where that is asked for.

        Raises:
            InputError: it is, and lies there.
        """
        if within_the_law and self.beyond:
            raise InputError(
                f"{what}: the dose lies beyond the edge of its prediction; ask for fewer nats, or leave out within_the_law "
                "(--within-the-law)"
            )


def find_dose(
    bench: Bench,
    site: str | Site,
    direction: Tensor,
    nats: float,
    *,
    positions: Applied = "all",
    price: Price | None = None,
    report: Callable[[], None] | None = None,
) -> Dose:
    """The scale at which adding scale · direction (d,) at a site costs `nats` per next token on the bench's prompts.

    Args:
        price: of this very push, measured before; its a, b and edge sharpen the prediction.
        report: called after each pass over prompts.

    Raises:
        InputError: `nats` is not above 0, the direction is no direction, no scale costs so much, or the price is another push's.
        TrustError: rounding makes up over a quarter of so small a cost.
    """
    check_positions(positions)
    return dose_of(bench, Push({Site.parse(site): direction}, Scope(positions=positions)), nats, price=price, report=report)


def dose_of(
    bench: Bench, push: Push, nats: float, *, price: Price | None = None, report: Callable[[], None] | None = None
) -> Dose:
    """The size at which a push, at one site or several and in its own scope, costs `nats` on the bench's prompts.

    Args and Raises as `find_dose`. A bench of replies (`ReplyBench`) measures nats per token of a reply.
    """
    check_nats(nats)
    return _Search(bench, push, nats, price, report or (lambda: None)).run()


@dataclass(slots=True)
class _Search:
    bench: Bench
    push: Push
    nats: float
    price: Price | None
    report: Callable[[], None]

    def run(self) -> Dose:
        a, b, edge = self._known()
        chi = self.bench.susceptibility_of(self.push)
        self.report()
        scale = solve(self.nats, float(chi.mean()), a, b)
        few = self.bench.some(FEW)
        slope = 2.0
        if few is not self.bench:
            own = chi[self.bench.rows_of(few)]
            wanted = self.nats * float(own.mean() / chi.mean()) if chi.any() else self.nats  # what these few should cost
            scale, _, tried = self._to(few, wanted, scale, TOLERANCE / 2)
            slope = _slope(tried, scale)
            scale *= (wanted / tried[scale]) ** (1 / slope)
        scale, costs, tried = self._to(self.bench, self.nats, scale, CLOSE)
        slope = _slope(tried, scale) if len(tried) > 1 else slope
        floor = self._costs(few, HUNDREDTH * scale)
        self._refuse_rounding(float(floor.mean()))
        foretold = 0.5 * scale**2 * chi * (1 + a * scale + b * scale**2)
        return self._dose(scale, slope, costs, floor, few, foretold, edge, len(tried))

    def _known(self) -> tuple[float, float, Reading]:
        price = self.price
        if price is None:
            reason = "no price of this push was given; control.price measures it"
            return 0.0, 0.0, Reading.not_measured(reason, unit=LENGTHS, method="pushes of two small sizes")
        same = (self.push.site, self.push.positions, self.bench.network, self.push.digest)
        if (price.site, price.positions, price.network, price.push) != same:
            raise InputError(
                "price: was measured for another push (direction, site, positions or network); leave it out or measure it again"
            )
        return price.a.value or 0.0, price.b.value or 0.0, price.edge

    def _costs(self, some: Bench, scale: float) -> Floats:
        costs = some.costs_under(self.push.edits(scale))
        self.report()
        return costs

    def _to(self, bench: Bench, nats: float, start: float, close: float) -> tuple[float, Floats, dict[float, float]]:
        """A scale whose mean cost is within `close` of `nats`, the costs there, and the mean cost of every scale tried."""
        tried: dict[float, float] = {}
        low, high, scale = 0.0, math.inf, start
        for _ in range(MOST):
            costs = self._costs(bench, scale)
            tried[scale] = cost = float(costs.mean())
            if nats < SMALL and len(tried) == 1:
                self._refuse_rounding(abs(cost - nats))
            if abs(cost / nats - 1) <= close:
                return scale, costs, tried
            low, high = (max(low, scale), high) if cost < nats else (low, min(high, scale))
            scale = _next(scale, cost / nats, _slope(tried, scale), low, high)
        raise self._not_found(tried)

    def _refuse_rounding(self, rounding: float) -> None:
        """`rounding` is told in two ways: by the cost of a hundredth of the push, where next to nothing else is left; and, for a
        hundredth of a small push may round to none at all, by how far a small push's cost is from the predicted one."""
        if rounding > TOO_ROUGH * self.nats:
            rough = self.bench.dtype
            raise TrustError(
                f"nats: got {self.nats:g}, but at {self.push.site} rounding in {rough} alone costs {rounding:.2g} nats; "
                f"ask for more{finer(rough)}"
            )

    def _not_found(self, tried: dict[float, float]) -> InputError | TrustError:
        nats, site = self.nats, self.push.site
        below, above = ([cost for cost in tried.values() if (cost > nats) == more] for more in (False, True))
        if not above:
            return InputError(
                f"nats: got {nats:g}, but pushing at {site} reached {max(below):.3g} nats in {MOST} tries; ask for fewer"
            )
        rough = self.bench.dtype
        jump = f"the cost at {site} jumps from {max(below, default=0.0):.2g} to {min(above):.2g} nats"
        return TrustError(f"nats: got {nats:g}, but by rounding in {rough} {jump}; ask for more{finer(rough)}")

    def _dose(
        self,
        scale: float,
        slope: float,
        costs: Floats,
        floor: Floats,
        few: Bench,
        foretold: Floats,
        edge: Reading,
        measured: int,
    ) -> Dose:
        topics = self.bench.topics
        where = f"edit at {self.push.positions} positions; interval by topic"
        method = f"{self.bench.told}, {where}"
        small = f"{few.told}, {where}; at a hundredth of the scale"
        cost = mean_reading(costs, topics, NATS, method)
        spread = math.exp(half_width(costs, topics) / float(costs.mean()) / slope)
        how = "predicted from one forward-mode derivative" if measured == 1 else "search from a prediction"
        far = Reading(scale, scale / spread, scale * spread, LEVEL, len(costs), LENGTHS, None, f"{how}, {method}")
        formula = "½c²χ" if self.price is None else "½c²χ(1 + ac + bc²)"
        return Dose(
            self.push.site,
            self.push.positions,
            self.bench.network,
            self.push.digest,
            self.nats,
            far,
            cost,
            mean_reading(floor, few.topics, NATS, f"{small}, where next to all of it is rounding"),
            len(costs),
            mean_reading(foretold, topics, NATS, f"{formula} at the scale, {where}"),
            edge,
            _how(float(costs.mean()), float(foretold.mean()), measured),
        )


def _how(cost: float, foretold: float, measured: int) -> How:
    if not abs(cost - foretold) < TOLERANCE * foretold:
        return BEYOND
    return "predicted and confirmed" if measured == 1 else "predicted, then corrected"


def solve(nats: float, chi: float, a: float = 0.0, b: float = 0.0) -> float:
    """The scale c with ½c²χ(1 + ac + bc²) = nats, on the branch that starts at 0, the factor kept within 0.5 to 1.5.

    Where χ is 0, nothing is predicted and a search starts at 1.
    """
    if chi <= 0:
        return 1.0
    scale = math.sqrt(2 * nats / chi)
    for _ in range(60):  # a fixed point: the factor changes slowly where the law holds
        factor = min(1.5, max(0.5, 1 + a * scale + b * scale**2))
        scale = (scale * math.sqrt(2 * nats / (chi * factor))) ** 0.5
    return scale


def check_wanted(nats: float, positions: str) -> None:
    check_nats(nats)
    check_positions(positions)


def check_nats(nats: float) -> None:
    if not (math.isfinite(nats) and nats > 0):
        raise InputError(f"nats: got {nats}, wanted a cost above 0, such as 0.02")


def _next(scale: float, excess: float, slope: float, low: float, high: float) -> float:
    """A step to where the cost, now `excess` times too high, would be right; at most 8-fold, and inside the bracket."""
    step = scale * min(8.0, max(1 / 8, max(excess, 1e-12) ** (-1 / slope)))
    if low < step < high:
        return step
    return (low * high) ** 0.5 if low > 0 and math.isfinite(high) else high / 2 if math.isfinite(high) else low * 2


def _slope(tried: dict[float, float], scale: float) -> float:
    """d log cost / d log scale near the scale found, from the nearest other scale tried; 2 if none lies far enough for rounding
    not to be what differs."""
    others = [s for s in tried if abs(math.log(s / scale)) > APART and tried[s] > 0]
    if not others or tried[scale] <= 0:
        return 2.0
    nearest = min(others, key=lambda s: abs(math.log(s / scale)))
    return min(4.0, max(0.5, math.log(tried[scale] / tried[nearest]) / math.log(scale / nearest)))
