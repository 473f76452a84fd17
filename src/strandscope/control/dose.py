"""The dose of an edit in nats: the scale at which it costs a given mean KL per next token on neutral prompts.

The cost of a scale c is the mean over prompts of KL(p₀ ‖ p_c), p₀ the plain network's distribution of the token after the
prompt and p_c the one under the edit, applied in exactly the scope in which it will be used. For small c it grows as c² (½c²χ,
with the susceptibility χ), so the search takes secant steps on logarithms, inside a bracket that it halves when a step would
leave it. It begins on a few of many prompts, and ends on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from ..capture.examples import Examples, neutral_prompts
from ..capture.predict import next_token_logprobs
from ..capture.tokens import TokenRows, tokenise
from ..errors import InputError, TrustError
from ..provenance import digest, numpy_generator
from ..reading import Reading
from ..subject.attach import Scope
from ..subject.site import Site
from .edit import Add

if TYPE_CHECKING:
    from ..subject.subject import Subject

NATS = "nats per next token"
HUNDREDTH = 0.01  # of the dose: without rounding it costs about a ten-thousandth
TOO_ROUGH = 0.25  # share of the wanted cost that rounding may make up
SMALL = 0.01  # nats below which a larger scale is looked at too
SQUARE = 0.05  # nats up to which a cost grows as the square of the scale, near enough to tell it from rounding
CLOSE = 0.02  # relative distance of the measured cost from the wanted one at which the search ends
MOST = 24  # evaluations before the search gives up
FEW = 48  # prompts on which a search over many more begins
_LEVEL = 0.95

Applied = Literal["all", "last"]


@dataclass(frozen=True, slots=True)
class Dose:
    """How far to push for a given cost.

    `scale` counts lengths of the direction (for a strand: distances between its classes); its interval is that of the scale
    whose mean cost over all such prompts is `target`. `cost` is the mean KL measured at `scale`, `rounding` that at a hundredth
    of it: what adding anything costs in the network's dtype. Intervals are clustered by the prompts' topics.
    """

    site: str
    positions: str
    network: str  # fingerprint and dtype of the network
    push: str  # digest of the direction, its sign included
    target: float
    scale: Reading
    cost: Reading
    rounding: Reading
    prompts: int


@dataclass(frozen=True)
class Bench:
    """Neutral prompts made ready to measure costs on, and what the plain network says after each."""

    subject: Subject
    prompts: Examples
    tokens: TokenRows
    plain: Tensor  # log-probabilities (prompts, vocabulary)

    @classmethod
    def of(cls, subject: Subject, prompts: int = 300, seed: int = 0, chat: bool | None = None) -> Bench:
        """So many of the project's neutral prompts, drawn by `seed` and spread over all topics.

        Args:
            chat: whether they are asked as chats, or stand as plain texts; None is a chat where the network has a template.

        Raises:
            InputError: fewer than 2 prompts, or a network that predicts no next token or takes no such rows.
        """
        if subject.tokenizer is None:
            raise InputError(
                f"{subject.name} takes no text, and doses are measured on neutral prompts; "
                "push by a scale of your own, with attach and an Add"
            )
        if prompts < 2:
            raise InputError(f"prompts: got {prompts}, wanted at least 2, for a mean with an interval")
        chosen = neutral_prompts(subject.chats if chat is None else chat)
        if prompts < len(chosen):
            chosen = chosen.subset(_spread(chosen.groups, prompts, numpy_generator(seed, "dose prompts")))
        tokens = tokenise(subject, chosen)
        return cls(subject, chosen, tokens, next_token_logprobs(subject, tokens))

    def some(self, count: int) -> Bench:
        """The same bench with `count` of its prompts, from all topics; itself where it holds not twice as many."""
        if len(self.prompts) < 2 * count:
            return self
        rows = _spread(self.topics, count, numpy_generator(0, "some of the prompts"))
        return Bench(
            self.subject, self.prompts.subset(rows), self.tokens.subset(rows.tolist()), self.plain[torch.as_tensor(rows)]
        )

    @property
    def topics(self) -> NDArray[np.int64]:
        return self.prompts.groups

    def costs(self, site: Site, edit: Add, positions: Applied) -> NDArray[np.float64]:
        """KL(p₀ ‖ p_c) of each prompt, in nats."""
        edited = next_token_logprobs(self.subject, self.tokens, {site: [(edit, Scope(positions=positions))]})
        plain = self.plain.double()
        divergence = (plain.exp() * (plain - edited.double())).sum(-1)
        if not bool(torch.isfinite(divergence).all()):
            raise TrustError(
                f"the edit at {site} with scale {edit.scale:g} made the network's output NaN or infinite; ask for fewer nats"
            )
        return divergence.clamp_min(0).numpy()


def _spread(topics: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`count` rows at random, from every topic as alike in number as can be, in the order in which they stand."""
    order = generator.permutation(len(topics))
    turn = np.empty(len(topics), dtype=np.int64)  # a row's turn within its topic
    for topic in np.unique(topics):
        rows = order[topics[order] == topic]
        turn[rows] = np.arange(len(rows))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:count])


