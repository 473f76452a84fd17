"""An entry of the catalogue: a law, how it is tested here, on what, and what its negative control must do.

A test is a function of a `Trial`, the luck of one run: its generators, and the confidence of every interval that it makes. It
promises that what is predicted was computed before the data it is held against were drawn, or from other data, and that nothing
in it depends on the outcome.

The confidence is family-wise: over `FAMILY` intervals, which is what five runs of the whole catalogue have at most, one fails to
hold what it should in `WRONG` of such families.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ...provenance import numpy_generator, torch_generator
from ..law import Law, LawResult

FAMILY = 1000
WRONG = 0.01
LEVEL = 1 - WRONG / FAMILY  # z = 4.4


@dataclass(frozen=True, slots=True)
class Trial:
    """The luck of one test: streams of its own for every name, and the confidence of each interval."""

    law: str
    seed: int = 0
    level: float = LEVEL

    def numpy(self, *names: str) -> np.random.Generator:
        return numpy_generator(self.seed, "law", self.law, *names)

    def torch(self, *names: str) -> torch.Generator:
        return torch_generator(self.seed, "law", self.law, *names)


@dataclass(frozen=True, slots=True)
class Entry:
    """A law of the catalogue.

    Attributes:
        about: what it says, and how it is tested here, in sentences.
        source: who found it, and where.
        control: the negative control, and what must come of it.
        seconds: what one run takes on one core, roughly.
    """

    law: Law
    about: str
    source: str
    control: str
    seconds: float
    test: Callable[[Trial], LawResult]

    @property
    def name(self) -> str:
        return self.law.name

    def run(self, seed: int = 0, level: float = LEVEL) -> LawResult:
        return self.test(Trial(self.name, seed, level))


def entry(law: Law, *, source: str, control: str, seconds: float) -> Callable[[Callable[[Trial], LawResult]], Entry]:
    """Make an entry of the function that runs one test; its docstring says what the law says and how it is tested."""

    def made(test: Callable[[Trial], LawResult]) -> Entry:
        return Entry(law, " ".join((test.__doc__ or "").split()), source, control, seconds, test)

    return made
