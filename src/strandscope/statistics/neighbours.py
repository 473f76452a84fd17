"""Each point's two nearest others, exactly, among thousands of points.

In few coordinates a k-d tree finds them. In many, products of the centred points in float32 propose eight candidates a point;
their distances are taken again from differences in float64, and a point is done where the eighth proposal is farther than the
second true one by more than the products can be wrong. Those that are left (neighbours too near for float32) are proposed again
in float64, and what is left then is measured against every point. So the answer is that of all differences in float64.

Points must differ: at distance 0 a point would be its copy's neighbour.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

FEW = 12  # coordinates in which a tree is quicker
_CANDIDATES = 8
_CHUNK = 1024


def two_nearest(points: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (n, 2) and indices (n, 2) of the two nearest others of each of n ≥ 3 points (n, d) in float64."""
    if points.shape[1] <= FEW:
        given = points.cpu().numpy()
        found = (torch.as_tensor(np.asarray(each)[:, 1:]).to(points.device) for each in KDTree(given).query(given, k=3))
        return next(found), next(found)
    n = len(points)
    if n <= _CANDIDATES + 1:
        return _all(points, torch.arange(n, device=points.device))
    centred = points - points.mean(0)
    distance = torch.empty(n, 2, dtype=points.dtype, device=points.device)
    place = torch.empty(n, 2, dtype=torch.long, device=points.device)
    left = torch.arange(n, device=points.device)
    for dtype in (torch.float32, torch.float64):
        if len(left):
            proposed = _proposed_by_pairs(centred.to(dtype)) if len(left) == n else _proposed(centred.to(dtype), left)
            distance[left], place[left], sure = _measured(centred, left, *proposed, torch.finfo(dtype).eps)
            left = left[~sure]
    if len(left):
        distance[left], place[left] = _all(points, left)
    return distance, place


def _proposed_by_pairs(points: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances less the point's own ‖x‖² (n, 8), ascending, and whose they are; each pair is multiplied once."""
    n, own = len(points), points.square().sum(1)
    best = torch.full((n, _CANDIDATES), torch.inf, dtype=points.dtype, device=points.device)
    whose = torch.zeros(n, _CANDIDATES, dtype=torch.long, device=points.device)

    def join(rows: slice, found: Tensor, first: int) -> None:
        near, index = found.topk(min(_CANDIDATES, found.shape[1]), largest=False)
        both, names = torch.cat([best[rows], near], 1), torch.cat([whose[rows], index + first], 1)
        best[rows], order = both.topk(_CANDIDATES, largest=False)
        whose[rows] = names.gather(1, order)

    for start in range(0, n, _CHUNK):
        stop = min(start + _CHUNK, n)
        products = points[start:stop] @ points[start:].T
        near = torch.add(own[start:], products, alpha=-2)
        inside = torch.arange(stop - start, device=points.device)
        near[inside, inside] = torch.inf
        join(slice(start, stop), near, start)
        if stop < n:
            across = torch.empty(n - stop, stop - start, dtype=points.dtype, device=points.device)
            join(slice(stop, n), torch.add(own[start:stop], products[:, stop - start :].T, alpha=-2, out=across), start)
    return best, whose


def _proposed(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The same for some of the points."""
    own, best, whose = points.square().sum(1), [], []
    for some in rows.split(_CHUNK):
        products = torch.addmm(own, points[some], points.T, alpha=-2)
        products[torch.arange(len(some), device=points.device), some] = torch.inf
        near, index = products.topk(_CANDIDATES, largest=False)
        best.append(near)
        whose.append(index)
    return torch.cat(best), torch.cat(whose)


def _measured(points: Tensor, rows: Tensor, best: Tensor, whose: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Distances to the candidates from differences, the two nearest, and whether no other point can be nearer."""
    lengths = points.norm(dim=1)
    found = [
        (points[some, None] - points[near]).norm(dim=2) for some, near in zip(rows.split(256), whose.split(256), strict=True)
    ]
    distance, order = torch.cat(found).topk(2, largest=False)
    wrong = (points.shape[1] + 8) * eps * (lengths[rows] + lengths.max()).square()  # of a squared distance by products, at most
    farthest = best[:, -1].double() + lengths[rows].square()
    return distance, whose.gather(1, order), farthest - wrong > distance[:, 1].square()


def _all(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """From the differences to every point; what multiplies instead would round small ones to 0."""
    near, index = [], []
    for some in rows.split(_CHUNK):
        distance = torch.cdist(points[some], points, compute_mode="donot_use_mm_for_euclid_dist")
        distance[torch.arange(len(some), device=points.device), some] = torch.inf
        values, places = distance.topk(2, largest=False)
        near.append(values)
        index.append(places)
    return torch.cat(near), torch.cat(index)
