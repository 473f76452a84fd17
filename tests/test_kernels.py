"""Kernels: values as written down, gradients as automatic differentiation has them, in float64; float32 near it."""

from __future__ import annotations

import pytest
import torch

from strandscope.errors import InputError
from strandscope.strand.kernels import Kernel, gradients, outer_products, profile

KERNELS = [
    Kernel("laplace"),
    Kernel("laplace", 2.0, 0.7),
    Kernel("gaussian"),
    Kernel("quadratic"),
    Kernel("linear"),
    Kernel("laplace", 1.0, 1.0),
    Kernel("laplace", 1.3, 0.9),
]
N, M, D, OUT, L = 9, 5, 4, 3, 1.7


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def metric_of(diagonal):
    root = drawn(D, D, seed=3)
    return root.diagonal().square() + 0.1 if diagonal else root @ root.T


def written(kernel, bandwidth, z, x, metric):
    """One value of the kernel between two points, as the paper writes it, for a dense metric."""
    if kernel.family in ("quadratic", "linear"):
        product = x @ metric @ z
        return product**2 if kernel.family == "quadratic" else product
    apart = z - x
    if kernel.p != 2:
        distance = ((metric.diagonal().sqrt() * apart).abs() ** kernel.p).sum() ** (1 / kernel.p)
        return torch.exp(-((distance / bandwidth) ** kernel.q))
    squared = apart @ metric @ apart
    if kernel.family == "gaussian":
        return torch.exp(-squared / (2 * bandwidth**2))
    return torch.exp(-((squared.sqrt() / bandwidth) ** kernel.q))


def cases():
    for kernel in KERNELS:
        for diagonal in (True, False):
            if kernel.p == 2 or diagonal:
                yield pytest.param(kernel, diagonal, id=f"{kernel}, {'diagonal' if diagonal else 'full'}")


@pytest.mark.parametrize(("kernel", "diagonal"), list(cases()))
def test_values_and_gradients_are_those_of_the_formula(kernel, diagonal):
    points, centres, alphas, metric = drawn(M, D), drawn(N, D, seed=1), drawn(N, seed=2), metric_of(diagonal)
    dense = torch.diag(metric) if diagonal else metric
    seen = profile(kernel, L, points, centres, metric, diagonal=diagonal)
    wanted = torch.stack([torch.stack([written(kernel, L, z, x, dense) for x in centres]) for z in points])
    torch.testing.assert_close(seen.values, wanted)

    def f(z):
        return sum(alpha * written(kernel, L, z, x, dense) for alpha, x in zip(alphas, centres, strict=True))

    slopes = torch.stack([torch.func.grad(f)(z) for z in points])
    torch.testing.assert_close(gradients(kernel, seen.slopes, alphas, points, centres, metric, diagonal=diagonal), slopes)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_no_metric_is_the_identity(kernel):
    points, centres = drawn(M, D), drawn(N, D, seed=1)
    one, other = profile(kernel, L, points, centres), profile(kernel, L, points, centres, torch.ones(D).double(), diagonal=True)
    torch.testing.assert_close(one.values, other.values)
    torch.testing.assert_close(one.slopes, other.slopes)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel.p == 2], ids=str)
@pytest.mark.parametrize("outputs", [1, 2, 40])  # one product of n × n matrices takes over where outputs are many
def test_outer_products_are_the_mean_over_rows_of_the_gradients(kernel, centred, outputs):
    rows, alphas, metric = drawn(N, D), drawn(N, outputs, seed=1), metric_of(False)
    slopes = profile(kernel, L, rows, rows, metric).slopes
    each = torch.stack([gradients(kernel, slopes, column, rows, rows, metric) for column in alphas.T])
    each = each - each.mean(1, keepdim=True) if centred else each
    wanted = torch.einsum("kni,knj->ij", each, each) / N
    torch.testing.assert_close(outer_products(kernel, slopes, alphas, rows, metric, centred=centred), wanted)
    if outputs < 40:
        diagonal = outer_products(kernel, slopes, alphas, rows, metric.diagonal(), diagonal=True, centred=centred)
        each = torch.stack(
            [gradients(kernel, slopes, column, rows, rows, metric.diagonal(), diagonal=True) for column in alphas.T]
        )
        each = each - each.mean(1, keepdim=True) if centred else each
        torch.testing.assert_close(diagonal, each.square().sum(0).mean(0))


def test_sites_are_computed_as_each_alone():
    points, centres = drawn(3, M, D), drawn(3, N, D, seed=1)
    root = drawn(3, D, D, seed=2)
    metric, bandwidth = root @ root.mT, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for kernel in KERNELS[:5]:
        together = profile(kernel, bandwidth, points, centres, metric)
        for site in range(3):
            alone = profile(kernel, float(bandwidth[site]), points[site], centres[site], metric[site])
            torch.testing.assert_close(together.values[site], alone.values)
            torch.testing.assert_close(together.slopes[site], alone.slopes)


@pytest.mark.parametrize("kernel", KERNELS[:5], ids=str)
def test_float32_is_near_float64(kernel):
    rows = drawn(60, 30)
    one, other = profile(kernel, 3.0, rows, rows), profile(kernel, 3.0, rows.float(), rows.float())
    torch.testing.assert_close(other.values.double(), one.values, rtol=2e-3, atol=1e-4)


def test_where_rows_meet_a_laplace_kernel_has_no_gradient():
    rows = drawn(4, D)
    rows = torch.cat([rows, rows[:1]])
    for kernel in (Kernel("laplace"), Kernel("laplace", 1.0, 1.0)):
        slopes = profile(kernel, L, rows, rows).slopes
        assert bool(torch.isfinite(slopes).all())
        assert slopes[0, 4] == 0 and slopes[0, 0] == 0 and slopes[0, 1] < 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Kernel("cubic"), "wanted one of laplace, gaussian"),  # type: ignore[arg-type]
        (lambda: Kernel("laplace", 1.0, 1.5), "wanted 0 < q ≤ p ≤ 2"),
        (lambda: Kernel("gaussian", 1.0, 1.0), "belong to 'laplace'"),
        (lambda: profile(Kernel("laplace", 1.0), L, drawn(2, D), drawn(2, D), torch.eye(D).double()), "along the axes alone"),
    ],
)
def test_what_cannot_be_is_said(make, said):
    with pytest.raises(InputError, match=said):
        make()
