"""Dimensions of data: unbiased although the mean is unknown, and neighbours that are known to be dependent."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from strandscope.errors import InputError
from strandscope.statistics.dimension import _meeting, _unbiased, data_participation, two_nn


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_closed_forms_are_sums_over_four_different_rows():
    """(x_i − x_j)ᵀ(x_k − x_l) squared, over 4, for tr Σ²; the product of two squared distances, over 4, for (tr Σ)²."""
    rows = normal(7, 3) + 10
    second = np.mean(
        [float((rows[i] - rows[j]) @ (rows[k] - rows[m])) ** 2 / 4 for i, j, k, m in itertools.permutations(range(7), 4)]
    )
    first = np.mean(
        [
            float((rows[i] - rows[j]).square().sum() * (rows[k] - rows[m]).square().sum()) / 4
            for i, j, k, m in itertools.permutations(range(7), 4)
        ]
    )
    centred = rows - rows.mean(0)
    assert _unbiased(centred @ centred.T) == pytest.approx((first, second))


@pytest.mark.parametrize("n", [32, 128])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_participation_ratio_covers_with_an_unknown_mean(n, power):
    spectrum = torch.arange(1, 61, dtype=torch.float64) ** -power
    true = float(spectrum.sum() ** 2 / spectrum.square().sum())
    found = [data_participation(normal(n, 60, seed=seed) * spectrum.sqrt() + 7) for seed in range(400)]
    covered = np.mean([reading.low <= true <= reading.high for reading in found])
    assert (0.88 if n == 32 else 0.915) <= covered <= 0.98
    logs = np.log([reading.value for reading in found]) - math.log(true)
    assert abs(logs.mean()) < 4 * logs.std() / 20 + 0.03


def test_rows_that_share_a_topic_are_counted_once():
    """Ten copies of each row with a little noise: without groups the interval would be far too narrow."""
    spectrum = torch.arange(1, 41, dtype=torch.float64) ** -0.5
    true = float(spectrum.sum() ** 2 / spectrum.square().sum())
    covered, blind = [], []
    for seed in range(200):
        topics = normal(32, 40, seed=seed).repeat_interleave(10, 0)
        rows = (topics + 0.05 * normal(320, 40, seed=1000 + seed)) * spectrum.sqrt()
        for groups, into in ((np.arange(32).repeat(10), covered), (None, blind)):
            reading = data_participation(rows, groups)
            into.append(reading.low <= true <= reading.high)
    assert np.mean(covered) > 0.9 > 0.3 > np.mean(blind)


def sphere(n, d, seed):
    points = normal(n, d + 1, seed=seed)
    return points / points.norm(dim=1, keepdim=True)


def torus(n, d, seed):
    angles = 2 * math.pi * torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([angles.cos(), angles.sin()], 1)


@pytest.mark.parametrize(("shape", "d"), [(sphere, 1), (sphere, 2), (sphere, 4), (torus, 1), (torus, 2)])
def test_neighbours_give_the_dimension_of_shapes_without_an_edge(shape, d):
    """1/N, the variance of independent ratios, covers .87."""
    embed = normal(2 * d + 1 if shape is sphere else 2 * d, 30, seed=9)[: d + 1 if shape is sphere else 2 * d]
    basis = torch.linalg.qr(embed.T).Q  # turned into 30 dimensions, which changes no distance
    found = [two_nn(shape(300, d, seed) @ basis.T) for seed in range(250)]
    covered = np.mean([reading.low <= d <= reading.high for reading in found])
    assert 0.91 <= covered <= 0.985
    assert np.mean([reading.value for reading in found]) == pytest.approx(d, rel=0.02)


def test_the_maximum_likelihood_estimate_has_n_minus_one():
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distance = torch.cdist(points, points).sort(dim=1).values
    assert two_nn(points).value == pytest.approx(49 / float((distance[:, 2] / distance[:, 1]).log().sum()))


def test_meeting_neighbourhoods_are_the_same_by_matrix_and_by_sets():
    points = normal(2100, 2)
    _, places = torch.cdist(points, points).topk(3, largest=False)
    errors = normal(2100, seed=1)
    small = slice(0, 400)
    inside = places[small] % 400
    sets = [set(three) for three in inside.tolist()]
    wanted = sum(float(errors[i] * errors[j]) for i in range(400) for j in range(400) if sets[i] & sets[j])
    assert _meeting(errors[small], inside) == pytest.approx(wanted)
    member = torch.zeros(2100, 2100)
    member[torch.arange(2100)[:, None], places] = 1
    assert _meeting(errors, places) == pytest.approx(float(errors @ ((member @ member.T > 0).double() @ errors)))


def test_copies_are_dropped_and_said_to_be():
    points = normal(100, 3)
    once, twice = two_nn(points), two_nn(torch.cat([points, points[:30]]))
    assert twice.value == pytest.approx(once.value) and "30 copies" in twice.method and "copies" not in once.method


def test_what_cannot_be_measured_says_why():
    lattice = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)) * 1.0
    for reading, words in (
        (two_nn(lattice), "a lattice"),
        (two_nn(torch.cat([normal(10, 2)] * 3)), "10 different rows"),
        (data_participation(normal(40, 5), np.arange(40) % 8), "8 groups"),
    ):
        assert reading.status == "not measured" and words in reading.reason
    for call, words in (
        (lambda: data_participation(normal(10, 3)), "got 10 rows, wanted at least 16"),
        (lambda: data_participation(torch.ones(20, 3)), "every row is the same"),
        (lambda: two_nn(torch.ones(20)), r"wanted \(rows, d\)"),
        (lambda: two_nn(torch.full((20, 2), math.nan)), "row 0 holds a NaN"),
        (lambda: data_participation(normal(20, 3), np.zeros(3)), "one code for each of the 20 rows"),
        (lambda: data_participation(normal(12_001, 1)), "at most 12000"),
    ):
        with pytest.raises(InputError, match=words):
            call()
