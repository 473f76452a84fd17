"""AGOPs of functions with known gradients: closed forms, all outputs against probes, every form against the dense one."""

from __future__ import annotations

import math

import pytest
import torch

from strandscope.errors import InputError
from strandscope.strand.agop import agop

D = 12


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batches(n=4000, d=D, size=1000, seed=0, shift=0.0):
    return list((normal(n, d, seed=seed) + shift).split(size))


def product(x):
    return x[:, 0] * x[:, 1]


def test_a_product_of_two_has_the_unit_matrix_of_their_plane():
    """E∇f∇fᵀ of x₁x₂ is diag(1, 1, 0, …), and of given points the mean squares of the other factor."""
    data = batches()
    found = agop(product, data)
    x = torch.cat(data)
    wanted = torch.zeros(D, D, dtype=torch.float64)
    wanted[:2, :2] = torch.stack([x[:, [1, 0]]]).squeeze(0).T @ x[:, [1, 0]] / len(x)
    assert torch.allclose(found.matrix(), wanted)
    spectrum = found.top(3)
    assert spectrum.values.tolist() == pytest.approx([1.0, 1.0, 0.0], abs=0.06)
    assert spectrum.share == pytest.approx(1.0) and float(spectrum.residuals.max()) < 1e-12
    assert (found.n, found.outputs, found.probes) == (4000, 1, None)


def test_a_quadratic_form_has_the_square_of_its_matrix_and_is_centred_already():
    matrix = normal(D, D)
    matrix = (matrix + matrix.T) / 2
    data = batches(20000, size=5000)
    found = agop(lambda x: 0.5 * (x @ matrix * x).sum(1), data)
    covariance = torch.cat(data).T @ torch.cat(data) / 20000
    assert torch.allclose(found.matrix(), matrix @ covariance @ matrix)
    assert float((found.matrix() - matrix @ matrix).norm() / (matrix @ matrix).norm()) < 0.05
    mean = torch.cat(data).mean(0) @ matrix
    assert torch.allclose(found.matrix(centred=True), found.matrix() - torch.outer(mean, mean))


def test_centring_takes_a_linear_function_away_whole():
    weights = normal(D, 3)
    for probes in (None, 4):
        found = agop(lambda x: x @ weights, batches(3000, shift=5.0), probes=probes)
        assert float(found.matrix(centred=True).norm()) < (1e-10 if probes is None else 0.1) * float((weights @ weights.T).norm())
    assert torch.allclose(agop(lambda x: x @ weights, batches()).matrix(), weights @ weights.T)


def several(x):
    return torch.stack([x[:, 0] ** 3, x[:, 1] * x[:, 2], x[:, 3].sin() + 2 * x[:, 3], x.sum(1)], 1)


def test_all_outputs_are_those_of_single_jacobians():
    data = batches(50, size=20)
    jacobians = torch.cat([torch.func.vmap(torch.func.jacrev(lambda row: several(row[None])[0]))(x) for x in data])
    found = agop(several, data)
    raw = torch.einsum("nca,ncb->ab", jacobians, jacobians) / 50
    apart = jacobians - jacobians.mean(0)
    assert torch.allclose(found.matrix(), raw) and found.trace == pytest.approx(float(raw.trace()))
    assert torch.allclose(found.mean, jacobians.mean(0))
    assert torch.allclose(found.matrix(centred=True), torch.einsum("nca,ncb->ab", apart, apart) / 50, atol=1e-12)


@pytest.mark.parametrize("centred", [False, True])
def test_probes_are_unbiased(centred):
    data = batches(40, size=40)
    wanted = agop(several, data).matrix(centred=centred)
    draws = torch.stack([agop(several, data, probes=2, seed=seed).matrix(centred=centred) for seed in range(400)])
    error = draws.std(0) / 20
    assert float(((draws.mean(0) - wanted).abs() / (error + 1e-3 * float(wanted.abs().max()))).max()) < 4.5


@pytest.mark.parametrize("probes", [None, 3])
@pytest.mark.parametrize("centred", [False, True])
def test_every_form_gives_the_same_top(probes, centred):
    """Of rank 4 or less, so that the sketch is exact too."""
    data = batches(30, d=40, size=7)
    dense, gram, sketch = (
        agop(several_few, data, probes=probes, form=form, k=6, most=200).top(3, centred=centred)
        for form in ("dense", "gram", "sketch")
    )
    for other in (gram, sketch):
        assert torch.allclose(other.values, dense.values, rtol=1e-6)
        assert other.trace == pytest.approx(dense.trace)
        assert float((other.vectors.T @ dense.vectors).abs().diagonal().min()) > 1 - 1e-6


def several_few(x):
    return torch.stack([x[:, 0] ** 3, x[:, 1] * x[:, 2], x[:, 3].sin() + 2 * x[:, 3]], 1)


@pytest.mark.parametrize("size", [1, 7, 200])
def test_batches_of_any_size_give_the_same(size):
    data = normal(200, D)
    whole, split = agop(several, [data]), agop(several, data.split(size))
    assert torch.allclose(split.matrix(), whole.matrix()) and torch.allclose(split.mean, whole.mean)


def test_inputs_of_any_shape_are_flattened():
    data = normal(30, 3, 4)
    found = agop(lambda x: (x[:, 0] * x[:, 1]).sum(1), [data])
    assert found.matrix().shape == (12, 12) and found.top(8).share == pytest.approx(1.0)


def test_what_is_no_function_of_rows_is_told_in_a_sentence():
    norm = torch.nn.BatchNorm1d(D).double()
    for call, words in (
        (lambda: agop(norm, batches(100, size=50)), "depends on the other rows"),
        (lambda: agop(lambda x: x.detach(), batches()), "has no gradient"),
        (lambda: agop(lambda x: x.sum(), batches()), r"gave shape \(\) for 1000 inputs"),
        (lambda: agop(product, []), "got none"),
        (lambda: agop(product, batches(), probes=0), "probes: got 0"),
        (lambda: agop(product, [torch.ones(5)]), r"wanted floating-point inputs \(n, …\)"),
        (lambda: agop(lambda x: x[:, 0].sqrt(), [torch.zeros(4, 2)]), "holds a NaN or an infinity"),
        (lambda: agop(product, batches(), form="gram", most=100), "wanted at most 100"),
        (lambda: agop(several, batches()).top(13), "k: got 13"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_memory_follows_from_a_stated_bound():
    found = agop(product, batches(500, d=2000, size=100), k=3, limit=10_000_000)
    spectrum = found.top(2)
    assert spectrum.values.tolist() == pytest.approx([1.0, 1.0], abs=0.2) and math.isclose(spectrum.share, 1.0, rel_tol=1e-6)
    with pytest.raises(InputError, match="32,000,000 bytes"):
        agop(product, batches(500, d=2000, size=100), form="dense", limit=10_000_000)
