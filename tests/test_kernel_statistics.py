"""Quantities of linear and kernel models and of random weights: refusals, invariances, and what the standards do not run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from strandscope.errors import InputError, TrustError
from strandscope.standards import kernels, weights
from strandscope.standards.run import run
from strandscope.statistics import marchenko_pastur as mp
from strandscope.statistics.exponent import spectral_exponent
from strandscope.statistics.kernel.alignment import kernel_alignment, target_alignment
from strandscope.statistics.kernel.benign import benign_ranks, benign_split, excess_bound
from strandscope.statistics.kernel.descent import least_squares_risk
from strandscope.statistics.kernel.eigenlearning import eigenlearning, overfitting_coefficient
from strandscope.statistics.kernel.learnability import kernel_learner, learnabilities, parities, total_learnability
from strandscope.statistics.kernel.ridge import KernelRidge
from strandscope.statistics.tail import power_law_tail
from strandscope.statistics.tangent.closed import relu_kernel
from strandscope.statistics.weights import weight_spectrum

QUICK = [case for case in (*kernels.STANDARDS, *weights.STANDARDS) if case.repetitions("fast") <= 20]


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
        (lambda: spectral_exponent(made(0, 40, 10), (3, 99)), "window"),
        (lambda: weight_spectrum(made(0, 10, 40)), "shape"),
        (lambda: weight_spectrum(torch.zeros(30, 30)), "0"),
        (lambda: mp.spiked(0.4, 0.25), "below it"),
        (lambda: mp.edges(1.5), "aspect"),
        (lambda: power_law_tail(torch.ones(100), np.random.default_rng(0)), "same"),
        (lambda: power_law_tail(-made(0, 100).abs(), np.random.default_rng(0)), "above 0"),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence(call, word) -> None:
    with pytest.raises(InputError, match=word):
        call()


def test_a_nan_is_named() -> None:
    bad = made(0, 30, 30)
    bad[3, 4] = math.nan
    for call in (weight_spectrum, spectral_exponent):
        with pytest.raises(InputError, match="row 3 holds a NaN"):
            call(bad)


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


# --- spectra ---


@pytest.mark.parametrize("aspect", [0.1, 0.5, 1.0])
def test_the_distribution_is_the_integral_of_the_density(aspect) -> None:
    low, high = mp.edges(aspect)

    def density(x: float) -> float:
        return math.sqrt(max((high - x) * (x - low), 0.0)) / (2 * math.pi * aspect * x)

    for share in (0.2, 0.5, 0.9):
        x = low + share * (high - low)
        assert mp.distribution(np.array([x]), aspect)[0] == pytest.approx(quad(density, low, x, limit=200)[0], abs=1e-6)
    assert mp.distribution(np.array([low - 1, high + 1]), aspect) == pytest.approx([0, 1], abs=1e-5)


def test_strength_turns_the_spike_formula_back() -> None:
    for theta in (0.6, 2.0, 30.0):
        assert mp.strength(mp.spiked(theta, 0.25)[0], 0.25) == pytest.approx(theta)
    assert mp.strength(1.0, 0.25) == 0.5


@pytest.mark.parametrize(("level", "quantile"), [(0.95, 0.9793), (0.99, 2.0234), (0.999, 3.2724)])
def test_quantiles_are_those_of_tracy_and_widom(level, quantile) -> None:
    """Against the table of Bejan (2005)."""
    assert mp.tracy_widom(level) == pytest.approx(quantile, abs=0.03)


def test_a_spectrum_is_that_of_the_transpose_and_scales() -> None:
    given = made(10, 90, 40)
    one, other = weight_spectrum(given), weight_spectrum(3 * given.T)
    assert other.bulk.value == pytest.approx(9 * one.bulk.value)
    assert other.distance.value == pytest.approx(one.distance.value)
    assert one.outliers.value == other.outliers.value == 0 and one.is_chance


def test_weights_that_are_no_chance_say_so() -> None:
    given = made(11, 400, 200)
    given[:, :60] *= 3
    found = weight_spectrum(given)
    assert found.outliers.value == 60 and found.distance.value > found.allowed and not found.is_chance


def test_white_weights_are_not_heavy_tailed() -> None:
    generator = np.random.default_rng(1)
    tails = [weight_spectrum(made(seed, 200, 100)).tail(generator) for seed in range(8)]
    assert not any(tail.heavy for tail in tails)
    assert all("not heavy-tailed" in tail.exponent.reason for tail in tails)


def test_a_power_law_tail_has_an_interval_that_moves_with_the_threshold() -> None:
    generator = np.random.default_rng(3)
    body = np.exp(0.3 * generator.standard_normal(300))
    tail = power_law_tail(torch.as_tensor(np.concatenate([body, 2 * (1 + generator.pareto(1.0, 300))])), generator)
    assert tail.heavy and tail.exponent.low < 2.0 < tail.exponent.high
    assert tail.threshold > 1.0


def test_few_values_have_no_tail() -> None:
    assert "59 values" in power_law_tail(made(14, 59).abs(), np.random.default_rng(0)).exponent.reason


def test_an_exponent_needs_two_octaves_of_ranks() -> None:
    assert "two octaves" in spectral_exponent(made(0, 100, 50)).reason


def test_a_spectrum_that_is_no_power_law_has_a_wide_window() -> None:
    straight = spectral_exponent(made(12, 400, 300) * torch.arange(1, 301) ** -0.75)
    bent = spectral_exponent(made(13, 400, 300) * torch.exp(-torch.arange(300) / 8))
    assert bent.high - bent.low > 5 * (straight.high - straight.low)
