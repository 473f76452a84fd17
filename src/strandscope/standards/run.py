"""Standards run: repetition by repetition, in this process or spread over several, and with each slip to see it turn red."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..engine.processes import spread
from ..errors import InputError
from ..progress import Progress
from .judge import Judged, judge
from .mutation import applied
from .registry import STANDARDS, standard
from .standard import Mode, Outcome, Standard

_BROKEN = (ArithmeticError, ValueError, RuntimeError, IndexError, TypeError)  # what a slip can do to arithmetic and shapes
PARTS = 20  # into which a standard's repetitions are cut for several processes


@dataclass(frozen=True, slots=True)
class Caught:
    """Whether a slip in the estimator turned its standard red."""

    name: str
    caught: bool


@dataclass(frozen=True, slots=True)
class Result:
    """A standard with what came out of it. `slips` is None where the mutations were not run."""

    standard: Standard
    judged: Judged
    seconds: float
    slips: tuple[Caught, ...] | None = None

    @property
    def verdict(self) -> str:
        """Red, too, where a slip would have stayed unseen."""
        return "green" if self.judged.verdict == "green" and all(slip.caught for slip in self.slips or ()) else "red"

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.judged.reasons + tuple(f"the slip {s.name!r} stays unseen" for s in self.slips or () if not s.caught)


def outcomes(case: Standard, repetitions: int, start: int = 0) -> list[Outcome]:
    """Repetitions from `start` on, in this process."""
    return [case.repeat(number) for number in range(start, start + repetitions)]


def run(case: Standard, mode: Mode = "quick") -> Judged:
    """One standard, in this process."""
    return judge(case, outcomes(case, case.repetitions(mode)))


def caught(case: Standard, mode: Mode = "fast") -> tuple[Caught, ...]:
    """Each of the standard's slips, applied and taken back: does it turn the standard red?

    An estimator that refuses its input because of the slip is caught as well.
    """
    found = []
    for mutation in case.mutations:
        with applied(mutation):
            try:
                red = run(case, mode).verdict == "red"
            except (
                ArithmeticError,
                ValueError,
                RuntimeError,
                IndexError,
                TypeError,
            ):  # what a slip does to arithmetic and shapes
                red = True
        found.append(Caught(str(mutation), red))
    return tuple(found)


def calibrate(
    names: Sequence[str] = (),
    mode: Mode = "quick",
    *,
    slips: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> tuple[Result, ...]:
    """Run standards (where none is named, all that run in this mode) and judge them.

    Args:
        slips: run the mutations too.
        jobs: processes; 1 stays in this one. Each works with one thread, so that the figures do not depend on it.
    """
    cases = [standard(name) for name in names] or [case for case in STANDARDS if case.runs(mode)]
    if jobs < 1:
        raise InputError(f"jobs: got {jobs}, wanted at least 1")
    work = [part for case in cases for part in _parts(case, mode, slips, jobs)]
    gathered: dict[str, list[_Done]] = {case.name: [] for case in cases}
    for count, (task, done) in enumerate(zip(work, spread(_work, work, jobs), strict=True), start=1):
        gathered[task.name].append(done)
        if progress:
            progress("standards", count, len(work))
    return tuple(_result(case, gathered[case.name], slips) for case in cases)


@dataclass(frozen=True, slots=True)
class _Task:
    """Some repetitions of a standard, or with `count` 0 its slips."""

    name: str
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class _Done:
    start: int
    outcomes: list[Outcome]
    slips: tuple[Caught, ...]
    seconds: float


def _parts(case: Standard, mode: Mode, slips: bool, jobs: int) -> Iterator[_Task]:
    total = case.repetitions(mode)
    size = total if jobs == 1 else -(-total // PARTS)
    for start in range(0, total, size):
        yield _Task(case.name, start, min(size, total - start))
    if slips:
        yield _Task(case.name, 0, 0)


def _work(task: _Task) -> _Done:
    case, began = standard(task.name), time.perf_counter()
    found = outcomes(case, task.count, task.start)
    seen = () if task.count else caught(case)
    return _Done(task.start, found, seen, time.perf_counter() - began)


def _result(case: Standard, done: Sequence[_Done], slips: bool) -> Result:
    found = [outcome for part in sorted(done, key=lambda part: part.start) for outcome in part.outcomes]
    seen = tuple(slip for part in done for slip in part.slips) if slips else None
    return Result(case, judge(case, found), sum(part.seconds for part in done), seen)
