"""The two theories of sharing on libraries that are planted: each where it must hold, and where the other does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...strand.mixture import coverage
from ..figure import Figure, Series
from ..law import Check, Control, Law, LawResult
from ..sharing import DISCRETE, SHARED, SMOOTH, foretold
from .checks import bound, mean, ratio
from .entry import Trial, entry

Floats = NDArray[np.float64]

LIBRARIES = 16
BLOCKS = 4  # of contexts, in each library: the interval is over libraries
SOURCE = "this project; the missing mass: Good (1953)"
ONE = "share of what there is to hold"


@dataclass(frozen=True, slots=True)
class Kind:
    """How contexts are planted: `types` discrete strands, or 0 for a smooth family with four parameters."""

    name: str
    types: int
    contexts: int
    rank: int
    width: int
    draws: int
    neighbours: int


STRANDS = Kind("discrete", 18, 160, 3, 60, 20, 2)
FAMILY = Kind("smooth", 0, 200, 2, 60, 20, 3)


def gradients(kind: Kind, generator: np.random.Generator) -> torch.Tensor:
    """Rows (contexts, draws, width), a little noise on all."""
    shape = (kind.contexts, kind.draws, kind.rank)
    if kind.types:
        frames = np.linalg.qr(generator.normal(size=(kind.types, kind.width, kind.rank)))[0]
        bases = frames[generator.integers(0, kind.types, kind.contexts)]
    else:  # a Gaussian process of length .4 over the unit cube
        place, waves = generator.random((kind.contexts, 4)), generator.normal(size=(200, 4)) / 0.4
        features = np.cos(place @ waves.T + 2 * np.pi * generator.random(200)) / 10
        bases = np.einsum("cf,fdk->cdk", features, generator.normal(size=(200, kind.width, kind.rank)) / kind.width**0.5)
    rows = generator.normal(size=shape) @ bases.swapaxes(1, 2)
    return torch.as_tensor(rows + 0.02 * generator.normal(size=rows.shape))


@dataclass(frozen=True, slots=True)
class Contests:
    """Figures of many libraries of one kind.

    Attributes:
        predicted, held: (libraries, 2) mean share at the largest library by theory (discrete, smooth), and measured.
        difference: (libraries,) score of the smooth theory less that of the discrete one.
        nothing: (libraries,) what is shared with an unrelated library.
        sizes, curve: library sizes and the mean share held.
    """

    predicted: Floats
    held: Floats
    difference: Floats
    nothing: Floats
    sizes: tuple[int, ...]
    curve: Floats

    def ratio(self, which: int) -> Floats:
        return self.held / self.predicted[:, which]


def contests(trial: Trial, kind: Kind, libraries: int = LIBRARIES) -> Contests:
    """Libraries drawn and recorded one after the other, both theories fitted to the small ones and asked about the large."""
    predicted, held, difference, nothing, curves = [], [], [], [], []
    sizes: tuple[int, ...] = ()
    for number in range(libraries):
        generator = trial.numpy(kind.name, str(number))
        rows = gradients(kind, generator)
        seen = coverage(rows, generator=generator, rank=kind.rank, neighbours=kind.neighbours, blocks=BLOCKS, repeats=1)
        found = foretold(seen)
        predicted.append(found[:, 1])
        held.append(found[0, 2])
        difference.append(found[1, 0] - found[0, 0])
        nothing.append(seen.shared(control=True).value)
        sizes = seen.sizes
        room = seen.ceiling.mean() - seen.unrelated[0].mean((0, 1))
        curves.append(1 - (seen.ceiling.mean() - seen.nearest[0].mean((0, 1))) / room)
    return Contests(np.array(predicted), np.array(held), np.array(difference), np.array(nothing), sizes, np.mean(curves, axis=0))


def _tested(trial: Trial, law: Law, which: int, home: Kind, away: Kind) -> LawResult:
    """The theory numbered `which` at home, and as its control where the other one is true."""
    there, elsewhere = contests(trial, home), contests(trial, away)
    sign = 1 if which == 0 else -1
    other = "smooth" if which == 0 else "discrete"

    def nearer(found: Contests, where: str) -> Check:
        gap = mean(sign * found.difference, trial.level, ONE, f"CRPS of the {other} theory less its own, over libraries")
        return bound(f"score against the {other} theory, {where}", gap, (0.0, np.inf))

    checks = [
        ratio(f"share held by the largest library, {home.name} library", 1.0, there.ratio(which), law.band, trial.level, "1"),
        nearer(there, f"{home.name} library"),
        bound("shared with an unrelated library", mean(there.nothing, trial.level, ONE, "libraries"), (-SHARED, SHARED)),
    ]
    control = Control.of(f"a {away.name} library", "violated", [nearer(elsewhere, f"{away.name} library")])
    largest = there.sizes[-1]
    figure = Figure.of(
        f"What the nearest of N recorded strands hold, {home.name} library",
        "contexts recorded, N (1)",
        "share of what there is to hold (1)",
        (
            Series.of("held", "measured", there.sizes, there.curve),
            Series.of(f"the {law.name.split(', ')[1]} theory", "predicted", [largest], [there.predicted[:, which].mean()]),
            Series.of(f"the {other} theory", "guide", [largest], [there.predicted[:, 1 - which].mean()]),
        ),
        "log x",
    )
    details = {"other_theory_ratio": float(there.ratio(1 - which).mean()), "away_ratio": float(elsewhere.ratio(which).mean())}
    where = f"{LIBRARIES} planted libraries of {home.contexts} contexts"
    return LawResult.of(law, where, checks, control, figure=figure, details=details)


@entry(DISCRETE, source=SOURCE, control="contexts of a smooth family: the smooth theory is nearer, violated", seconds=25)
def discrete(trial: Trial) -> LawResult:
    """Where contexts draw from a library of discrete strands, what the nearest of N recorded ones hold follows from the missing
    mass. Libraries of eighteen strands are planted; the theory is fitted to small libraries and must foretell what the largest
    holds, and come nearer to its distribution over contexts than the smooth theory. With a library that shares nothing it must
    find nothing."""
    return _tested(trial, DISCRETE, 0, STRANDS, FAMILY)


@entry(SMOOTH, source=SOURCE, control="contexts of a discrete library: the discrete theory is nearer, violated", seconds=25)
def smooth(trial: Trial) -> LawResult:
    """Where strands vary smoothly from context to context, ever nearer neighbours are recorded, and what is lacked falls as a
    power of their number. Families with four parameters are planted; the theory is fitted to small libraries and must foretell
    what the largest holds, and come nearer to its distribution over contexts than the discrete theory."""
    return _tested(trial, SMOOTH, 1, FAMILY, STRANDS)
