"""AGOP of a 3 × 1024 MLP on 10,000 points, the top 50 directions: beside the bare backward passes that any estimate of it needs.

The peer is the least that can be done: each batch forward once and backward once for every probe, the gradients thrown away.
Ours also adds them up and solves for 50 eigenpairs with their residual bounds. Memory is the peak of a process of its own while
ten times as many points go by.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from common import Line, Results, Size, Table, main, paired
from strandscope.statistics.accumulators.products import Form
from strandscope.strand.agop import agop

WIDTH, OUTPUTS, TOP, BATCH, PROBES = 1024, 10, 50, 1000, 4

_PEAK = """
import json, sys
sys.path.insert(0, {here!r})
from agop import mlp, points, TOP, PROBES
from common import peak_gb
from strandscope.strand.agop import agop
import torch
torch.set_num_threads(2)
agop(mlp(), points({n}), probes=PROBES, form="sketch", k=TOP).top(TOP)
print(json.dumps(peak_gb()))
"""


def mlp() -> torch.nn.Module:
    """Three hidden layers of 1024, weights by a fixed seed, not learned: the time does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    sizes = (WIDTH, WIDTH, WIDTH, WIDTH, OUTPUTS)
    layers: list[torch.nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layer = torch.nn.Linear(wide, narrow)
        layer.weight.data = torch.randn(narrow, wide, generator=generator) * (2 / wide) ** 0.5
        layer.bias.data.zero_()
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).requires_grad_(False)


def points(n: int) -> Iterator[Tensor]:
    """Batches of normal inputs, made as they are asked for."""
    generator = torch.Generator().manual_seed(1)
    for start in range(0, n, BATCH):
        yield torch.randn(min(BATCH, n - start), WIDTH, generator=generator)


def bare(f: torch.nn.Module, batches: list[Tensor], probes: int) -> None:
    """Forward once and backward `probes` times a batch, and nothing else."""
    generator = torch.Generator().manual_seed(2)
    for batch in batches:
        x = batch.requires_grad_()
        y = f(x)
        for step in range(probes):
            sign = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
            torch.autograd.grad((y * sign).sum(), x, retain_graph=step < probes - 1)


def peak(n: int) -> float:
    """GB that a fresh process needs for n points."""
    from common import HERE

    command = [sys.executable, "-c", _PEAK.format(here=str(HERE), n=n)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def run(size: Size) -> Results:
    f = mlp()
    n, pairs = size.of(10_000, 1000), size.of(7, 1)
    batches = list(points(n))
    lines = []
    forms: tuple[tuple[Form, float | None], ...] = (("sketch", 1.5), ("dense", None))
    for form, bound in forms:
        taken = paired(
            lambda form=form: agop(f, batches, probes=PROBES, form=form, k=TOP).top(TOP),
            lambda: bare(f, batches, PROBES),
            pairs,
        )
        lines.append(taken.line(f"AGOP, {form}, {PROBES} probes / forward and {PROBES} backward passes", bound))
    exact = paired(lambda: agop(f, batches).top(TOP), lambda: bare(f, batches, OUTPUTS), max(1, pairs // 2))
    lines.append(exact.line(f"AGOP, dense, all {OUTPUTS} outputs / forward and {OUTPUTS} backward passes", None))
    few, many = peak(n), peak(size.of(100_000, 2000))
    lines.append(Line(f"peak memory at {size.of(100_000, 2000):,} points / at {n:,}", many / few, most=1.05))
    whole = agop(f, batches)
    dense, sketch = whole.top(TOP), agop(f, batches, form="sketch", k=TOP).top(TOP)
    matrix = whole.matrix()
    true = (matrix @ sketch.vectors - sketch.vectors * sketch.values).norm(dim=0)
    rows = (
        ("share of the trace in the top 50", f"{dense.share:.4f}", f"{sketch.share:.4f}"),
        ("largest eigenvalue", f"{float(dense.values[0]):.4g}", f"{float(sketch.values[0]):.4g}"),
        ("50th eigenvalue", f"{float(dense.values[-1]):.4g}", f"{float(sketch.values[-1]):.4g}"),
        ("largest residual bound", f"{float(dense.residuals.max()):.2g}", f"{float(sketch.residuals.max()):.2g}"),
        ("largest true residual", "", f"{float(true.max()):.2g}"),
    )
    return Results(
        f"An MLP of three hidden layers of {WIDTH} with {OUTPUTS} outputs, {WIDTH} inputs, {n:,} points in batches of {BATCH}, "
        "fp32; time of ours as a share of that of the bare passes.",
        tuple(lines),
        (Table("The same matrix, all outputs", ("figure", "dense", "sketch"), rows),),
        {"peak memory (GB)": f"{few:.2f} at {n:,} points"},
    )


if __name__ == "__main__":
    main("agop", run, __doc__ or "")
