"""The recorder's overhead on the three digits runs, beside the same runs without it, and whether their losses are the same.

Each network is trained with and without a recorder of the default budget, alternately, in one process and on one thread. The
overhead is the time of a run with it over that of the one before without, minus one: by the clock on the wall, so that all that
the recorder causes is in it. What the recorder itself says it took stands beside it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import torch

from common import Line, Results, Size, Table, main, timed

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "training"))

from loop import train
from tasks import STEPS, task

from strandscope.recorder.run import read_run

NAMES = ("mlp", "convnext", "vit")
BUDGET, POINT = 0.05, 0.01


def run(size: Size) -> Results:
    torch.set_num_threads(1)
    lines, rows = [], []
    for name in NAMES:
        steps = size.of(STEPS[name], STEPS[name] // 20)
        shares, said, records, same = [], [], [], True
        train(task(name, max(steps // 20, 1)), None)  # warms up
        for number in range(size.of(5, 1)):
            seconds, losses = {}, {}
            for watched in (False, True) if number % 2 == 0 else (True, False):
                with tempfile.TemporaryDirectory() as folder:
                    out = Path(folder) / "run" if watched else None
                    job = task(name, steps)
                    seconds[watched] = timed(lambda: losses.__setitem__(watched, train(job, out, BUDGET)))  # noqa: B023
                    if out is not None:
                        found = read_run(out)
                        said.append(found.overhead.value or 0.0)
                        records.append(len(found.records))
            same = same and losses[True] == losses[False]
            shares.append(seconds[True] / seconds[False] - 1)
            rows.append(
                (name, f"{seconds[False]:.1f}", f"{seconds[True]:.1f}", f"{shares[-1]:.3f}", f"{said[-1]:.3f}", records[-1])
            )
        middle = statistics.median(shares)
        note = f"by its own clock {statistics.median(said):.3f}; {statistics.median(records):.0f} records"
        what = f"{name}: overhead, share of the training time"
        lines.append(Line(what, middle, min(shares), max(shares), len(shares), most=BUDGET + POINT, note=note))
        lines.append(Line(f"{name}: losses with and without the same to the last bit", float(same), least=1.0, unit="runs"))
    about = (
        f"Overhead of a recorder with a budget of {BUDGET:.0%} on an MLP, a ConvNeXt and a ViT on scikit-learn's digits "
        "(examples/training), whole runs with and without alternating on one thread."
    )
    columns = ("network", "seconds without", "with", "overhead", "by its own clock", "records")
    return Results(about, tuple(lines), (Table("Every pair", columns, tuple(rows)),))


if __name__ == "__main__":
    main("recorder", run, __doc__ or "")
