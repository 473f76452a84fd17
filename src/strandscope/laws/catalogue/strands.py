"""The laws of strands where they must hold without a language model: twins of random weights, and planted contexts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...statistics.spectrum import overlap
from ..figure import Figure, Series
from ..law import Check, Control, LawResult
from ..overlap import FEW, OVERLAP, overlap_law
from ..strands import DEPTH, FREE, depth, free_composition, free_log
from .checks import RATIO, certain, geometric
from .entry import Trial, entry
from .twins import BLOCKS, ENTROPY, WIDTH, Seen, Twin, seen

Floats = NDArray[np.float64]

TWINS, CONTEXTS = 120, 2  # contexts of each
SITES = (*(f"block {number}" for number in range(BLOCKS)), "end")
PLANTS, MANY, ROWS, SPACE = 60, 80, 16, 24  # overlap: plants, contexts of each, rows of each, dimensions
STRANDS = "this project; free composition: the moments of free products (Voiculescu)"


class Pairs(NamedTuple):
    """What every context of every twin showed, and which twin it was of."""

    seen: list[Seen]
    twins: list[str]


def contexts(trial: Trial, twins: int = TWINS, width: int = WIDTH) -> Pairs:
    """Contexts of twins; every twin has weights of its own, its logits scaled to ENTROPY nats."""
    found, names = [], []
    for number in range(twins):
        random = trial.torch("twin", str(number))
        twin = Twin.drawn(random, width)
        states = torch.randn(CONTEXTS, width, generator=random, dtype=torch.float64)
        twin = twin.scaled(states)
        found += [seen(twin, state) for state in states]
        names += [str(number)] * CONTEXTS
    return Pairs(found, names)


def _told(result: LawResult, what: str) -> tuple[Check, ...]:
    return (Check(what, result.predicted, result.reading, result.ratio, result.law.band),)


@entry(
    FREE,
    source=STRANDS,
    control="the same output metrics turned onto the directions that the Jacobian reaches most: violated",
    seconds=12,
)
def composition(trial: Trial) -> LawResult:
    """If output metric and Jacobian are in general position, the reciprocals of their participation ratios add, less 1/D.
    Networks of random weights, whose logits are scaled to an entropy of 2.5 nats, have them so: nothing was learned. F, JᵀJ and
    A are exact, from autograd. In a trained network the excess over this law is a reading of its own, and no test."""
    pairs = contexts(trial)
    response, aligned, output = (
        np.array([getattr(one, name) for one in pairs.seen]) for name in ("response", "aligned", "output")
    )
    jacobian = np.array([one.jacobians[0] for one in pairs.seen])

    def tested(measured: Floats) -> LawResult:
        return free_composition(measured, jacobian, output, WIDTH, f"{TWINS} twins", generator=trial.numpy("planted"),
                                groups=pairs.twins, level=trial.level)  # fmt: skip

    free, against = tested(response), tested(aligned)
    control = Control.of("output metrics turned onto what the Jacobian reaches", "violated", _told(against, "turned"))
    predicted = np.exp(free_log(output, jacobian, WIDTH))
    figure = Figure.of(
        "Free composition in networks of random weights",
        "participation ratio of F, predicted (dimensions)",
        "measured (dimensions)",
        (
            Series.of("twins", "measured", predicted, np.exp(response)),
            Series.of("turned", "control", predicted, np.exp(aligned)),
            Series.of("equal", "guide", [predicted.min(), predicted.max()], [predicted.min(), predicted.max()]),
        ),
        "log",
    )
    details = {"median": free.details["median"], "planted": _planted(free), "entropy_nats": ENTROPY}
    return LawResult.of(FREE, free.where, _told(free, "twins"), control, figure=figure, details=details)


def _planted(result: LawResult) -> dict[str, object]:
    """What the law's own control said: projectors inside each other, at these dimensions."""
    one = result.control
    return {"what": one.what, "expected": one.expected, "found": one.found, "ratio": one.ratio.value, "predicted": one.predicted}