def find_dose(
    bench: Bench,
    site: str | Site,
    direction: Tensor,
    nats: float,
    *,
    positions: Applied = "all",
    start: float = 1.0,
    report: Callable[[], None] | None = None,
) -> Dose:
    """The scale at which adding scale · direction (d,) at a site costs `nats` per next token on the bench's prompts.

    Args:
        start: the first scale tried; the answer does not depend on it beyond the search's tolerance of 2 %.
        report: called after each measurement of a cost.

    Raises:
        InputError: `nats` is not above 0, the direction is no direction, or no scale costs so much.
        TrustError: rounding makes up over a quarter of so small a cost.
    """
    check_wanted(nats, positions)
    check_direction(direction)
    where = Site.parse(site)

    def costs_of(some: Bench, scale: float) -> NDArray[np.float64]:
        costs = some.costs(where, Add(direction, scale), positions)
        if report:
            report()
        return costs

    few, slope = bench.some(FEW), 2.0
    if few is not bench:
        start, _, tried = _search(few, where, nats, start, costs_of)
        slope = _slope(tried, start)
    scale, costs, tried = _search(bench, where, nats, start, costs_of)
    slope = _slope(tried, scale) if len(tried) > 1 else slope
    floor = costs_of(bench, HUNDREDTH * scale)
    _refuse_rounding(bench, where, nats, float(floor.mean()))
    if nats < SMALL:
        times = math.sqrt(SQUARE / nats)
        more = float(costs_of(bench, times * scale).mean())
        _refuse_rounding(bench, where, nats, (times**2 * float(costs.mean()) - more) / (times**2 - 1))
    return _dose(bench, where, positions, direction, nats, scale, costs, floor, slope)


def _search(
    bench: Bench, site: Site, nats: float, start: float, costs_of: Callable[[Bench, float], NDArray[np.float64]]
) -> tuple[float, NDArray[np.float64], dict[float, float]]:
    """The scale whose mean cost is `nats`, the costs there, and the mean cost of every scale tried."""
    tried: dict[float, float] = {}
    low, high, scale = 0.0, math.inf, start
    for _ in range(MOST):
        costs = costs_of(bench, scale)
        tried[scale] = cost = float(costs.mean())
        if abs(cost / nats - 1) <= CLOSE:
            return scale, costs, tried
        low, high = (max(low, scale), high) if cost < nats else (low, min(high, scale))
        scale = _next(scale, cost / nats, _slope(tried, scale), low, high)
    raise _not_found(bench, site, nats, tried)


def check_wanted(nats: float, positions: str) -> None:
    if not (math.isfinite(nats) and nats > 0):
        raise InputError(f"nats: got {nats}, wanted a cost above 0, such as 0.02")
    if positions not in get_args(Applied):
        raise InputError(f"positions: got {positions!r}, wanted 'all' or 'last'")


def check_direction(direction: Tensor) -> None:
    if direction.ndim != 1 or not bool(torch.isfinite(direction).all()) or not bool(direction.any()):
        what = f"shape {tuple(direction.shape)}" if direction.ndim != 1 else "zeros, NaN or infinities"
        raise InputError(f"direction: got {what}, wanted one finite vector (d,) that is not zero")


