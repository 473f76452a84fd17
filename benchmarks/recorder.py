"""The recorder's overhead on the three digits runs, beside the same runs without it, and whether their losses are the same.

Each network is trained with and without a recorder of the default budget, alternately, in one process and on one thread. The
overhead is the time of a run with it over that of the one before without, minus one: by the clock on the wall, so that all that
the recorder causes is in it. What the recorder itself says it took stands beside it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from common import Line, Results, Size, Table, main

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "training"))

from loop import train
from tasks import STEPS, task

from strandscope.recorder.run import Run, read_run

NAMES = ("mlp", "convnext", "vit")
BUDGET, POINT = 0.05, 0.01


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
        shares: dict[str, list[float]] = {"wall": [], "processor": [], "said": [], "records": [], "same": []}
        trained(name, max(steps // 20, 1), False)  # warms up
        for number in range(size.of(3, 1)):
            pair = {watched: trained(name, steps, watched) for watched in ((False, True) if number % 2 == 0 else (True, False))}
            (wall, processor, losses, _), (wall_with, processor_with, losses_with, found) = pair[False], pair[True]
            assert found is not None and found.overhead.value is not None
            of_pair = (wall_with / wall - 1, processor_with / processor - 1, found.overhead.value, len(found.records))
            for key, value in zip(shares, (*of_pair, losses == losses_with), strict=True):
                shares[key].append(float(value))
            rows.append((name, f"{wall:.1f}", f"{wall_with:.1f}", *(f"{value:.3f}" for value in of_pair[:3]), of_pair[3]))
        middle = {key: statistics.median(values) for key, values in shares.items()}
        note = f"by its own clock {middle['said']:.3f}; {middle['records']:.0f} records"
        wall, processor = shares["wall"], shares["processor"]
        what = f"{name}: overhead, share of the training time"
        lines += [
            Line(f"{what}, wall", middle["wall"], min(wall), max(wall), len(wall), most=BUDGET + POINT, note=note),
            Line(f"{what}, processor", middle["processor"], min(processor), max(processor), len(processor)),
            Line(f"{name}: pairs whose losses are the same to the last bit, share", statistics.mean(shares["same"]), least=1.0),
        ]
    about = (
        f"Overhead of a recorder with a budget of {BUDGET:.0%} on an MLP, a ConvNeXt and a ViT on scikit-learn's digits "
        "(examples/training), whole runs with and without it alternating on one thread."
    )
    columns = ("network", "seconds without", "with", "overhead, wall", "processor", "by its own clock", "records")
    return Results(about, tuple(lines), (Table("Every pair", columns, tuple(rows)),))


if __name__ == "__main__":
    main("recorder", run, __doc__ or "")
