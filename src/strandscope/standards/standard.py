"""A standard: a case whose true answer is known, the estimator that is to find it, and the bands it is judged by.

What it promises: the truth is a closed form or comes from float64 code that imports nothing of the estimator; the bands were
written down before the estimator was first run on the case; repetition number r of a standard draws from streams named after
the standard and r, so that any one of them can be run again alone; and for every standard there is at least one `Mutation` of
the estimator, a plausible slip, that turns it red.

What it does not know: whether an estimator is right on what no standard covers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch

from ..provenance import numpy_generator, torch_generator
from ..reading import Reading
from .mutation import Mutation

Mode = Literal["fast", "quick", "certify"]
CERTIFIED = 2000  # repetitions with which a level is certified, at least


@dataclass(frozen=True)
class Draw:
    """The luck of one repetition: generators of its own."""

    standard: str
    number: int
    seed: int = 0

    @cached_property
    def numpy(self) -> np.random.Generator:
        return numpy_generator(self.seed, "standard", self.standard, str(self.number))

    @cached_property
    def torch(self) -> torch.Generator:
        return torch_generator(self.seed, "standard", self.standard, str(self.number))

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal figures in float64."""
        return torch.randn(*shape, generator=self.torch, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one repetition gave: the estimator's figure with its interval or its alarm, and the truth.

    `error` is in the standard's unit, (value − truth)/scale. `refused` is the reason where the estimator said "not measured".
    """

    value: float = math.nan
    truth: float = 0.0
    scale: float = 1.0
    low: float | None = None
    high: float | None = None
    alarm: bool | None = None
    refused: str = ""

    @property
    def error(self) -> float:
        return (self.value - self.truth) / self.scale

    @property
    def held(self) -> bool | None:
        """Whether the interval holds the truth; None where there is none."""
        return None if self.low is None or self.high is None else self.low <= self.truth <= self.high

    @classmethod
    def of(cls, reading: Reading, truth: float, *, relative: bool = False, logarithm: bool = False) -> Outcome:
        """From a reading; with `relative` errors are shares of the truth, with `logarithm` differences of logarithms."""
        scale = truth if relative else 1.0
        if reading.value is None or reading.low is None or reading.high is None:
            return cls(truth=truth, scale=scale, refused=reading.reason)
        figures = (reading.value, truth, reading.low, reading.high)
        value, true, low, high = (_log(figure) for figure in figures) if logarithm else figures
        return cls(value, true, scale, low, high)

    @classmethod
    def farthest(cls, found: object, truth: object, scale: float | None = None) -> Outcome:
        """From arrays: the largest distance of an entry from its truth, as a share of `scale` (default: the largest truth)."""
        one, other = (np.asarray(figures, dtype=np.float64) for figures in (found, truth))
        if one.shape != other.shape:
            return cls(math.inf)  # an answer of another shape is as wrong as can be
        return cls(float(np.abs(one - other).max()) / (float(np.abs(other).max()) if scale is None else scale))


def _log(figure: float) -> float:
    return math.log(figure) if figure > 0 else -math.inf


@dataclass(frozen=True, slots=True)
class Bands:
    """What is claimed, written down before the first run; None where nothing is.

    error: no repetition is off by more than this.
    bias: the mean error is at most this, given its own standard error; 0 claims no bias at all.
    coverage: the level that intervals claim.
    level: the false-positive rate that a test claims.
    refusals: the share of repetitions that may be "not measured".
    """

    error: float | None = None
    bias: float | None = None
    coverage: float | None = None
    level: float | None = None
    refusals: float = 0.0


class Repetitions(NamedTuple):
    """How often: `fast` in tests and for mutants, `quick` beside every report, `certify` for the certificate.

    What takes a minute has 0 of the first two: it is run for certificates, and where it is named, as often as for these.
    """

    fast: int
    quick: int
    certify: int


@dataclass(frozen=True, slots=True)
class Standard:
    """One case with a known answer.

    `estimator` names what is judged, `truth` says in a line what the answer is, `source` where it comes from. `unit` is that of
    the error.
    """

    name: str
    estimator: str
    about: str
    truth: str
    source: str
    run: Callable[[Draw], Outcome]
    bands: Bands
    times: Repetitions
    mutations: tuple[Mutation, ...]
    unit: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        claims = self.kinds
        if not claims:
            raise ValueError(f"standard {self.name}: claims nothing; give it a band")
        if {"coverage", "level"} & set(claims) and self.times.certify < CERTIFIED:
            raise ValueError(f"standard {self.name}: claims a level with {self.times.certify} repetitions, not {CERTIFIED}")
        if not self.mutations:
            raise ValueError(f"standard {self.name}: no mutation turns it red, so nobody knows that it can fail")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which of error, bias, coverage and level are claimed."""
        return tuple(kind for kind in ("error", "bias", "coverage", "level") if getattr(self.bands, kind) is not None)

    def repeat(self, number: int) -> Outcome:
        """Repetition `number`, alone."""
        return self.run(Draw(self.name, number, self.seed))

    def repetitions(self, mode: Mode) -> int:
        return getattr(self.times, mode) or self.times.certify

    def runs(self, mode: Mode) -> bool:
        """Whether it belongs to all standards in this mode; one that takes a minute does in certificates alone."""
        return getattr(self.times, mode) > 0


def case(
    name: str,
    estimator: str,
    truth: str,
    bands: Bands,
    times: tuple[int, int, int],
    *slips: Mutation,
    source: str = "closed form",
    unit: str = "",
) -> Callable[[Callable[[Draw], Outcome]], Standard]:
    """Make a standard of the function that runs one repetition; its docstring says what the case is.

    Args:
        times: repetitions in tests, quick and certified; 0, 0, n where one takes a minute.
        slips: mutations, each of which must turn it red.
    """

    def made(run: Callable[[Draw], Outcome]) -> Standard:
        about = " ".join((run.__doc__ or "").split()).removesuffix(".")
        return Standard(name, estimator, about, truth, source, run, bands, Repetitions(*times), slips, unit)

    return made
