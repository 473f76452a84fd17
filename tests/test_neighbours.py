"""Two nearest neighbours: the same as by every difference, whatever way they are found."""

from __future__ import annotations

import pytest
import torch

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
        normal(3, 20),
        normal(9, 20),
        normal(10, 20),
    ],
    ids=["tree", "isotropic", "plane", "line", "clumps", "three", "nine", "ten"],
)
def test_neighbours_are_those_of_every_difference(points):
    distance, place = two_nearest(points)
    true, index = by_every_difference(points)
    torch.testing.assert_close(distance, true, rtol=1e-9, atol=0)
    assert torch.equal(place, index)
