"""What the interval of a ratio of pair sums is made of, against scipy, explicit deletion and the interval of a count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis

from strandscope.statistics import pairs
from strandscope.statistics.pairs import freedom, log_ratio


def skew_kernels(n=40, seed=0):
    """Squared lengths and products of rows along few directions, so that a few rows carry the sums."""
    rows = torch.as_tensor(np.random.default_rng(seed).normal(size=(n, 30)) * np.arange(1, 31) ** -1.0)
    gram = rows @ rows.T
    return gram.diagonal()[:, None] * gram.diagonal()[None], gram.square()


def test_degrees_of_freedom_are_those_of_the_unbiased_kurtosis():
    draw = np.random.default_rng(0)
    for values in (draw.normal(size=30), draw.uniform(size=30), draw.standard_t(4, size=30)):
        centred = values - values.mean()
        wanted = 2 / (kurtosis(centred, bias=False) / 30 + 2 / 29)
        assert float(freedom(torch.as_tensor(centred))) == pytest.approx(wanted)
    assert float(freedom(torch.as_tensor(draw.normal(size=(2000, 20)))).median()) == pytest.approx(19, rel=0.25)


def test_the_jackknife_of_the_logarithm_is_that_of_explicit_deletion():
    a, b = skew_kernels()
    n = len(a)
    own = torch.eye(n, dtype=torch.bool)
    ha, hb = (pairs._linearised(kernel.masked_fill(own, 0.0), own)[0] for kernel in (a, b))

    def log(kept):
        left = np.ix_(kept, kept)
        off = ~np.eye(len(kept), dtype=bool)
        return math.log(a.numpy()[left][off].sum() / b.numpy()[left][off].sum())

    without = np.array([log([j for j in range(n) if j != i]) for i in range(n)])
    wanted = (n - 1) / n * np.square(without - without.mean()).sum()
    assert float(pairs._deleted(ha, hb, torch.tensor(0.0))) == pytest.approx(wanted)


def test_a_row_without_which_nothing_is_left_leaves_the_linearised_jackknife():
    b = torch.zeros(10, 10, dtype=torch.float64)
    b[0], b[:, 0] = 1.0, 1.0
    own = torch.eye(10, dtype=torch.bool)
    ha, hb = (pairs._linearised(kernel.masked_fill(own, 0.0), own)[0] for kernel in (torch.ones_like(b), b))
    assert float(pairs._deleted(ha, hb, torch.tensor(0.7))) == pytest.approx(0.7)


def test_the_variance_is_the_geometric_mean_of_both_jackknives_where_rows_carry_the_error():
    a, b = skew_kernels(64, seed=1)
    n, own = len(a), torch.eye(64, dtype=torch.bool)
    ha, hb = (pairs._linearised(kernel.masked_fill(own, 0.0), own)[0] for kernel in (a, b))
    linear = 4 * (ha - hb).sum(-1).square().sum() / (n * (n - 1) * (n - 2) ** 2)
    deleted = pairs._deleted(ha, hb, linear)
    found, mean = float(log_ratio(a, b).variance), float((linear * deleted).sqrt())
    assert abs(mean - float(linear)) > 4 * abs(found - mean)  # else this shows nothing
    assert found == pytest.approx(mean, rel=0.02)


def test_pairs_that_are_a_count_have_the_interval_of_a_count(monkeypatch):
    """N of M pairs are 1 and no others: by Wilson log N/M has its middle z²/2N off, and (z/2N)² more variance than at N."""
    n, count, z = 120, 60, 1.96
    one, other = torch.triu_indices(n, n, 1)
    slope, shifts, more = pairs._slope_of_pairs, [], []
    for seed in range(20):
        drawn = torch.randperm(len(one), generator=torch.Generator().manual_seed(seed))[:count]
        b = torch.zeros(n, n, dtype=torch.float64)
        b[one[drawn], other[drawn]] = b[other[drawn], one[drawn]] = 1.0
        monkeypatch.setattr(pairs, "_slope_of_pairs", slope)
        found = log_ratio(torch.ones_like(b), b)
        monkeypatch.setattr(pairs, "_slope_of_pairs", lambda left, variance: 0 * variance)
        without = log_ratio(torch.ones_like(b), b)
        shifts.append(float(found.shift - without.shift))
        more.append(float(found.variance - without.variance))
    assert np.mean(shifts) == pytest.approx(-(z**2) / 2 / count, rel=0.15)
    assert np.mean(more) == pytest.approx((z / 2 / count) ** 2, rel=0.25)
