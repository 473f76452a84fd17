"""Laws run: one after the other, or spread over processes of one thread each, so that figures do not depend on how many."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from ...engine.processes import spread
from ...errors import InputError
from ...progress import Progress
from ...provenance import versions
from ..law import LawResult
from .entry import LEVEL
from .registry import ENTRIES, law

SCHEMA = "strandscope/laws/1"


@dataclass(frozen=True, slots=True)
class Ran:
    """One law with one seed. `passed`: the law is consistent and its negative control did what was stated."""

    seed: int
    result: LawResult
    seconds: float

    @property
    def passed(self) -> bool:
        return self.result.verdict == "consistent" and self.result.control.verdict == "passed"

    def to_dict(self) -> dict[str, Any]:
        about = law(self.result.name)
        more = {"about": about.about, "source": about.source, "control": about.control}
        return {**self.result.to_dict(), **more, "seed": self.seed, "seconds": round(self.seconds, 2), "passed": self.passed}


@dataclass(frozen=True, slots=True)
class LawRun:
    """Laws that were run together."""

    ran: tuple[Ran, ...]
    date: str
    versions: dict[str, str]

    @property
    def verdict(self) -> Literal["passed", "failed"]:
        return "passed" if all(one.passed for one in self.ran) else "failed"

    def as_json(self) -> dict[str, Any]:
        laws = [one.to_dict() for one in self.ran]
        return {"schema": SCHEMA, "verdict": self.verdict, "laws": laws, "date": self.date, "versions": self.versions}


def run(names: Sequence[str] = (), seeds: Sequence[int] = (0,), *, jobs: int = 1, progress: Progress | None = None) -> LawRun:
    """Run laws (where none is named, all) with each of the seeds.

    Args:
        jobs: processes; 1 stays in this one.

    Raises:
        InputError: no law has such a name, or there is no seed.
    """
    entries = [law(name) for name in names] or list(ENTRIES)
    if jobs < 1 or not seeds:
        raise InputError(f"jobs, seeds: got {jobs} and {len(seeds)} seeds, wanted at least 1 of both")
    work = [(entry.name, seed) for entry in sorted(entries, key=lambda entry: -entry.seconds) for seed in seeds]
    done = []
    for count, one in enumerate(spread(_work, work, jobs), start=1):
        done.append(one)
        if progress:
            progress(f"laws ({one.result.name})", count, len(work))
    order = {entry.name: number for number, entry in enumerate(entries)}
    done.sort(key=lambda one: (order[one.result.name], one.seed))
    return LawRun(tuple(done), datetime.now(UTC).isoformat(timespec="seconds"), versions())


def _work(task: tuple[str, int]) -> Ran:
    name, seed = task
    began = time.perf_counter()
    result = law(name).run(seed)
    return Ran(seed, result, time.perf_counter() - began)


__all__ = ["LEVEL", "LawRun", "Ran", "run"]
