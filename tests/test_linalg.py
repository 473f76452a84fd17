"""Eigenpairs with bounds that hold, and angles that are right at both ends."""

from __future__ import annotations

import math

import pytest
import torch

from strandscope import linalg
from strandscope.errors import InputError, TrustError


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (12, 12)])
def test_rows_have_the_spectrum_of_their_outer_products_whichever_side_is_smaller(shape):
    rows = drawn(*shape)
    wanted = torch.linalg.eigvalsh(rows.T @ rows / len(rows)).flip(0)
    found = linalg.top_of_rows(rows, 5)
    assert torch.allclose(found.values, wanted[:5], rtol=1e-10)
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(5, dtype=torch.float64), atol=1e-10)
    assert float(found.residuals.max()) < 1e-10 * found.trace
    assert found.trace == pytest.approx(float(wanted.sum()))
    assert found.share == pytest.approx(float(wanted[:5].sum() / wanted.sum()))


def test_rank_below_k_still_gives_an_orthonormal_basis_and_zero_eigenvalues():
    rows = drawn(6, 2) @ drawn(2, 30, seed=1)
    found = linalg.top_of_rows(rows, 4)
    assert float(found.values[2:].max()) < 1e-12 and float(found.residuals.max()) < 1e-10
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(4, dtype=torch.float64), atol=1e-10)


def test_the_residual_bounds_the_distance_to_an_eigenvalue():
    """Vectors that are off by 1e-3 have values that are off by less than their residual."""
    matrix = drawn(20, 20)
    matrix = matrix @ matrix.T
    true = torch.linalg.eigvalsh(matrix)
    vectors = torch.linalg.qr(linalg.eigh(matrix)[1][:, :4] + 1e-3 * drawn(20, 4, seed=1)).Q
    values = (vectors * (matrix @ vectors)).sum(0)
    residuals = (matrix @ vectors - vectors * values).norm(dim=0)
    assert bool(((values[:, None] - true).abs().min(1).values <= residuals).all())
    assert torch.allclose(linalg.top_of_matrix(matrix, 4).values, true.flip(0)[:4])


def test_angles_are_exact_where_they_are_tiny_and_where_they_are_right():
    for angle in (1e-9, 1e-3, 0.7, math.pi / 2):
        first = torch.eye(5, dtype=torch.float64)[:, :2]
        second = torch.eye(5, dtype=torch.float64)[:, [0, 1]].clone()
        second[1, 1], second[3, 1] = math.cos(angle), math.sin(angle)
        found = linalg.principal_angles(first, second)
        assert found.tolist() == pytest.approx([0.0, angle], rel=1e-6, abs=1e-15)
        assert linalg.principal_angles(3 * second, first @ drawn(2, 2)).tolist() == pytest.approx(
            [0.0, angle], rel=1e-6, abs=1e-14
        )


def test_subspaces_of_different_ranks_have_as_many_angles_as_the_smaller():
    basis = torch.eye(6, dtype=torch.float64)
    for first, second in ((basis[:, :4], basis[:, 3:5]), (basis[:, 3:5], basis[:, :4])):
        assert linalg.principal_angles(first, second).tolist() == pytest.approx([0.0, math.pi / 2])


def test_the_share_of_a_subspace_is_that_of_its_trace():
    matrix = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert linalg.subspace_share(matrix, torch.eye(4, dtype=torch.float64)[:, 1:3]) == pytest.approx(0.5)


def test_bad_matrices_are_told_in_a_sentence():
    square = torch.eye(3)
    for call, words in (
        (lambda: linalg.eigh(torch.zeros(2, 3)), "wanted a square matrix"),
        (lambda: linalg.eigh(torch.triu(torch.ones(3, 3))), "not symmetric"),
        (lambda: linalg.top_of_matrix(square, 4), "k: got 4, wanted 1 to 3"),
        (lambda: linalg.top_of_rows(drawn(3, 9), 4), "k: got 4, wanted 1 to 3"),
        (lambda: linalg.top_of_rows(torch.tensor([[1.0, 2.0], [3.0, math.nan]]), 1), "rows: row 1 holds a NaN"),
        (lambda: linalg.finite(torch.arange(3), "codes"), "got int64"),
        (lambda: linalg.orthonormal_basis(torch.ones(4, 2)), "linearly dependent"),
        (lambda: linalg.principal_angles(square, torch.eye(4)), "wanted 3 as in first"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_a_solver_that_fails_is_an_outcome_and_not_another_solver(monkeypatch):
    def fails(_):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    with pytest.raises(TrustError, match="could not be computed"):
        linalg.top_of_rows(drawn(4, 9), 2)
