"""How many directions count: the cross-fitted AGOP against loops, its null against what the null is to keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from strandscope.errors import InputError
from strandscope.strand.kernels import Kernel
from strandscope.strand.relevant import _draws, relevant_directions
from strandscope.strand.relevant_fit import BANDWIDTHS, RIDGES, Machine, reduced, smooth

KERNELS = {
    "gaussian": lambda apart, bandwidth: torch.exp(-apart.square() / (2 * bandwidth**2)),
    "laplace": lambda apart, bandwidth: torch.exp(-apart / bandwidth),
}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(n=24, d=3):
    x = drawn(n, d)
    return x, torch.stack([torch.sin(2 * x[:, 0]), x[:, 1] + 0.3 * drawn(n, seed=1)], 1)


def rms_distance(points):
    return float(torch.cdist(points, points).square().mean().sqrt())


def best(kernel, points, wanted, unit):
    """Bandwidth and ridge whose n refits, each without one row, miss that row least."""
    n, errors = len(points), {}
    for multiple in BANDWIDTHS:
        values = KERNELS[kernel](torch.cdist(points, points), multiple * unit)
        for ridge in RIDGES:
            missed = 0.0
            for row in range(n):
                others = [k for k in range(n) if k != row]
                alphas = torch.linalg.solve(values[others][:, others] + ridge * torch.eye(n - 1).double(), wanted[others])
                missed += float((wanted[row] - values[row, others] @ alphas).square().sum())
            errors[multiple, ridge] = missed
    return min(errors, key=errors.__getitem__)


@pytest.mark.parametrize("kernel", ["gaussian", "laplace"])
def test_the_agop_is_that_of_machines_which_never_saw_the_row(kernel):
    """Gradients by automatic differentiation, leaving out by refits; times the share of the variance foretold."""
    points, wanted = planted()
    fold_of, unit = np.arange(24) % 4, rms_distance(points)
    total, missed, spread = torch.zeros(3, 3).double(), 0.0, 0.0
    for fold in range(4):
        train, held = torch.as_tensor(np.flatnonzero(fold_of != fold)), torch.as_tensor(np.flatnonzero(fold_of == fold))
        mean = wanted[train].mean(0)
        multiple, ridge = best(kernel, points[train], wanted[train] - mean, unit)
        value = lambda one, other, width=multiple * unit: KERNELS[kernel](torch.cdist(one, other), width)  # noqa: E731
        system = value(points[train], points[train]) + ridge * torch.eye(len(train)).double()
        alphas = torch.linalg.solve(system, wanted[train] - mean)
        machine = lambda z, at=points[train], weights=alphas, of=value: (of(z[None], at) @ weights)[0]  # noqa: E731
        for row in held:
            slope = torch.autograd.functional.jacobian(machine, points[row])  # (outputs, d)
            total += slope.T @ slope
            missed += float((wanted[row] - mean - machine(points[row])).square().sum())
            spread += float((wanted[row] - mean).square().sum())
    found = Machine.of(Kernel(kernel), points, fold_of).agop(wanted[:, None])[0]
    assert missed < spread
    torch.testing.assert_close(found, total / 24 * (1 - missed / spread), rtol=1e-6, atol=1e-8)


def test_many_label_vectors_are_each_as_alone():
    points, wanted = planted()
    machine = Machine.of(Kernel("gaussian"), points, np.arange(24) % 4)
    many = torch.stack([wanted, wanted.flip(0), 3 * wanted + 1], 1)
    together = machine.agop(many)
    for column in range(3):
        torch.testing.assert_close(together[column], machine.agop(many[:, [column]])[0])
    torch.testing.assert_close(together[2], 9 * together[0])


def test_a_smooth_fit_is_the_best_by_leaving_one_out_applied_twice():
    points, wanted = planted()
    found = smooth(Kernel("gaussian"), points, wanted)
    centred = wanted - wanted.mean(0)
    multiple, ridge = best("gaussian", points, centred, rms_distance(points))
    assert float(found.bandwidth) == pytest.approx(multiple * rms_distance(points)) and found.multiple == multiple
    values = KERNELS["gaussian"](torch.cdist(points, points), multiple * rms_distance(points))
    hat = values @ torch.linalg.inv(values + ridge * torch.eye(24).double())
    torch.testing.assert_close(found.fitted, wanted.mean(0) + hat @ centred + hat @ (centred - hat @ centred))


def test_null_labels_keep_what_groups_have_in_common():
    """No direction: whole groups are exchanged. One: its part stays, and residuals change sign group by group."""
    groups = np.arange(40) // 4
    points = drawn(40, 3)
    machine = Machine.of(Kernel("gaussian"), points, groups % 5)
    shared = drawn(10, 1, seed=2)[torch.as_tensor(groups)]
    null = _draws(machine, 0, shared, groups, 30, np.random.default_rng(0))
    by_group = null[..., 0].reshape(10, 4, 30)
    assert bool((by_group == by_group[:, :1]).all()) and not bool((by_group[:, 0, 0] == by_group[:, 0, 1]).all())
    torch.testing.assert_close(by_group[:, 0].sort(0).values, shared[::4].sort(0).values.expand(10, 30))

    wanted = torch.sin(points[:, :1]) + 0.3 * drawn(40, 1, seed=3)
    fitted, residual = reduced(machine, wanted, 1)
    assert float(residual.mean().abs()) < 1e-12
    signs = ((_draws(machine, 1, wanted, groups, 30, np.random.default_rng(0)) - fitted[:, None]) / residual[:, None])[..., 0]
    torch.testing.assert_close(signs.abs(), torch.ones(40, 30).double())
    signs = signs.round().reshape(10, 4, 30)
    assert bool((signs == signs[:, :1]).all()) and bool((signs[:, 0].std(1) > 0.5).all()) and bool((signs[:, 0].std(0) > 0).all())
    alone = _draws(machine, 1, wanted, np.arange(40), 30, np.random.default_rng(0)) - fitted[:, None]
    torch.testing.assert_close(alone[..., 0].sort(0).values, residual.sort(0).values.expand(40, 30))


def test_rows_of_a_group_do_not_foretell_each_other():
    """Eight rows that are next to the same, with labels by luck: nothing is foretold, so no gradient counts."""
    groups = np.repeat(np.arange(10), 8)
    states = drawn(10, 2, seed=5)[torch.as_tensor(groups)] + 1e-2 * drawn(80, 2, seed=6)
    labels = drawn(10, seed=8)[torch.as_tensor(groups)]
    held = relevant_directions(states, labels, groups, permutations=19)
    blind = relevant_directions(states, labels, permutations=19)
    assert float(held.eigenvalues.abs().max()) == 0.0 and held.dimension.value == 0
    assert float(blind.eigenvalues.max()) > 0 and blind.dimension.value > 0


def test_eigenvalues_are_tested_in_turn_until_the_first_that_fails():
    x = drawn(120, 5)
    found = relevant_directions(x, x[:, 0] + 0.3 * drawn(120, seed=1), permutations=39)
    assert found.p_values[0] == 1 / 40  # the labels as they came are one of forty
    assert len(found.p_values) == len(found.bounds) == 2 and found.p_values[1] > 0.05
    assert found.dimension.value == found.dimension.low == 1 and found.dimension.high == 5 and found.dimension.level == 0.95
    assert found.bounds != relevant_directions(x, x[:, 0] + 0.3 * drawn(120, seed=1), permutations=39, seed=1).bounds


def test_a_coordinate_s_unit_does_not_matter_where_coordinates_are_standardised():
    """What counts has the smallest unit by far: raw, it is lost among the others."""
    units = torch.tensor([1.0, 1e-4, 50.0, 7.0]).double()
    x = drawn(80, 4)
    y = x[:, 1] + 0.3 * drawn(80, seed=1)
    found = relevant_directions(x * units, y, permutations=19, most=1)
    assert found.dimension.value == 1 and abs(float(found.directions[1, 0])) > 0.9
    torch.testing.assert_close(found.scale, x.std(0, correction=0) * units)
    raw = relevant_directions(x * units, y, permutations=19, most=1, standardise=False)
    assert raw.dimension.value == 0 and bool((raw.scale == 1).all()) and "raw coordinates" in raw.dimension.method


def test_the_order_of_rows_in_groups_does_not_matter():
    groups = np.arange(60) // 3
    x = drawn(60, 3) + drawn(20, 3, seed=4)[torch.as_tensor(groups)]
    y = x[:, 0] + 0.5 * drawn(60, seed=1)
    order = np.random.default_rng(0).permutation(60)
    one = relevant_directions(x, y, groups, permutations=19)
    other = relevant_directions(x[torch.as_tensor(order)], y[torch.as_tensor(order)], groups[order], permutations=19)
    torch.testing.assert_close(other.eigenvalues, one.eigenvalues)


def test_a_kernel_that_does_not_turn_is_refused():
    with pytest.raises(InputError, match="a radial kernel, p = 2"):
        relevant_directions(drawn(20, 3), drawn(20), kernel=Kernel("laplace", 1.0))