@entry(DEPTH, source=STRANDS, control="blocks that all keep the same directions: violated", seconds=12)
def stack(trial: Trial) -> LawResult:
    """What blocks take from the dimension of JᵀJ adds up over depth, d/PR − 1, if their Jacobians are in general position to each
    other. In residual networks of random weights they are; every Jacobian is exact, from autograd, and the prediction for the
    first site takes the blocks' own dimensions and that of the last normalisation alone."""
    pairs = contexts(trial)
    jacobians, blocks = (np.array([getattr(one, name) for one in pairs.seen]).T for name in ("jacobians", "blocks"))
    found = depth(jacobians, blocks, WIDTH, SITES, generator=trial.numpy("planted"), groups=pairs.twins, level=trial.level)
    added = np.concatenate([WIDTH * np.exp(-blocks) - 1, WIDTH * np.exp(-jacobians[-1:]) - 1]).mean(1)
    measured = (WIDTH * np.exp(-jacobians) - 1).mean(1)
    places = np.arange(len(SITES))
    figure = Figure.of(
        "What blocks of random weights take from the dimension",
        "site (blocks passed)",
        "d/PR − 1 (1)",
        (
            Series.of("sum over blocks after the site", "predicted", places, added[::-1].cumsum()[::-1]),
            Series.of("JᵀJ from the site", "measured", places, measured),
        ),
    )
    return replace(found, checks=_told(found, "from the first site"), figure=figure)


def planted(generator: np.random.Generator, count: int = MANY) -> Tensor:
    """Rows (count, ROWS, SPACE) of contexts with F = w e₀e₀ᵀ + (1 − w) vvᵀ, w uniform on (0, 1), v random."""
    share = generator.random((count, 1, 1))
    own = generator.normal(size=(count, 1, SPACE))
    own /= np.linalg.norm(own, axis=-1, keepdims=True)
    rows = np.sqrt(1 - share) * generator.normal(size=(count, ROWS, 1)) * own
    rows[..., 0] += (np.sqrt(share) * generator.normal(size=(count, ROWS, 1)))[..., 0]
    return torch.as_tensor(rows)


@entry(
    OVERLAP,
    source=STRANDS,
    control="foretold from the contexts that overlap most with each other: violated",
    seconds=4,
)
def pooled(trial: Trial) -> LawResult:
    """The dimension of many contexts together follows from their own dimensions and the mean overlap of pairs, and a few contexts
    drawn alike stand for many. Contexts are planted that share one direction to a degree of their own and have another each; 24
    of them foretell the pooled dimension of 56 others, in sixty such plants. One plant may be off by half, as few as 24 contexts
    are; what is judged is the mean of the logarithms."""
    logs, against, predicted, measured = (np.empty(PLANTS) for _ in range(4))
    for number in range(PLANTS):
        generator = trial.numpy("plant", str(number))
        rows = overlap(planted(generator))
        found = overlap_law(rows.local.numpy(), rows.matrix.numpy(), "planted", generator=generator)
        assert found.predicted.value is not None and found.reading.value is not None and found.control.ratio.value is not None
        predicted[number], measured[number] = found.predicted.value, found.reading.value
        logs[number], against[number] = math.log(measured[number] / predicted[number]), math.log(found.control.ratio.value)
    how = f"geometric mean over {PLANTS} plants"
    checks = [_geometric(f"{MANY - FEW} contexts from {FEW} others", logs, trial.level, how)]
    control = Control.of(
        f"foretold from the {FEW} contexts that overlap most", "violated", [_geometric("most alike", against, trial.level, how)]
    )
    places = np.arange(PLANTS)
    figure = Figure.of(
        f"Pooled dimension of {MANY - FEW} contexts, foretold from {FEW} others",
        "plant (number)",
        "measured/predicted (1)",
        (
            Series.of("drawn alike", "measured", places, np.exp(logs)),
            Series.of("most alike", "control", places, np.exp(against)),
            Series.of("equal", "guide", [0, PLANTS - 1], [1.0, 1.0]),
        ),
        "log y",
    )
    details = {"predicted": float(np.exp(np.log(predicted).mean())), "measured": float(np.exp(np.log(measured).mean()))}
    return LawResult.of(OVERLAP, f"{PLANTS} plants of {MANY} contexts", checks, control, figure=figure, details=details)


def _geometric(what: str, logs: Floats, level: float, how: str) -> Check:
    """The geometric mean of ratios in the law's band."""
    read = geometric(logs, level, RATIO, how)
    return Check(what, certain(1.0, RATIO, "the law"), read, read, OVERLAP.band)
