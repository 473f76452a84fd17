"""What is read from a curvature operator: eigenvalues, density, trace, noise and sharpness, against dense float64 answers."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from curved import BATCHES, CODES, X, network, normal, rotated, seeded
from strandscope.errors import InputError
from strandscope.statistics.curvature import (
    NoiseSums,
    batch_gradients,
    batch_sharpness,
    bottom_eigenvalues,
    edge,
    gradient_noise,
    hessian,
    hutch_plus_plus,
    merged,
    of_matrix,
    over_data,
    spectral_density,
    stability,
    top_eigenvalues,
    trace,
)

# --- eigenvalues ---


@pytest.mark.parametrize("values", [range(-60, 40), [1.0] * 30, [2.0, 2, 1, -9, 0], [0.0] * 4, [1 / i**2 for i in range(1, 200)]])
def test_both_ends_of_a_spectrum_algebraically(values):
    operator, k = of_matrix(rotated(list(values))), min(4, len(values))
    ordered = sorted(map(float, values))
    top = top_eigenvalues(operator, k, generator=seeded(), tolerance=1e-8)
    bottom = bottom_eigenvalues(operator, k, generator=seeded(), tolerance=1e-8)
    scale = max(map(abs, ordered)) or 1.0
    np.testing.assert_allclose(top.values, ordered[::-1][:k], atol=1e-8 * scale)
    np.testing.assert_allclose(bottom.values, ordered[:k], atol=1e-8 * scale)
    for found in (top, bottom):
        assert all(found.converged) and float(found.residuals.max()) <= 1e-8 * scale
        torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(k, dtype=torch.float64), atol=1e-7, rtol=0)


def test_restarts_find_what_a_basis_of_all_vectors_finds():
    operator = of_matrix(rotated(np.linspace(0, 1, 300)))
    roomy, tight = (top_eigenvalues(operator, 3, generator=seeded(), limit=limit) for limit in (1 << 31, 8 * 300 * 13))
    assert tight.products > roomy.products
    np.testing.assert_allclose(tight.values, roomy.values, atol=1e-6)


def test_single_precision_keeps_its_bound():
    net = network(nn.Tanh(), dtype=torch.float32)
    wide = copy.deepcopy(net).double()
    operator = hessian(lambda: F.cross_entropy(net(X.float()), CODES), net)
    assert operator.dtype == torch.float32
    truth = torch.linalg.eigvalsh(hessian(lambda: F.cross_entropy(wide(X), CODES), wide).dense()).flip(0)
    found = top_eigenvalues(operator, 3, generator=seeded(), tolerance=1e-5)
    assert all(found.converged)
    assert ((found.values - truth[:3]).abs() <= found.residuals + 1e-6 * truth[0]).all()


def test_residuals_that_rounding_left_join_the_vectors_and_nothing_is_lost_where_there_are_none():
    """Of so many coordinates an fp32 basis stops at 1e-5 of the longest; a product itself is good to 1e-8 here."""
    size = 200_000
    values = torch.cat([torch.tensor([100.0, 50, 30, 20, 15]), torch.linspace(-1, 1, size - 5)]).double()
    wide = of_matrix(torch.eye(2))
    single = replace(wide, size=size, dtype=torch.float32, product=lambda v: (values * v.double()).float())
    loose, tight = (top_eigenvalues(single, 5, generator=seeded(), tolerance=tolerance) for tolerance in (1e-4, 3e-7))
    assert all(tight.converged) and float(tight.residuals.max()) < 1e-5 < float(loose.residuals.max())
    assert torch.allclose(tight.values, values[:5], rtol=1e-9) and tight.vectors.dtype == torch.float32
    exact = top_eigenvalues(of_matrix(torch.diag(torch.tensor([5.0, 3, 1, 0, 0, 0]))), 2, generator=seeded(), tolerance=1e-15)
    assert exact.values.tolist() == pytest.approx([5, 3], abs=1e-12)


def test_readings_say_what_they_bound_and_refuse_what_has_not_converged():
    operator = of_matrix(rotated(np.linspace(0, 1, 300)))
    reading = top_eigenvalues(operator, 1, generator=seeded()).reading()
    assert reading.low <= 1.0 <= reading.high and reading.level == 1.0 and "numerical error only" in reading.method
    hasty = top_eigenvalues(operator, 1, generator=seeded(), most=6, tolerance=1e-6).reading()
    assert hasty.status == "not measured" and "allow more products" in hasty.reason
    few = merged(*(of_matrix(rotated([1.0, 2.0], seed=s)) for s in range(3)))
    assert "3 batches; at least 8" in over_data(few, generator=seeded()).reason


def test_the_jackknife_leaves_out_each_batch():
    rows = normal(64, 5) * torch.tensor([3.0, 1, 1, 1, 1])
    parts = [part.T @ part / 8 for part in rows.split(8)]
    reading = over_data(merged(*map(of_matrix, parts)), generator=seeded(), tolerance=1e-8)
    whole = sum(parts) / 8

    def top(matrix):
        return float(torch.linalg.eigvalsh(matrix)[-1])

    left = np.array([top((8 * whole - part) / 7) for part in parts])
    assert reading.value == pytest.approx(8 * top(whole) - 7 * left.mean())
    error = (7 / 8 * np.square(left - left.mean()).sum()) ** 0.5
    assert reading.high - reading.value == pytest.approx(2.3646 * error, rel=1e-4)


# --- density, trace, noise, sharpness ---


def test_moments_of_a_density_are_those_of_its_probes():
    values = torch.linspace(-1, 3, 40, dtype=torch.float64)
    found = spectral_density(of_matrix(torch.diag(values)), generator=seeded(), probes=5, steps=4)
    for order in range(1, 8):  # signs weigh a diagonal matrix evenly, so that every probe is exact
        each = (found.weights * found.nodes**order).sum(1)
        np.testing.assert_allclose(each, float((values**order).mean()), rtol=1e-9)
    assert float((found.weights.sum(1) - 1).abs().max()) < 1e-12
    wide = found.below(1.0)
    assert wide.low < 0.5 < wide.high and wide.low <= wide.value <= wide.high
    assert (found.below(-2.0).value, found.below(4.0).value) == pytest.approx((0, 1))


def test_densities_and_traces_merge():
    operator, generator = of_matrix(rotated(np.linspace(-1, 3, 30))), seeded()
    one = spectral_density(operator, generator=generator, probes=3, steps=5)
    two = spectral_density(operator, generator=generator, probes=4, steps=5)
    whole = spectral_density(operator, generator=seeded(), probes=7, steps=5)
    torch.testing.assert_close(one.merge(two).nodes, whole.nodes)
    torch.testing.assert_close(one.merge(two).weights, whole.weights)
    with pytest.raises(InputError, match="steps is 5 here and 6 there"):
        one.merge(spectral_density(operator, generator=generator, probes=1, steps=6))
    generator = seeded()
    halves = trace(operator, 3, generator=generator).merge(trace(operator, 4, generator=generator))
    torch.testing.assert_close(halves.samples, trace(operator, 7, generator=seeded()).samples)
    assert halves.products == 7 and "3 probes" in trace(operator, 3, generator=seeded()).reading().reason


def test_hutchinson_s_variance_is_the_closed_form():
    matrix = rotated(np.linspace(-1, 3, 30))
    samples = trace(of_matrix(matrix), 4000, generator=seeded()).samples
    variance = 2 * float(matrix.square().sum() - matrix.diagonal().square().sum())
    assert float(samples.var()) == pytest.approx(variance, rel=0.1)


def test_hutch_plus_plus_is_exact_where_its_range_holds_all():
    matrix = rotated([5.0, -3, 2] + [0.0] * 30)
    found = hutch_plus_plus(of_matrix(matrix), 12, generator=seeded())
    np.testing.assert_allclose(found.samples, 4.0, atol=1e-10)


def test_noise_of_single_rows_is_their_covariance_and_shards_merge():
    rows = normal(200, 6) + 0.5
    whole, parts = NoiseSums(6), [NoiseSums(6) for _ in range(2)]
    for number, row in enumerate(rows):
        whole.update(row, 1)
        parts[number >= 96].update(row, 1)
    parts[0].merge(parts[1])
    covariance = torch.cov(rows.T)
    mean = rows.mean(0)
    for found in (whole.result(), parts[0].result()):
        assert found.scatter == pytest.approx(float(covariance.trace()))
        assert found.square == pytest.approx(float(mean @ mean - covariance.trace() / 200))
    torch.testing.assert_close(whole.result().left, parts[0].result().left)
    kept = NoiseSums(6)
    kept.load_state_dict(whole.state_dict())
    assert kept.result().scale() == whole.result().scale()
    left = rows[torch.arange(200) % 16 != 3]
    assert float(whole.result().left[3, 0]) == pytest.approx(float(torch.cov(left.T).trace()))


def test_noise_without_a_gradient_is_not_measured():
    sums = NoiseSums(6)
    for row in normal(64, 6) - normal(64, 6).mean(0):
        sums.update(row, 1)
    assert "cannot be told from 0; add batches" in sums.result().scale().reason
    few = NoiseSums(6)
    for row in normal(4, 6):
        few.update(row, 1)
    assert "4 batches make 4 groups" in few.result().scale().reason


def test_noise_of_a_network_is_that_of_its_batches():
    net = network(nn.Tanh())

    def loss(b):
        return F.cross_entropy(net(b[0]), b[1], reduction="none")

    sums = NoiseSums(43)
    for x, y in BATCHES:
        slopes = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
        sums.update(torch.cat([part.reshape(-1) for part in slopes]), len(x))
    found = gradient_noise(loss, net, BATCHES)
    assert (found.scatter, found.square) == pytest.approx((sums.result().scatter, sums.result().square))
    assert [rows for rows, _ in batch_gradients(loss, net, BATCHES)] == [5, 8, 1]


def test_the_edge_of_descent_is_where_a_quadratic_diverges():
    """x ← x − η(λx) with momentum, run on both sides of the edge."""
    for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True)):
        step = 0.1
        for factor, diverges in ((0.99, False), (1.01, True)):
            curvature, x, v = factor * edge(step, momentum, nesterov=nesterov), 1.0, 0.0
            for _ in range(4000):
                ahead = x + momentum * v if nesterov else x
                v = momentum * v - step * curvature * ahead
                x += v
            assert (abs(x) > 1) == diverges
    sharp = top_eigenvalues(of_matrix(rotated([30.0, 1])), 1, generator=seeded()).reading()
    found = stability(sharp, 0.1)
    assert found.value == pytest.approx(1.5) and "plain descent" in found.method and found.unit == "of the edge"


def test_batch_sharpness_wants_batches_with_a_gradient():
    net = network(nn.Tanh())
    reading = batch_sharpness(lambda b: F.cross_entropy(net(b[0]), b[1], reduction="none"), net, BATCHES)
    assert "3 batches; at least 4" in reading.reason
