"""Quantities of linear and kernel models: refusals, invariances, and what the standards do not run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from strandscope.errors import InputError, TrustError
from strandscope.standards import kernels
from strandscope.standards.run import run
from strandscope.statistics.kernel.alignment import alignment, centred, kernel_alignment, target_alignment
from strandscope.statistics.kernel.benign import benign_ranks, benign_split, excess_bound
from strandscope.statistics.kernel.descent import least_squares_risk
from strandscope.statistics.kernel.eigenlearning import eigenlearning, overfitting_coefficient
from strandscope.statistics.kernel.learnability import kernel_learner, learnabilities, parities, total_learnability
from strandscope.statistics.kernel.ridge import KernelRidge
from strandscope.statistics.tangent.closed import relu_kernel

QUICK = [case for case in kernels.STANDARDS if case.repetitions("fast") <= 20]


def made(seed: int, *shape: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_cheap_standards_are_green(case) -> None:
    assert run(case, "fast").verdict == "green"


# --- ridge ---


def test_leave_one_out_is_what_leaving_one_out_gives() -> None:
    rows, y, ridge = made(0, 12, 30), made(1, 12, 2), 0.1
    gram, n = rows @ rows.T, 12
    fit, errors = KernelRidge.of(gram, y), []
    for row in range(n):
        rest = [k for k in range(n) if k != row]
        alpha = torch.linalg.solve(gram[rest][:, rest] + n * ridge * torch.eye(n - 1, dtype=torch.float64), y[rest])
        errors.append(float((gram[row, rest] @ alpha - y[row]).square().sum()))
    assert fit.leave_one_out(ridge).value == pytest.approx(np.mean(errors), rel=1e-9)


def test_errors_of_two_outputs_and_their_intervals_are_those_of_a_solve() -> None:
    """On the fitted rows and on others: squares summed over outputs, and the t interval of their mean over rows."""
    rows, new, y, z, ridge, n = made(0, 12, 30), made(20, 9, 30), made(1, 12, 2), made(21, 9, 2), 0.1, 12
    gram = rows @ rows.T
    alpha = torch.linalg.solve(gram + n * ridge * torch.eye(n, dtype=torch.float64), y)
    fit = KernelRidge.of(gram, y)
    for found, left in (
        (fit.train_error(ridge), gram @ alpha - y),
        (fit.test_error(ridge, new @ rows.T, z), new @ rows.T @ alpha - z),
    ):
        squares = left.square().sum(1).numpy()
        interval = ttest_1samp(squares, 0.0).confidence_interval(0.95)
        assert found.value == pytest.approx(squares.mean(), rel=1e-9) and found.n == len(squares)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_a_ratio_of_errors_has_the_doubt_of_both() -> None:
    rows, new = made(4, 15, 40), made(6, 9, 40)
    fit = KernelRidge.of(rows @ rows.T, made(5, 15))
    told, found = fit.gcv(0.1), fit.test_error(0.1, new @ rows.T, made(7, 9))
    ratio = fit.gcv_ratio(0.1, new @ rows.T, made(7, 9))
    assert ratio.value == pytest.approx(told.value / found.value)
    reach = math.hypot(told.high / told.value - 1, found.high / found.value - 1)
    assert (math.log(ratio.high / ratio.value), math.log(ratio.value / ratio.low)) == pytest.approx((reach, reach))


def test_gcv_is_finite_without_a_ridge_and_continuous_there() -> None:
    rows, y = made(2, 20, 60), made(3, 20)
    fit = KernelRidge.of(rows @ rows.T, y)
    assert fit.train_error(0.0).value == 0.0
    assert fit.gcv(0.0).value == pytest.approx(fit.gcv(1e-9).value, rel=1e-6)
    assert fit.effective_dimension(0.0).value == pytest.approx(20)
    assert fit.effective_dimension(1e9).value < 1e-5


def test_other_targets_and_new_rows_need_no_new_decomposition() -> None:
    rows, y = made(4, 15, 40), made(5, 15)
    fit = KernelRidge.of(rows @ rows.T, y).again(-y)
    reading = fit.test_error(0.0, rows @ rows.T, -y)
    assert reading.value == pytest.approx(0.0, abs=1e-18) and reading.n == 15
    assert fit.gcv_ratio(0.1, made(6, 9, 40) @ rows.T, made(7, 9)).value > 0


UNIT = torch.eye(4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: KernelRidge.of(-torch.eye(4, dtype=torch.float64), made(0, 4)), "no kernel's"),
        (lambda: KernelRidge.of(UNIT, made(0, 5)), "targets"),
        (lambda: KernelRidge.of(torch.ones(4, 4, dtype=torch.float64), made(0, 4)).gcv(0.0), "singular"),
        (lambda: KernelRidge.of(UNIT, made(0, 4)).gcv(-1.0), "ridge"),
        (lambda: KernelRidge.of(UNIT, made(0, 4)).test_error(1.0, made(0, 3, 5), made(0, 3)), "cross"),
        (lambda: KernelRidge.of(UNIT, made(0, 4)).test_error(1.0, made(0, 3, 4), made(0, 3, 2)), "columns"),
        (lambda: eigenlearning(torch.tensor([1.0, -1.0]), 3), "below 0"),
        (lambda: eigenlearning(torch.zeros(3), 3), "above 0"),
        (lambda: eigenlearning(torch.ones(3), 0), "n: got 0"),
        (lambda: eigenlearning(torch.ones(3, 3), 1), "shape"),
        (lambda: benign_ranks(torch.ones(3), 3), "k: got 3"),
        (lambda: least_squares_risk(10, 3, -1.0, 1.0), "squared lengths"),
        (lambda: parities(13), "d: got 13"),
        (lambda: learnabilities(kernel_learner(torch.eye(4)), torch.ones(4, 2), np.arange(2)), "orthonormal"),
        (lambda: learnabilities(kernel_learner(torch.eye(4)), parities(2)[1], np.array([1, 1])), "different"),
        (lambda: kernel_alignment(torch.eye(9), torch.eye(8), np.random.default_rng(0)), "shapes"),
        (lambda: kernel_alignment(torch.ones(9, 9), torch.eye(9), np.random.default_rng(0)), "constant"),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence(call, word) -> None:
    with pytest.raises(InputError, match=word):
        call()


# --- eigenlearning and benign ranks ---


@pytest.mark.parametrize(("n", "ridge"), [(3, 0.0), (30, 0.0), (30, 0.5), (80, 1e-6), (80, 4.0)])
def test_kappa_solves_its_equation(n, ridge) -> None:
    values = torch.arange(1, 61, dtype=torch.float64) ** -1.3
    found = eigenlearning(values, n, ridge)
    budget = found.learnabilities.sum() + (ridge / found.kappa if ridge else 0.0)
    assert budget == pytest.approx(min(n, 60) if ridge == 0 else n, rel=1e-9)


def test_scale_changes_kappa_alone_and_the_order_of_eigenvalues_nothing() -> None:
    values = torch.arange(1, 200, dtype=torch.float64) ** -2
    one, other = eigenlearning(values, 40), eigenlearning(7 * values.flip(0), 40)
    assert other.kappa == pytest.approx(7 * one.kappa, rel=1e-9)
    assert other.overfitting().value == pytest.approx(one.overfitting().value, rel=1e-9)


def test_fewer_features_than_rows_is_least_squares_and_as_many_is_infinite() -> None:
    assert overfitting_coefficient(torch.ones(20), 30).value == pytest.approx(3.0)
    assert overfitting_coefficient(torch.ones(30), 30).status == "not measured"


def test_a_spectrum_that_falls_fast_is_never_benign() -> None:
    fast = torch.exp(-torch.arange(40, dtype=torch.float64))
    assert benign_split(fast, 50).status == excess_bound(fast, 50).status == "not measured"


@pytest.mark.parametrize("b", [0.5, 1.0, 3.0])
def test_the_split_is_the_first_tail_that_is_long_enough(b) -> None:
    values, n = torch.arange(1, 301, dtype=torch.float64) ** -0.8, 40
    first = next(k for k in range(300) if benign_ranks(values, k).r.value >= b * n)
    assert benign_split(values, n, b).value == first > 0


@pytest.mark.parametrize("p", [39, 40, 41])
def test_the_risk_at_the_threshold_is_no_number(p) -> None:
    assert "infinite" in least_squares_risk(40, p, 1.0, 1.0).reason


# --- learnability and alignment ---


def test_a_singular_kernel_cannot_reproduce_its_labels() -> None:
    with pytest.raises(TrustError, match="singular"):
        total_learnability(kernel_learner(torch.ones(8, 8)), parities(3)[1], np.arange(3))


def test_a_kernel_that_is_singular_but_for_rounding_is_refused() -> None:
    """Without a bias the tangent kernel of a ReLU network gives odd functions one degree alone: three bits, all eight corners."""
    points, basis = parities(3)
    with pytest.raises(TrustError, match="singular"):
        total_learnability(kernel_learner(relu_kernel(points)), basis, np.arange(8))
    biased = relu_kernel(torch.cat([points, torch.ones(8, 1).double()], 1))
    assert total_learnability(kernel_learner(biased), basis, np.arange(8)).value == pytest.approx(8, abs=1e-8)


def test_parities_are_orthonormal_and_of_their_bits() -> None:
    points, basis = parities(4)
    assert torch.equal(basis.T @ basis, 16 * torch.eye(16, dtype=torch.float64))
    assert torch.equal(basis[:, 0b101], points[:, 0] * points[:, 2])


def test_alignment_has_a_null_that_a_true_target_beats_and_forgets_scale() -> None:
    rows = made(8, 60, 5)
    y = rows[:, 0] + 0.1 * made(9, 60)
    reading = target_alignment(rows @ rows.T, y, np.random.default_rng(0), 99)
    again = target_alignment(5 * rows @ rows.T, -2 * y + 3, np.random.default_rng(0), 99)
    assert reading.null is not None and reading.null.p == pytest.approx(0.01)
    assert reading.null.high < reading.value and again.value == pytest.approx(reading.value, rel=1e-9)


def test_the_interval_of_alignment_leaves_out_each_row_of_few() -> None:
    """With no more rows than blocks each block is a row, whatever order they are drawn in."""
    one, two = made(16, 18, 3), made(17, 18, 4)
    two[:, 0] += one[:, 0]
    one, two = one @ one.T, two @ two.T
    reading = kernel_alignment(one, two, np.random.default_rng(0), 19)
    keep = ~torch.eye(18, dtype=torch.bool)
    left = np.array([alignment(one[k][:, k], two[k][:, k]) for k in keep])
    error = math.sqrt(17 / 18 * float(np.square(left - left.mean()).sum()))
    assert reading.high - reading.value == pytest.approx(2.1098 * error, rel=1e-4)
    assert reading.value - reading.low == pytest.approx(2.1098 * error, rel=1e-4)


def test_the_null_of_alignment_is_about_its_mean_over_all_orders() -> None:
    """⟨K_c, PL_cPᵀ⟩ has the mean tr K_c tr L_c/(n − 1) over permutations P."""
    one, two = made(18, 40, 8), made(19, 40, 10)
    null = kernel_alignment(one @ one.T, two @ two.T, np.random.default_rng(0), 399).null
    one, two = (centred(part @ part.T) for part in (one, two))
    mean = float(one.trace() * two.trace() / (39 * one.norm() * two.norm()))
    assert null is not None and null.low < mean < null.high and null.value == pytest.approx(mean, rel=0.02)
