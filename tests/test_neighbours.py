"""Two nearest neighbours: the same as by every difference, whatever way they are found."""

from __future__ import annotations

import pytest
import torch

from strandscope.statistics import neighbours
from strandscope.statistics.neighbours import FEW, two_nearest


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_every_difference(points):
    distance = torch.stack([(points - one).norm(dim=1) for one in points])
    distance.fill_diagonal_(torch.inf)
    return distance.topk(2, largest=False)


def clumps(n, d):
    """Twenty points each, down to 1e-9 of one another: products in float32 cannot tell them apart, those in float64 not all."""
    centres = normal(n // 20, d).repeat_interleave(20, 0)
    return centres + 10.0 ** -torch.arange(4, 10).repeat(n)[:n, None] * normal(n, d, seed=1)


@pytest.mark.parametrize(
    "points",
    [
        normal(300, FEW),
        normal(300, FEW + 1),
        normal(300, 3) @ normal(3, 40, seed=1) + 100,  # far from the origin
        normal(1100, 1) @ normal(1, 20, seed=1),  # a line; more points than one block holds
        clumps(400, 30),
        normal(900, 6) @ normal(6, 50, seed=1) + 1e-3 * normal(900, 50, seed=2),  # near a flat: a tree settles most
        torch.cat([normal(700, 4) @ normal(4, 40, seed=1), normal(300, 40, seed=3)]),  # settles some, and others are left
        torch.cat([normal(500, 30), 1e6 + normal(500, 30, seed=1)]),
        normal(3, 20),
        normal(9, 20),
        normal(10, 20),
    ],
    ids=["tree", "isotropic", "plane", "line", "clumps", "near a flat", "both", "far apart", "three", "nine", "ten"],
)
def test_neighbours_are_those_of_every_difference(points):
    distance, place = two_nearest(points)
    true, index = by_every_difference(points)
    torch.testing.assert_close(distance, true, rtol=1e-9, atol=0)
    assert torch.equal(place, index)


def test_the_tree_settles_points_near_a_flat_and_is_not_used_where_it_does_not(monkeypatch):
    asked = []
    real = neighbours._measured_by_tree

    def counted(points, leading, rows):
        found = real(points, leading, rows)
        asked.append((len(rows), float(found[2].double().mean())))
        return found

    monkeypatch.setattr(neighbours, "_measured_by_tree", counted)
    two_nearest(normal(2000, 6) @ normal(6, 60, seed=1) + 1e-6 * normal(2000, 60, seed=2))
    assert asked[-1][0] == 2000 and asked[-1][1] == 1.0
    asked.clear()
    two_nearest(normal(2000, 60))
    assert len(asked) == 1 and asked[0][0] < 300 and asked[0][1] < 0.1