def _refuse_rounding(bench: Bench, site: Site, nats: float, rounding: float) -> None:
    """`rounding` is measured in two ways: at a hundredth of the scale, where next to nothing else is left; and, because a
    hundredth of a small push may round to none at all, as the r of cost(c) = ac² + r through the scale and a larger one."""
    if rounding > TOO_ROUGH * nats:
        rough = _dtype(bench)
        raise TrustError(
            f"nats: got {nats:g}, but at {site} rounding in {rough} alone costs {rounding:.2g} nats; {_finer(rough)}"
        )


def _not_found(bench: Bench, site: Site, nats: float, tried: dict[float, float]) -> InputError | TrustError:
    below, above = ([cost for cost in tried.values() if (cost > nats) == more] for more in (False, True))
    if not above:
        return InputError(
            f"nats: got {nats:g}, but pushing at {site} reached {max(below):.3g} nats in {MOST} tries; ask for fewer"
        )
    rough = _dtype(bench)
    jump = f"the cost at {site} jumps from {max(below, default=0.0):.2g} to {min(above):.2g} nats"
    return TrustError(f"nats: got {nats:g}, but by rounding in {rough} {jump}; {_finer(rough)}")


def _dtype(bench: Bench) -> str:
    return str(bench.subject.dtype).removeprefix("torch.")


def _finer(dtype: str) -> str:
    return "ask for more" + ("" if dtype in ("float32", "float64") else ", or load the network in float32 (dtype=, --dtype)")


def _next(scale: float, excess: float, slope: float, low: float, high: float) -> float:
    """A step to where the cost, now `excess` times too high, would be right; at most 8-fold, and inside the bracket."""
    step = scale * min(8.0, max(1 / 8, max(excess, 1e-12) ** (-1 / slope)))
    if low < step < high:
        return step
    return (low * high) ** 0.5 if low > 0 and math.isfinite(high) else high / 2 if math.isfinite(high) else low * 2


def _slope(tried: dict[float, float], scale: float) -> float:
    """d log cost / d log scale near the scale found, from the nearest other scale tried; 2 if it was the only one."""
    others = [s for s in tried if s != scale and tried[s] > 0]
    if not others or tried[scale] <= 0:
        return 2.0
    nearest = min(others, key=lambda s: abs(math.log(s / scale)))
    return min(4.0, max(0.5, math.log(tried[scale] / tried[nearest]) / math.log(scale / nearest)))


def _dose(
    bench: Bench,
    site: Site,
    positions: Applied,
    direction: Tensor,
    nats: float,
    scale: float,
    costs: NDArray[np.float64],
    floor: NDArray[np.float64],
    slope: float,
) -> Dose:
    asked = "asked as chats" if bench.prompts.kind == "chat" else "as plain texts"
    what = f"mean KL(plain ‖ edited) of the token after each of {len(costs)} neutral prompts {asked}"
    method = f"{what}, edit at {positions} positions; interval by topic"
    cost = _mean(costs, bench.topics, method)
    rounding = _mean(floor, bench.topics, f"{method}; at a hundredth of the scale, where next to all of it is rounding")
    spread = math.exp(_reach(costs, bench.topics) / float(costs.mean()) / slope)
    far = Reading(
        scale, scale / spread, scale * spread, _LEVEL, len(costs), "lengths of the direction", None, f"search on {method}"
    )
    return Dose(
        str(site), positions, network_of(bench.subject), direction_digest(direction), nats, far, cost, rounding, len(costs)
    )


def network_of(subject: Subject) -> str:
    return f"{subject.fingerprint} {subject.dtype}"


def direction_digest(direction: Tensor) -> str:
    return digest(direction.detach().float().cpu().contiguous().numpy().tobytes())


def _mean(costs: NDArray[np.float64], topics: NDArray[np.int64], method: str) -> Reading:
    mean, reach = float(costs.mean()), _reach(costs, topics)
    return Reading(mean, max(0.0, mean - reach), mean + reach, _LEVEL, len(costs), NATS, None, method)


def _reach(costs: NDArray[np.float64], topics: NDArray[np.int64]) -> float:
    """Half-width of the mean's interval, clustered by topic (t with topics − 1 degrees of freedom)."""
    _, topic = np.unique(topics, return_inverse=True)
    count = int(topic.max()) + 1
    sums = np.bincount(topic, costs - costs.mean(), count)
    error = math.sqrt(count / (count - 1) * float(sums @ sums)) / len(costs)
    return float(student.ppf(0.5 + _LEVEL / 2, count - 1)) * error
