"""The price of a push in one network: χ by one derivative, the measured cost over five decades of size, and the edge of the law.

`price` predicts the edge (the size at which measured/predicted mean KL leaves 1 ± 0.2) from small doses on half of the prompts'
topics and tests it on the other half, toward the direction and away from it. The split is fixed.

Rounding sets a floor under every measured cost. It is read off the curve: the most by which a cost exceeds its prediction where
it is at least twice that. Small doses of which it could be more than 2 % say nothing of a and b, which are then not measured: in
bfloat16 that is the rule (SmolLM2: the floor is .002 nats, the smaller dose .0025). χ itself needs no doses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..laws.law import Control, LawResult
from ..laws.price import (
    CHI,
    EDGE_LAW,
    NATS,
    Costs,
    Expansion,
    foretell,
    judge_edge,
    mean_reading,
    measure_edge,
)
from ..progress import Progress
from ..provenance import numpy_generator
from ..reading import Reading
from ..subject.site import Site
from .bench import Applied, Bench, check_positions
from .edit import Add, check_direction, direction_digest

Floats = NDArray[np.float64]

DECADES = np.arange(-4.5, -1.5, 0.5)  # log10 of sizes, in units of the size at which a cost of 1 nat is predicted
FINE = np.arange(-1.5, 0.76, 0.25)  # where edges are
SMALL = (0.05, 0.1)  # the two sizes for a and b, in the same unit: .0025 and .01 nats are predicted
CLEAR = 0.02  # share of the smaller of these costs that rounding may make up


@dataclass(frozen=True, slots=True)
class Point:
    """One size of the curve: predicted mean cost (½c²χ), measured ones toward and away, and whether rounding hides them."""

    size: float
    predicted: float
    toward: Reading
    away: Reading
    rounded: bool


@dataclass(frozen=True)
class Price:
    """What pushes along one direction at one site cost.

    `chi` is the mean over all prompts; `a` and `b` are those of the half of the topics from which `toward` and `away` (tests of
    the edge on the other half, along the direction and against it) predict. `nats` is the cost at the predicted edge toward.
    """

    site: str
    positions: str
    network: str
    push: str
    chi: Reading
    a: Reading
    b: Reading
    edge: Reading
    nats: Reading
    toward: LawResult
    away: LawResult
    rounding: float
    curve: tuple[Point, ...]
    prompts: int

    def __str__(self) -> str:
        head = f"{self.site}, {self.positions} positions: χ {self.chi}"
        return f"{head}; a {self.a}, b {self.b}; edge {self.edge} ({self.nats}); on unseen prompts {self.toward.verdict}"


def price(
    bench: Bench, site: str | Site, direction: Tensor, positions: Applied = "last", *, progress: Progress | None = None
) -> Price:
    """χ, a, b, the measured curve and the edge of pushes size · direction (d,) at a site; takes some forty passes over prompts.

    Raises:
        InputError: the direction is no direction, the site does not exist, or there are fewer than 4 topics in a half.
    """
    check_positions(positions)
    check_direction(direction)
    where = Site.parse(site)
    chi = bench.susceptibility(where, direction, positions)
    unit = float(np.sqrt(2 / chi.mean()))
    sizes = unit * np.unique(np.concatenate([10.0**DECADES, 10.0**FINE, SMALL]).round(12))
    signed = np.concatenate([sizes, -sizes])
    found = bench.costs_of(where, [Add(direction, float(size)) for size in signed], positions, progress)
    costs = Costs(sizes, found[: len(sizes)], found[len(sizes) :], chi, bench.topics)
    floor = floor_of(costs)
    curve = tuple(_point(costs, number, floor) for number in range(len(sizes)))
    first = first_half(bench.topics)
    small = np.isin(sizes, unit * np.array(SMALL))
    cause = _hidden(bench, float(0.5 * sizes[small].min() ** 2 * chi.mean()), floor)
    where_told = f"{where}, {positions} positions, {bench.subject.name}"
    toward, told = _tested(costs, small, first, cause, f"toward, {where_told}", curve)
    away, _ = _tested(costs.opposite, small, first, cause, f"away, {where_told}", curve)
    how = f"one forward-mode derivative in {bench.dtype} after each of {len(chi)} neutral prompts; interval by topic"
    return Price(
        site=str(where),
        positions=positions,
        network=bench.network,
        push=direction_digest(direction),
        chi=mean_reading(chi, bench.topics, CHI, f"Var_p[∂_c log p] at {positions} positions, {how}"),
        a=told.a,
        b=told.b,
        edge=told.edge,
        nats=told.nats,
        toward=toward,
        away=away,
        rounding=floor,
        curve=curve,
        prompts=len(chi),
    )


def floor_of(costs: Costs) -> float:
    """What rounding adds, in nats: the most by which a mean cost exceeds its prediction where it is at least twice that."""
    predicted = 0.5 * costs.sizes**2 * costs.chi.mean()
    small = predicted < SMALL[0] ** 2  # beyond, a cost may be twice the prediction for reasons of its own
    measured = np.maximum(costs.up.mean(1), costs.down.mean(1))
    excess = np.where(small & (measured >= 2 * predicted), measured - predicted, 0.0)
    return float(excess.max(initial=0.0))


def first_half(topics: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows are in the half of the topics that predicts: the same for the same topics, in whatever order."""
    names = np.unique(topics)
    chosen = numpy_generator(0, "halves of the topics").permutation(names)[: (len(names) + 1) // 2]
    return np.isin(topics, chosen)


def _hidden(bench: Bench, least: float, floor: float) -> str:
    """Why the small doses say nothing; empty where they do."""
    if floor <= CLEAR * least:
        return ""
    return f"rounding in {bench.dtype} costs up to {floor:.2g} nats, the smaller of the small doses {least:.2g}; use float32"


def _tested(
    costs: Costs, small: NDArray[np.bool_], first: NDArray[np.bool_], cause: str, where: str, curve: tuple[Point, ...]
) -> tuple[LawResult, Expansion]:
    """The edge as the first half's small doses predict it, against the other half's curve above the rounding."""
    clear = np.array([not point.rounded for point in curve])
    unseen = costs.of(~first).at(clear)
    if cause:
        measured, _ = measure_edge(unseen, "on half of the topics")
        none = Expansion.not_measured(cause, int(first.sum()))
        ratio = Reading.not_measured(cause, unit="measured / predicted", method="edge on unseen prompts")
        control = Control("the same edge predicted for a direction twice as long", "violated", "out of domain", ratio)
        return LawResult(EDGE_LAW, where, none.edge, measured, ratio, "out of domain", control, cause), none
    told = foretell(costs.of(first).at(small), f"pushes of ± two small sizes on {int(first.sum())} prompts")
    return judge_edge(where, told, unseen), told


def _point(costs: Costs, number: int, floor: float) -> Point:
    size = float(costs.sizes[number])
    predicted = float(0.5 * size**2 * costs.chi.mean())
    how = f"mean KL over {len(costs.chi)} prompts; interval by topic"
    toward, away = (mean_reading(side[number], costs.topics, NATS, how) for side in (costs.up, costs.down))
    return Point(size, predicted, toward, away, floor > CLEAR * predicted)
