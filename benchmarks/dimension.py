"""The dimension of 10,000 points beside scikit-dimension 0.5.0: TwoNN and the participation ratio, time and figures.

Points in float64, uniform on a sphere of five dimensions, turned into 576 coordinates (the width of a small network's states) and
into 10, away from the origin. TwoNN: theirs is timed as it comes (a straight line, a tenth discarded); the figures are compared
with its `method="mle"` where nothing is discarded, which is what ours computes. Participation ratio: of the sample covariance, in
both. Theirs gives a number; ours of TwoNN has its interval in the same time.
"""

from __future__ import annotations

import warnings
from importlib.metadata import version

import torch
from torch import Tensor

from common import Line, Results, Size, Table, main, paired
from strandscope.provenance import torch_generator
from strandscope.statistics.accumulators import Moments
from strandscope.statistics.dimension import two_nn
from strandscope.statistics.spectrum import participation_of

DIMENSIONS = 5


def points(n: int, d: int) -> Tensor:
    """(n, d) on a sphere."""
    generator = torch_generator(0, "sphere", str(d))
    rows = torch.randn(n, DIMENSIONS + 1, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(d, DIMENSIONS + 1, generator=generator, dtype=torch.float64)).Q
    return rows / rows.norm(dim=1, keepdim=True) @ turn.T + 3


def participation(rows: Tensor) -> float:
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return participation_of(moments.result().covariance)


def run(size: Size) -> Results:
    from skdim.id import TwoNN, lPCA

    warnings.simplefilter("ignore")
    n, pairs = size.of(10_000, 500), size.of(5, 1)
    lines, rows = [], []
    most = 0.2
    for d in (576, 10):
        states = points(n, d)
        given = states.numpy()
        mine = two_nn(states)
        theirs = TwoNN(discard_fraction=0.0, method="mle").fit(given).dimension_
        straight = TwoNN().fit(given).dimension_
        timed = paired(lambda s=states: two_nn(s), lambda g=given: TwoNN().fit(g), pairs)
        lines.append(timed.line(f"TwoNN of {n:,} × {d} / scikit-dimension", most))
        apart = abs(float((mine.value or 0.0) / theirs - 1))
        lines.append(Line(f"distance from theirs by maximum likelihood, {d} coordinates", apart, unit="relative", most=1e-6))
        rows.append((f"TwoNN, {d} coordinates", str(mine), f"{theirs:.6f} (likelihood), {straight:.6f} (straight line)"))
        ratio, other = participation(states), lPCA(ver="participation_ratio").fit(given).dimension_
        timed = paired(lambda s=states: participation(s), lambda g=given: lPCA(ver="participation_ratio").fit(g), pairs)
        lines.append(timed.line(f"participation ratio of {n:,} × {d} / scikit-dimension", most))
        lines.append(
            Line(f"distance of participation ratios, {d} coordinates", abs(float(ratio / other - 1)), unit="relative", most=1e-6)
        )
        rows.append((f"participation ratio, {d} coordinates", f"{ratio:.6f}", f"{other:.6f}"))
    return Results(
        f"{n:,} points of a sphere of {DIMENSIONS} dimensions, beside scikit-dimension {version('scikit-dimension')}.",
        tuple(lines),
        (Table("In full figures", ("what", "ours", "theirs"), tuple(rows)),),
    )


if __name__ == "__main__":
    main("dimension", run, __doc__ or "")
