"""Standards of laws and comparisons: the price of a push, an equivalence test at its edge, differences to twins, means by topic.

For a linear softmax model with logits ℓ + c·s, KL(p₀ ‖ p_c) = log E e^{cs} − c E s = Σ_{k≥2} κ_k c^k/k!, κ the cumulants of s
under p₀: so χ = κ₂, and the ratio to ½c²χ is 1 + (κ₃/3κ₂)c + (κ₄/12κ₂)c² + …
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..laws import law, price
from ..laws.price import Costs, divergence, edge_of, expand, foretell, mean_reading, susceptibility
from ..provenance import numpy_generator
from ..reading import Reading
from ..statistics import paired
from ..statistics.paired import Deleted, log_ratio, median
from .mutation import Mutation
from .standard import Bands, Draw, Outcome, case

Floats = NDArray[np.float64]
WORDS, TOPICS = 30, 32
SIZES = np.array([0.1, 0.2])


def cumulants(p: Floats, s: Floats) -> tuple[Floats, Floats, Floats]:
    """κ₂, κ₃, κ₄ of s under p, row by row."""
    centred = s - (p * s).sum(1, keepdims=True)
    second, third, fourth = ((p * centred**k).sum(1) for k in (2, 3, 4))
    return second, third, fourth - 3 * second**2


def _model(generator: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """p and s of a linear softmax model; slopes lean to one side, so that κ₃ is not 0."""
    logits = generator.normal(size=(rows, WORDS))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p, generator.gamma(4.0, 0.5, size=(rows, WORDS))


def _pushed(p: Floats, s: Floats, size: float) -> Floats:
    """KL by the closed form."""
    return np.log((p * np.exp(size * s)).sum(1)) - size * (p * s).sum(1)


@case(
    "susceptibility of a linear softmax",
    "laws.price.susceptibility",
    "χ = vᵀWᵀ(diag p − ppᵀ)Wv",
    Bands(error=1e-12),
    (3, 10, 100),
    Mutation("uncentred", susceptibility, "centred = slope - (share * slope).sum(-1, keepdim=True)", "centred = slope"),
    unit="relative",
)
def chi(draw: Draw) -> Outcome:
    """Slopes of logits W v known up to a constant, 30 words, 5 contexts."""
    p, s = _model(draw.numpy, 5)
    found = susceptibility(torch.as_tensor(p).log(), torch.as_tensor(s))
    return Outcome.farthest(found, [row @ (np.diag(q) - np.outer(q, q)) @ row for q, row in zip(p, s, strict=True)])


@case(
    "cost of a push, linear softmax",
    "laws.price.divergence",
    "log E e^{cs} − c E s",
    Bands(error=1e-10),
    (3, 10, 100),
    Mutation("swapped: pushed before plain", divergence, "plain.exp()", "edited.double().exp()"),
    unit="relative",
)
def cost(draw: Draw) -> Outcome:
    """KL from plain to pushed at size .7, 30 words, 5 contexts."""
    p, s = _model(draw.numpy, 5)
    plain = torch.as_tensor(p).log()
    found = divergence(plain, (plain + 0.7 * torch.as_tensor(s)).log_softmax(1))
    return Outcome.farthest(found, _pushed(p, s, 0.7))


@case(
    "edge of a linear softmax",
    "laws.price.expand",
    "a = κ₃/3κ₂, b = κ₄/12κ₂",
    Bands(error=1e-3),
    (3, 10, 100),
    Mutation("no extrapolation to size 0", expand, "pull = small**2 / (large**2 - small**2)", "pull = 0 * small"),
    Mutation("half the difference forgotten", expand, "(up - down) / 2 / sizes", "(up - down) / sizes"),
    unit="of the larger of a and b",
)
def expansion(draw: Draw) -> Outcome:
    """a and b of one context from its exact costs at sizes .05 and .1 over its spread."""
    p, s = _model(draw.numpy, 1)
    second, third, fourth = cumulants(p, s)
    sizes = np.array([0.05, 0.1]) / second[0] ** 0.5
    up, down = (np.array([_pushed(p, sign * s, c)[0] for c in sizes]) / (sizes**2 * second[0] / 2) for sign in (1, -1))
    a, b = expand(sizes, up, down)
    truth = np.array([third[0] / 3 / second[0] / second[0] ** 0.5, fourth[0] / 12 / second[0] / second[0]])
    return Outcome.farthest([float(a) / second[0] ** 0.5, float(b) / second[0]], truth)


@case(
    "least edge",
    "laws.price.edge_of",
    "least c > 0 with |ac + bc²| = .2",
    Bands(error=1e-9),
    (10, 30, 300),
    Mutation("one of two roots forgotten", edge_of, "2 * side / (a - root)])", "2 * side / (a + root)])"),
    source="numpy.roots of both sides",
    unit="relative",
)
def least(draw: Draw) -> Outcome:
    """20 pairs of a and b of either sign."""
    a, b = draw.numpy.normal(size=20), draw.numpy.normal(size=20)
    truth = []
    for one, two in zip(a, b, strict=True):
        roots = np.concatenate([np.roots([two, one, side]) for side in (0.2, -0.2)])
        truth.append(min(root.real for root in roots if abs(root.imag) < 1e-9 and root.real > 0))
    return Outcome(float(np.abs(edge_of(a, b) / np.array(truth) - 1).max()))


def _population() -> tuple[Floats, Floats, Floats, float]:
    """χ and costs of 400 contexts at ±SIZES, once for all, and the edge of all of them together."""
    p, s = _model(numpy_generator(0, "population of prompts"), 400)
    second, third, fourth = cumulants(p, s)
    up, down = (np.array([_pushed(p, sign * s, c) for c in SIZES]) for sign in (1, -1))
    roots = np.roots([fourth.mean() / 12 / second.mean(), third.mean() / 3 / second.mean(), -0.2])
    return second, up, down, float(min(root.real for root in roots if root.real > 0 and abs(root.imag) < 1e-12))


_CHI, _UP, _DOWN, _EDGE = _population()


@case(
    "predicted edge, many prompts",
    "laws.price.foretell",
    "edge of the population, from mean cumulants",
    Bands(coverage=0.95),
    (100, 200, 2000),
    Mutation("missing square root: a variance for an error", price._reach, "* math.sqrt(variance)", "* variance"),
    source="cumulants of 400 linear softmax contexts",
    unit="log",
)
def foretold(draw: Draw) -> Outcome:
    """32 topics of four prompts each, drawn from 400 contexts, none of which carries κ₃ or κ₄ for many others."""
    rows, topics = draw.numpy.integers(0, 400, 4 * TOPICS), np.repeat(np.arange(TOPICS), 4)
    found = foretell(Costs(SIZES, _UP[:, rows], _DOWN[:, rows], _CHI[rows], topics), "standard")
    return Outcome.of(found.edge, _EDGE, logarithm=True)


@case(
    "mean by topic",
    "laws.price.mean_reading",
    "E = 3",
    Bands(bias=0.0, coverage=0.95),
    (300, 600, 2000),
    Mutation(
        "topics forgotten",
        price.half_width,
        "_, topic = np.unique(topics, return_inverse=True)",
        "topic = np.arange(len(values))",
    ),
    source="planted",
)
def topical(draw: Draw) -> Outcome:
    """20 topics of 4 prompts that share a shift as large as their own noise."""
    topics = np.repeat(np.arange(20), 4)
    values = 3 + draw.numpy.normal(size=20)[topics] + draw.numpy.normal(size=80)
    return Outcome.of(mean_reading(values, topics, "", ""), 3.0)


EDGE = law.Law("a ratio", "measured = predicted", {"x": "a figure (1)"}, "everywhere", 0.1)


@case(
    "a law at its edge",
    "laws.law.judge",
    "consistent or violated in 5 % at most",
    Bands(level=0.05),
    (1000, 2000, 10000),
    Mutation(
        "the value judged, not its interval",
        law.judge_in,
        "low <= reading.low and reading.high <= high",
        "low <= reading.value <= high",
    ),
    Mutation(
        "any overlap with the outside is a violation",
        law.judge_in,
        "reading.high < low or reading.low > high",
        "reading.high > high",
    ),
    source="95 % interval of a ratio that lies on the edge of the band",
)
def verdict(draw: Draw) -> Outcome:
    """The truth is 1 + tolerance exactly, so that neither verdict is right; each is due in 2.5 %."""
    value = 1.1 + 0.02 * draw.numpy.normal()
    reading = Reading(value, value - 1.96 * 0.02, value + 1.96 * 0.02, 0.95, 1, "", None, "")
    return Outcome(alarm=law.judge(reading, EDGE) in ("consistent", "violated"))


@case(
    "one network against four twins",
    "statistics.paired.log_ratio",
    "difference of log figures, 0.5",
    Bands(bias=0.0, coverage=0.95),
    (300, 600, 2000),
    Mutation("twins taken as exact", paired.log_ratio, "values.var(ddof=1)", "0 * values.var(ddof=1)"),
    source="planted",
    unit="log",
)
def twins(draw: Draw) -> Outcome:
    """Means over 60 rows that the networks share, and a seed's own part of spread .2 for each of four twins."""
    generator, groups = draw.numpy, np.arange(60)
    common = generator.normal(size=60)
    one = Deleted.mean(common + 0.5 + 0.2 * generator.normal(size=60), groups)
    others = [Deleted.mean(common + 0.2 * generator.normal() + 0.2 * generator.normal(size=60), groups) for _ in range(4)]
    found = log_ratio(one, others)
    low, high = found.interval(0.95)
    return Outcome(found.value, 0.5, low=low, high=high)


@case(
    "median of grouped rows",
    "statistics.paired.median",
    "0",
    Bands(bias=0.0, coverage=0.95),
    (300, 600, 2000),
    Mutation(
        "rows taken as independent",
        median,
        "names, group = np.unique(groups, return_inverse=True)",
        "names = group = np.arange(len(values))",
    ),
    source="symmetry",
)
def middle(draw: Draw) -> Outcome:
    """40 groups of 4 rows, a Laplace shift and noise of the same size."""
    groups = np.repeat(np.arange(40), 4)
    values = draw.numpy.laplace(size=40)[groups] + draw.numpy.normal(size=160)
    value, low, high = median(values, groups)
    return Outcome(value, 0.0, low=low, high=high)


STANDARDS = (chi, cost, expansion, least, foretold, topical, verdict, twins, middle)
