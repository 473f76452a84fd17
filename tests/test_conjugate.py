"""Conjugate gradients: as many steps as there are different eigenvalues, one where the preconditioner is the system itself."""

from __future__ import annotations

import pytest
import torch

from strandscope.strand.conjugate import Preconditioner, conjugate_gradients

EYE = torch.eye(6, dtype=torch.float64)
THREE = torch.tensor([1.0, 1.0, 10.0, 10.0, 100.0, 100.0], dtype=torch.float64)  # three different eigenvalues


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solved(right, tolerance=1e-8, most=50):
    return conjugate_gradients(Preconditioner(EYE, EYE, 0.0), lambda alphas: THREE[:, None] * alphas, right, tolerance, most)


def test_steps_are_as_many_as_eigenvalues():
    right = drawn(6, 1)
    found = solved(right)
    assert found.steps == 3 and found.outcome == "solved"
    torch.testing.assert_close(found.alphas, right / THREE[:, None])


def test_every_output_has_its_own_step_and_the_worst_decides():
    """The first output lies along one eigenvector and is solved at once."""
    right = torch.cat([EYE[:, :1], drawn(6, 1, seed=1), 1e3 * drawn(6, 1, seed=2)], 1)
    for most in (1, 2):
        together = solved(right, most=most)
        for column in range(3):
            torch.testing.assert_close(together.alphas[:, [column]], solved(right[:, [column]], most=most).alphas)
        assert together.residual == pytest.approx(max(solved(right[:, [column]], most=most).residual for column in range(3)))
        assert together.outcome.startswith("not solved") and f"after {most} steps" in together.outcome
    assert solved(right).outcome == "solved" and solved(right).steps == 3


@pytest.mark.parametrize("times", [1, 5])
def test_rows_that_are_the_centres_so_many_times_take_one_step(times):
    """Then K_nmᵀK_nm is (n/m)·K_mmK_mm, of which the preconditioner is the exact factor, whatever the ridge."""
    centres = drawn(12, 3)
    kernel = torch.exp(-torch.cdist(centres, centres))
    preconditioner, refused = Preconditioner.of(kernel, 0.3, 12 * times)
    assert preconditioner is not None and not refused
    right = drawn(12, 2, seed=1)
    found = conjugate_gradients(preconditioner, lambda alphas: times * kernel @ (kernel @ alphas), right, 1e-6, 20)
    assert found.steps == 1
    torch.testing.assert_close(
        found.alphas, torch.linalg.solve(times * kernel @ kernel + 0.3 * kernel, right), rtol=1e-6, atol=1e-6
    )


def test_what_has_no_factor_is_told():
    indefinite = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    none, refused = Preconditioner.of(indefinite, 0.1, 4)
    assert none is None and "not positive definite (from centre 2 on)" in refused
    none, refused = Preconditioner.of(EYE, -3.0, 12)
    assert none is None and "with ridge -3" in refused
