"""When to measure next, so that the recorder stays within its share of the training time.

Time is told apart by two marks: `enter` when the recorder is called, `leave` when it returns. What passes between leaving and
entering is training. A measurement is affordable if, with what it is expected to cost (the dearest of the last three; the first
of all warms up and is left out) and one more kept back for the record at the end, the time inside stays within `budget` times the
time outside. The records at the start and at the end are taken whatever they cost: the floor. What is decided is a step, not a
moment, so that all processes of a distributed run can be told it.

Where it is known how many steps come, the share that may be spent by step s is budget · √(steps/s) of the time outside so far:
more at first, when most is formed, and the budget at the end. A training that ends early has then cost more, and the record says
how much.

Records never come closer than half a percent of the steps that were made, so their number grows with the logarithm of a long
run. With `every` they come at that many steps and the budget decides nothing; it is measured all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..errors import InputError
from ..reading import Reading

_FINEST = 200  # records come no closer than this part of the steps made


@dataclass(slots=True)
class Cadence:
    """Seconds `inside` and `outside` the recorder, and the step at which it looks again."""

    budget: float
    every: int | None = None
    steps: int | None = None
    inside: float = 0.0
    outside: float = 0.0
    floor: float = 0.0  # seconds of looking at the network and of the records at the start and at the end
    records: int = 0
    next: int = 1
    _costs: list[float] = field(default_factory=list)
    _mark: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.budget < 1:
            raise InputError(f"budget: got {self.budget}, wanted a share of the training time between 0 and 1, such as 0.05")
        if self.every is not None and self.every < 1:
            raise InputError(f"every: got {self.every}, wanted at least 1 step, or None to go by cost")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps: got {self.steps}, wanted at least 1, or None where it is not known how many come")

    def enter(self, now: float) -> None:
        if self._mark is not None:
            self.outside += now - self._mark
        self._mark = now

    def leave(self, now: float) -> None:
        if self._mark is not None:
            self.inside += now - self._mark
        self._mark = now

    def took(self, seconds: float, *, floor: bool) -> None:
        """A record was made, and took so long."""
        self.records += 1
        self._costs = [seconds] if self.records == 2 else [*self._costs[-2:], seconds]  # the first warms up
        self.floor += seconds if floor else 0.0

    def missing(self, step: int) -> float:
        """Seconds of training that have to pass after this step before another record is affordable."""
        wanted = (self.inside + 2 * max(self._costs, default=0.0)) / self.budget  # seconds of training that pay for it
        if self.steps is not None and 0 < step < self.steps:
            whole = self.outside / step * self.steps
            if wanted < whole:
                wanted = wanted**2 / whole
        return wanted - self.outside

    def plan(self, step: int) -> int:
        """The step at which to look again, seen from this one."""
        if self.every is not None:
            return step + self.every
        if step == 0 or self.outside <= 0:
            return step + 1
        ahead = math.ceil(self.missing(step) * step / self.outside)
        return step + max(1 + step // _FINEST, min(ahead, max(step, 8)))  # a step's time may change: no further than doubling

    def due(self, step: int) -> bool:
        """Whether the planned record is affordable now that its step has come."""
        return self.every is not None or self.missing(step) <= 0

    @property
    def share(self) -> float:
        return self.inside / self.outside if self.outside > 0 else 0.0

    def reading(self) -> Reading:
        """The overhead so far."""
        method = f"seconds inside the recorder over seconds between its calls, by the clock; {self.records} records"
        unit = "share of training time"
        if not self.outside > 0:
            return Reading.not_measured("no step was made yet", unit=unit, method=method)
        return Reading(self.share, self.share, self.share, None, self.records, unit, None, method)

    def sentence(self) -> str:
        """How the budget was kept, or why not."""
        said = f"{self.share:.1%} of the training time, of {self.budget:.1%} allowed"
        if self.every is not None:
            return f"{said} (records every {self.every} steps, whatever they cost)"
        if self.outside > 0 and self.floor > self.budget * self.outside:
            return (
                f"{said}: the records at the start and the end alone took {self.floor / self.outside:.1%}; the run was too short"
            )
        return said

    def state(self) -> dict[str, float | int]:
        return {"inside": self.inside, "outside": self.outside, "floor": self.floor, "records": self.records}

    def restore(self, state: dict[str, float | int]) -> None:
        self.inside, self.outside, self.floor = (float(state[name]) for name in ("inside", "outside", "floor"))
        self.records = int(state["records"])
