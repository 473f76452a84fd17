"""The direction that a recursive feature machine finds for each of many label vectors on the same rows.

It is the top eigenvector of the AGOP after `UPDATES` updates, scaled by the slope of the labels on it among the training rows,
and so signed by their correlation. The machine is the default `RFMSpec` with its bandwidth at the rows' root mean squared
distance and its ridge given: both are free of labels, so that the first solve is one factorisation for all label vectors. From
then on each has its own metric, and a permutation is a refit.

A label vector whose system cannot be solved gets a direction of no worth: its slope is that of chance, and no selection prefers
it. With a ridge of .1 or more and a kernel of 1 on the diagonal that does not happen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kernels import outer_products, profile
from .rfm import update
from .rfm_rows import Symmetric
from .rfm_solve import solve
from .rfm_spec import RFMSpec

UPDATES = 2
BLOCK = 2**24  # numbers in one intermediate: fixed, so that results do not depend on the machine


def rfm_directions(features: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """(r, columns) for rows (n, r) and label columns (n, columns)."""
    rows = (features - features.mean(0)).float()
    wanted = (labels - labels.mean(0)).T.float().unsqueeze(-1)  # (columns, n, 1)
    spec = RFMSpec(ridge=ridge, iterations=UPDATES)
    lam = torch.tensor(ridge)
    bandwidth = (2 * rows.square().sum(-1).mean()).sqrt()
    first = profile(spec.kernel, bandwidth, rows, rows)
    weights = solve(first.values, lam, wanted[..., 0].T).alphas.T.unsqueeze(-1)
    step = max(1, BLOCK // (max(rows.shape) * rows.shape[0]))
    found = []
    for some, truth in zip(weights.split(step), wanted.split(step), strict=True):
        alphas, slopes, metric = some, first.slopes, None
        for count in range(UPDATES):
            if metric is not None:
                seen = profile(spec.kernel, bandwidth, rows, rows, metric.matrix)
                alphas, slopes = solve(seen.values, lam.expand(len(truth)), truth).alphas, seen.slopes
            inside = None if metric is None else metric.matrix
            agop = Symmetric(torch.nan_to_num(outer_products(spec.kernel, slopes, alphas, rows, inside)))
            metric = agop if count == UPDATES - 1 else update(spec, rows, agop, False)[0]
        assert metric is not None
        found.append(_scaled(rows, torch.linalg.eigh(metric.matrix).eigenvectors[..., -1], truth[..., 0]))
    return torch.cat(found).T.double()


def _scaled(rows: Tensor, directions: Tensor, truth: Tensor) -> Tensor:
    """Directions (columns, r) times the slope of the truth (columns, n) on them."""
    along = directions @ rows.T
    return directions * ((along * truth).sum(-1) / along.square().sum(-1).clamp_min(1e-30)).unsqueeze(-1)
