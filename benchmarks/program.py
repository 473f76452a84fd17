"""The program as a user meets it: how long `--help` takes, and the wall time and peak memory of a warm audit with four concepts.

Every figure is of a fresh process. "Warm" means that the embedded model has been converted before, as it is after any first
use; the audit writes into a new folder each time, so it has nothing to go on from.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import THREADS, Line, Results, Size, main

CONCEPTS = ("harm", "truth", "sentiment", "spanish")


@dataclass(frozen=True, slots=True)
class Run:
    seconds: float
    peak_gb: float  # resident, of the process itself


def strandscope(*arguments: str) -> Run:
    """Run the program to its end; raises if it fails."""
    command = [str(Path(sys.executable).parent / "strandscope"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    with tempfile.TemporaryFile() as words:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            words.seek(0)
            raise SystemExit(
                f"{' '.join(arguments)} ended with {process.returncode}: {words.read().decode(errors='replace')[-800:]}"
            )
    unit = 1 if sys.platform == "darwin" else 1024  # macOS gives bytes, Linux KiB
    return Run(took, used.ru_maxrss * unit / 2**30)


def audits(concepts: tuple[str, ...], repeats: int, quick: bool) -> list[Run]:
    chosen = [word for concept in concepts for word in ("--concept", concept)]
    found = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            found.append(
                strandscope("audit", "smollm2", *chosen, "--out", str(Path(folder) / "audit"), *(["--quick"] if quick else []))
            )
    return found


def _line(what: str, values: list[float], unit: str, most: float) -> Line:
    return Line(what, statistics.median(values), min(values), max(values), len(values), unit, most=most)


def run(size: Size) -> Results:
    strandscope("--help")
    help_ = [strandscope("--help").seconds for _ in range(size.of(10, 2))]
    strandscope("doctor", "smollm2")  # converts the model where that was not done yet
    concepts = CONCEPTS if size.full else CONCEPTS[3:]
    done = audits(concepts, size.of(3, 1), not size.full)
    return Results(
        f"`strandscope --help`, and `strandscope audit smollm2` with {', '.join(concepts)}; fresh processes, {THREADS} threads.",
        (
            _line("strandscope --help", help_, "s", 0.4),
            _line(f"warm audit of smollm2 with {len(concepts)} concepts", [one.seconds for one in done], "s", 180),
            _line("its peak resident memory", [one.peak_gb for one in done], "GB", 3),
        ),
    )


if __name__ == "__main__":
    main("program", run, __doc__ or "")
