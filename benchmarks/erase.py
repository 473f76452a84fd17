"""LEACE from 100,000 streamed states of 576 coordinates beside concept-erasure 0.2.4: time, and the same eraser.

Both get the same fp32 batches of 4,096 rows with two classes in them, and make an eraser at the end. The peer has its
shrinkage and its constraint of the trace off, as ours is plain. It is timed in float64, in which we work, and in its default
float32. The states are far from the origin and far from round, as those of a network are; the distance between erasers is the
largest difference of erased coordinates, in standard deviations of the states.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from common import Line, Results, Size, Table, main, paired
from strandscope.statistics.accumulators import ClassMoments
from strandscope.strand.erase import Eraser

D, BATCH, EQUAL = 576, 4096, 1e-5


def states(rows: int) -> tuple[Tensor, Tensor]:
    """(rows, d) fp32 whose standard deviations fall from 1 to about 1/25, with two classes apart in five coordinates."""
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(rows, D, generator=generator) * torch.arange(1, D + 1) ** -0.5
    labels = torch.arange(rows) % 2
    made[:, :5] += labels[:, None]
    turn = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q
    return made @ turn + 3, labels


def batches(*parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(part.split(BATCH) for part in parts), strict=True)


def ours(rows: Tensor, labels: Tensor) -> Eraser:
    moments = ClassMoments(2, D)
    for batch, codes in batches(rows, labels):
        moments.update(batch, codes)
    return Eraser.of(moments.result())


def theirs(rows: Tensor, indicators: Tensor, dtype: torch.dtype) -> Any:
    from concept_erasure import LeaceFitter

    fitter = LeaceFitter(D, 2, dtype=dtype, shrinkage=False, constrain_cov_trace=False, svd_tol=1e-6)
    for batch, codes in batches(rows, indicators):
        fitter.update(batch, codes)
    return fitter.eraser


def run(size: Size) -> Results:
    rows, labels = states(size.of(100_000, 4_096))
    indicators = torch.nn.functional.one_hot(labels).float()
    looked = rows[:4096].double()
    mine = ours(rows, labels)(looked)
    lines = []
    for dtype, most, equal in ((torch.float64, 1.0, EQUAL), (torch.float32, None, None)):
        name = str(dtype).removeprefix("torch.")
        eraser = theirs(rows, indicators, dtype)
        apart = float((eraser(looked.to(dtype)).double() - mine).abs().max() / looked.std())
        pairs = paired(lambda: ours(rows, labels), lambda dtype=dtype: theirs(rows, indicators, dtype), size.of(5, 1))
        lines.append(pairs.line(f"fit from {len(rows):,} × {D} / concept-erasure in {name}", most))
        lines.append(Line(f"largest distance of erased coordinates, {name}", apart, unit="deviations", most=equal))
    table = tuple((line.what, f"{line.value:.3g}") for line in lines)
    return Results(
        f"LEACE of two classes from {len(rows):,} streamed states, beside concept-erasure {version('concept-erasure')}.",
        tuple(lines),
        (Table("In full figures", ("what", "value"), table),),
    )


if __name__ == "__main__":
    main("erase", run, __doc__ or "")
