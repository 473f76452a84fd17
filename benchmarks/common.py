"""What every benchmark here shares: the machine's name, paired timing, and results written in one form.

A benchmark is a function `run(size) -> Results`. A `Line` is one figure beside what it was to reach; a line without a bound is
reported and judged by nobody. Times are judged by their median; a ratio of two programs by the median over pairs that alternate
A B A B in one process, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from strandscope.capture.examples import Example

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SCHEMA = "strandscope/benchmark/1"
THREADS = 2  # the targets are for two cores
PACKAGES = ("strandscope", "torch", "transformers", "numpy", "scipy", "scikit-learn", "nnsight", "xrfm", "repeng", "peft")


@dataclass(frozen=True, slots=True)
class Size:
    """How much to do: `full` for figures that count, else just enough to see that the program runs."""

    full: bool
    data: Path

    def of(self, full: int, quick: int) -> int:
        return full if self.full else quick


@dataclass(frozen=True, slots=True)
class Line:
    """A figure with its range beside what it was to reach; `least` and `most` are the bounds, either may be absent."""

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int = 1
    unit: str = ""
    least: float | None = None
    most: float | None = None
    range_of: str = "min–max"
    note: str = ""

    @property
    def to_reach(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g} {self.unit}".rstrip()
        if self.least is None and self.most is None:
            return "reported"
        return f"{'≤' if self.least is None else '≥'} {self.most if self.least is None else self.least:g} {self.unit}".rstrip()

    @property
    def verdict(self) -> str:
        if self.least is None and self.most is None:
            return "–"
        word = "outside" if self.least is not None and self.most is not None else "short"
        if self.most is not None and self.value > self.most:
            return f"{word} by {self.value - self.most:.3g}"
        if self.least is not None and self.value < self.least:
            return f"{word} by {self.least - self.value:.3g}"
        return "met"

    @property
    def measured(self) -> str:
        digits = {"s": ".3g", "GB": ".3g", "runs": ".0f"}.get(self.unit, ".3f")
        figure = f"{self.value:{digits}} {self.unit}".rstrip()
        if self.low is None or self.high is None:
            return figure
        return f"{figure} ({self.range_of} {self.low:{digits}} to {self.high:{digits}}, n = {self.n})"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows shown below the figures, as they come out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Results:
    """What one benchmark measured, and in words how."""

    about: str
    lines: tuple[Line, ...]
    tables: tuple[Table, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds of two programs run alternately; `ratio` is the median of first/second, pair by pair."""

    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(a / b for a, b in zip(self.first, self.second, strict=True))

    def line(self, what: str, most: float | None) -> Line:
        ratios = self.ratios
        note = f"median seconds {statistics.median(self.first):.2f} and {statistics.median(self.second):.2f}"
        return Line(what, statistics.median(ratios), min(ratios), max(ratios), len(ratios), "", most=most, note=note)


def messages_of(row: Example) -> list[dict[str, str]]:
    """The messages of a chat row, as plain dictionaries."""
    if not isinstance(row.input, tuple):
        raise SystemExit(f"row {row.id}: not a chat")
    return [dict(message) for message in row.input]


def repeng() -> Any:
    """The package, which was written for numpy 1: it names `np.float_` in its annotations, and is not imported without."""
    setattr(np, "float_", np.float64)  # noqa: B010 (numpy 2 has no such name)
    import repeng

    return repeng


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(first: Callable[[], object], second: Callable[[], object], pairs: int) -> Pairs:
    """Each once to warm up, then A B A B."""
    first()
    second()
    times = [(timed(first), timed(second)) for _ in range(pairs)]
    return Pairs(tuple(a for a, _ in times), tuple(b for _, b in times))


def seconds(what: str, work: Callable[[], object], repeats: int, most: float) -> Line:
    """Median seconds after one warm-up."""
    work()
    times = [timed(work) for _ in range(repeats)]
    return Line(what, statistics.median(times), min(times), max(times), repeats, "s", most=most)


def peak_gb() -> float:
    """The most memory that this process had resident; not `ru_maxrss`, which on Linux a child has from its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def machine() -> dict[str, Any]:
    """The machine by name, and what ran on it."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if named:
            return named[0]
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def machine_sentence(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads, {about['memory_gb']} GB, {about['system']}; "
        f"load average {' '.join(map(str, about['load_average']))} at the start; {versions}."
    )


def as_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [list(columns), ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(lines: Sequence[dict[str, Any]]) -> str:
    rows = [(line["what"], line["to_reach"], line["measured"], line["verdict"], line["note"]) for line in lines]
    return as_table(("what", "to reach", "measured", "", "note"), rows)


def as_json(name: str, results: Results, started: dict[str, Any], size: Size, took: float) -> dict[str, Any]:
    derived = ("to_reach", "measured", "verdict")
    return {
        "schema": SCHEMA,
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "full": size.full,
        "seconds": round(took, 1),
        "about": results.about,
        "machine": started,
        "lines": [asdict(line) | {key: getattr(line, key) for key in derived} for line in results.lines],
        "tables": [asdict(table) for table in results.tables],
        "facts": results.facts,
    }


def as_markdown(report: dict[str, Any]) -> str:
    parts = [f"# {report['name']}", report["about"]]
    if not report["full"]:
        parts.append("**A trial at a tiny size: these figures mean nothing.**")
    parts.append(figures(report["lines"]))
    for table in report["tables"]:
        parts += [f"## {table['title']}", as_table(table["columns"], table["rows"])]
    parts += [f"- {key}: {value}" for key, value in report["facts"].items()]
    parts.append(f"{report['date']}, {report['seconds']:.0f} s. {machine_sentence(report['machine'])}")
    return "\n\n".join(parts) + "\n"


def command_line(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny size, to see that it runs; writes to a temporary folder")
    default = os.environ.get("STRANDSCOPE_DATA", str(HERE.parent.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default), help="data that others wrote (or set STRANDSCOPE_DATA)")
    parser.add_argument("--out", type=Path, default=None, help="where results go (default: benchmarks/results)")
    return parser


def settings(given: argparse.Namespace) -> tuple[Size, Path]:
    """The size, and the folder for results; a quick run never writes over results that count."""
    trial = Path(tempfile.gettempdir()) / "strandscope-benchmarks"
    out = given.out or (trial if given.quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    return Size(not given.quick, given.data), out


def main(name: str, run: Callable[[Size], Results], about: str) -> None:
    """Run one benchmark from the command line, print what it measured and write NAME.json and NAME.md."""
    size, out = settings(command_line(about).parse_args())
    torch.set_num_threads(THREADS if size.full else 1)
    started, start = machine(), time.perf_counter()
    report = as_json(name, run(size), started, size, time.perf_counter() - start)
    (out / f"{name}.json").write_text(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(as_markdown(report), encoding="utf-8")
    print(as_markdown(report))
    print(f"written to {out / name}.json and .md", file=sys.stderr)
