"""Each point's two nearest others, exactly, among thousands of points.

In few coordinates a k-d tree finds them. In many, candidates are proposed, eight a point; their distances are taken from
differences in float64, and a point is done where no other can be nearer. Two ways propose. A tree in the leading dozen
directions, where a distance is at most the whole one: that settles points which lie near a flat of so few dimensions, and is
tried on some before it is used on all. And products of the centred points in float32, where the eighth has to be farther than the
second true one by more than the products can be wrong; points that are left (neighbours too near for float32) are proposed again
in float64, and what is left then is measured against every point. So the answer is that of all differences in float64.

Points must differ: at distance 0 a point would be its copy's neighbour.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

FEW = 12  # coordinates in which a tree is quicker
_CANDIDATES = 8
_CHUNK = 1024
_DRAWN, _TRIED = 2048, 256  # points that directions are taken from, and that the tree in them is tried on
_WORTH = 0.5  # of these has to be settled by it


def two_nearest(points: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (n, 2) and indices (n, 2) of the two nearest others of each of n ≥ 3 points (n, d) in float64."""
    if points.shape[1] <= FEW:
        given = points.cpu().numpy()
        near, index = _nearest(KDTree(given), given, 3)
        return near[:, 1:].to(points.device), index[:, 1:].to(points.device)
    n = len(points)
    if n <= _CANDIDATES + 1:
        return _all(points, torch.arange(n, device=points.device))
    centred = points - points.mean(0)
    distance = torch.empty(n, 2, dtype=points.dtype, device=points.device)
    place = torch.empty(n, 2, dtype=torch.long, device=points.device)
    left = torch.arange(n, device=points.device)
    if points.device.type == "cpu":
        leading = centred @ _leading(centred)
        some = left[:: max(1, n // _TRIED)]
        if float(_measured_by_tree(centred, leading, some)[2].double().mean()) >= _WORTH:
            distance, place, sure = _measured_by_tree(centred, leading, left)
            left = left[~sure]
    for dtype in (torch.float32, torch.float64):
        if len(left):
            proposed = _proposed_by_pairs(centred.to(dtype)) if len(left) == n else _proposed(centred.to(dtype), left)
            distance[left], place[left], sure = _measured(centred, left, *proposed, torch.finfo(dtype).eps)
            left = left[~sure]
    if len(left):
        distance[left], place[left] = _all(points, left)
    return distance, place


def _leading(points: Tensor) -> Tensor:
    """(d, FEW) orthonormal directions along which centred points vary most, roughly: any would do, these settle most points."""
    some = points[:: max(1, len(points) // _DRAWN)]
    axes = torch.linalg.qr(some[:: max(1, len(some) // FEW)][:FEW].T).Q
    for _ in range(4):
        axes = torch.linalg.qr(some.T @ (some @ axes)).Q
    return axes


def _nearest(tree: KDTree, of: NDArray[np.float64], k: int) -> tuple[Tensor, Tensor]:
    """Distances and indices (len(of), k), ascending."""
    near, index = tree.query(of, k=k, workers=torch.get_num_threads())
    return torch.as_tensor(near), torch.as_tensor(index)


def _measured_by_tree(points: Tensor, leading: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_measured`, by candidates that are near in the leading directions."""
    given = leading.numpy()
    near, whose = _nearest(KDTree(given), given[rows.numpy()], _CANDIDATES + 1)
    own = whose == rows[:, None]
    own[~own.any(1), -1] = True  # others lie where it lies, and it is not among them
    whose = whose[~own].view(len(rows), _CANDIDATES)
    distance, order = _distances(points, rows, whose).topk(2, largest=False)
    wrong = 8 * points.shape[1] * torch.finfo(points.dtype).eps * points.norm(dim=1).max()
    return distance, whose.gather(1, order), near[:, -1] - wrong > distance[:, 1]


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
    distance, order = _distances(points, rows, whose).topk(2, largest=False)
    wrong = (points.shape[1] + 8) * eps * (lengths[rows] + lengths.max()).square()  # of a squared distance by products, at most
    farthest = best[:, -1].double() + lengths[rows].square()
    return distance, whose.gather(1, order), farthest - wrong > distance[:, 1].square()


def _distances(points: Tensor, rows: Tensor, whose: Tensor) -> Tensor:
    """From differences, of each row to those (rows, k) beside it."""
    pairs = zip(rows.split(256), whose.split(256), strict=True)
    return torch.cat([(points[some, None] - points[near]).norm(dim=2) for some, near in pairs])


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
