"""The recorder's overhead on the three digits runs, beside the same runs without it, and whether their losses are the same.

Each network is trained with a recorder of the default budget and twice without, in one process and on one thread; which comes
first changes from round to round. The overhead is the time of the run with it over the mean of the two without, minus one: by the
clock on the wall, so that all that the recorder causes is in it. What the recorder itself says it took stands beside it, and what
the two runs without differ by: that is what such a figure is good for on this machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from common import Line, Results, Size, Table, main

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "training"))

from loop import train
from tasks import STEPS, task

from strandscope.recorder.run import Run, read_run

NAMES = ("mlp", "convnext", "vit")
BUDGET, POINT = 0.05, 0.01
ORDER = ("plain", "with", "plain again")


def trained(name: str, steps: int, watched: bool) -> tuple[float, float, list[float], Run | None]:
    """Seconds by the clock on the wall and of the processor, the losses, and the run where it was recorded."""
    job = task(name, steps)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run" if watched else None
        wall, processor = time.perf_counter(), time.process_time()
        losses = train(job, out, BUDGET)
        return time.perf_counter() - wall, time.process_time() - processor, losses, None if out is None else read_run(out)


def run(size: Size) -> Results:
    torch.set_num_threads(1)
    lines, rows = [], []
    for name in NAMES:
        steps = size.of(STEPS[name], STEPS[name] // 20)
        shares: dict[str, list[float]] = {"wall": [], "processor": [], "said": [], "records": [], "same": [], "plain": []}
        trained(name, max(steps // 20, 1), False)  # warms up
        for number in range(size.of(3, 1)):
            turn = [ORDER[(number + place) % len(ORDER)] for place in range(len(ORDER))]
            done = {kind: trained(name, steps, kind == "with") for kind in turn}
            (one, one_processor, losses, _), (other, other_processor, _, _) = done["plain"], done["plain again"]
            wall_with, processor_with, losses_with, found = done["with"]
            assert found is not None and found.overhead.value is not None
            overhead = 2 * wall_with / (one + other) - 1
            processor = 2 * processor_with / (one_processor + other_processor) - 1
            of_round = (overhead, processor, found.overhead.value, len(found.records), losses == losses_with, other / one - 1)
            for key, value in zip(shares, of_round, strict=True):
                shares[key].append(float(value))
            figures = (f"{value:.3f}" for value in (overhead, other / one - 1, processor, found.overhead.value))
            rows.append((name, *(f"{seconds:.1f}" for seconds in (one, other, wall_with)), *figures, len(found.records)))
        middle = {key: statistics.median(values) for key, values in shares.items()}
        note = f"by its own clock {middle['said']:.3f}; {middle['records']:.0f} records"
        what = f"{name}: overhead, share of the training time"

        lines += [
            _line(f"{what}, wall", shares["wall"], most=BUDGET + POINT, note=note),
            _line(f"{what}, processor", shares["processor"]),
            _line(f"{name}: a run without over another without, less 1", shares["plain"]),
            Line(f"{name}: rounds whose losses are the same to the last bit, share", statistics.mean(shares["same"]), least=1.0),
        ]
    about = (
        f"Overhead of a recorder with a budget of {BUDGET:.0%} on an MLP, a ConvNeXt and a ViT on scikit-learn's digits "
        "(examples/training), whole runs with it and twice without in turn on one thread."
    )
    columns = (
        "network",
        "seconds without",
        "again",
        "with",
        "overhead, wall",
        "plain over plain",
        "processor",
        "by its own clock",
        "records",
    )
    return Results(about, tuple(lines), (Table("Every round", columns, tuple(rows)),))


def _line(what: str, held: list[float], **more: Any) -> Line:
    return Line(what, statistics.median(held), min(held), max(held), len(held), **more)


if __name__ == "__main__":
    main("recorder", run, __doc__ or "")
