"""Spectra that random matrices have: the law of Marchenko and Pastur, weights against it, tails and exponents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from strandscope.errors import InputError
from strandscope.standards import weights
from strandscope.standards.run import run
from strandscope.statistics import marchenko_pastur as mp
from strandscope.statistics.exponent import spectral_exponent
from strandscope.statistics.tail import power_law_tail
from strandscope.statistics.weights import weight_spectrum

QUICK = [case for case in weights.STANDARDS if case.repetitions("fast") <= 20]


def made(seed: int, *shape: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_cheap_standards_are_green(case) -> None:
    assert run(case, "fast").verdict == "green"


# --- what is refused ---


@pytest.mark.parametrize(
    ("call", "word"),
    [
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


# --- the law ---


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


def test_a_spike_shows_where_and_as_far_along_its_direction_as_is_said() -> None:
    """One direction of variance 3 among 2,000 rows in 400 dimensions."""
    rows = made(22, 2000, 400)
    rows[:, 0] *= 3**0.5
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    place, clear = mp.spiked(2.0, 0.2)
    assert float(singular[0].square() / 2000) == pytest.approx(place, rel=0.05)
    assert float(right[0, 0].square()) == pytest.approx(clear, abs=0.03)


@pytest.mark.parametrize(("level", "quantile"), [(0.95, 0.9793), (0.99, 2.0234), (0.999, 3.2724)])
def test_quantiles_are_those_of_tracy_and_widom(level, quantile) -> None:
    """Against the table of Bejan (2005)."""
    assert mp.tracy_widom(level) == pytest.approx(quantile, abs=0.03)


# --- weights ---


def test_a_spectrum_is_that_of_the_transpose_and_scales() -> None:
    given = made(10, 90, 40)
    one, other = weight_spectrum(given), weight_spectrum(3 * given.T)
    assert other.bulk.value == pytest.approx(9 * one.bulk.value)
    assert other.distance.value == pytest.approx(one.distance.value)
    assert one.outliers.value == other.outliers.value == 0 and one.is_chance


def test_the_edge_is_where_white_weights_end_and_doubt_about_it_is_doubt_about_outliers() -> None:
    left, singular, right = torch.linalg.svd(made(23, 400, 200), full_matrices=False)
    edge = weight_spectrum((left * singular) @ right).edge
    assert 1 < edge.value / mp.edges(0.5)[1] < 1.03 and edge.low < edge.value < edge.high
    for share, counts in ((0.9, (0, 0, 0)), (0.999, (0, 0, 1)), (1.001, (0, 1, 1)), (1.1, (1, 1, 1))):
        singular[0] = math.sqrt(400 * edge.value * share)
        found = weight_spectrum((left * singular) @ right).outliers
        assert (found.low, found.value, found.high) == counts


def test_weights_that_are_no_chance_say_so() -> None:
    given = made(11, 400, 200)
    given[:, :60] *= 3
    found = weight_spectrum(given)
    assert found.outliers.value == 60 and found.distance.value > found.allowed and not found.is_chance


# --- tails and exponents ---


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


def test_an_exponent_s_interval_is_that_of_windows_and_of_rows() -> None:
    """By covariance matrices and numpy's weighted fit: halves of the window, and ten blocks of rows left out in turn."""
    rows = made(24, 200, 150) * torch.arange(1, 151) ** -0.6
    reading = spectral_exponent(rows)

    def slope(kept: np.ndarray, first: int = 3, last: int = 15) -> float:
        ranks = np.arange(first, last + 1)
        values = np.linalg.eigvalsh(np.cov(kept.T))[::-1][first - 1 : last]
        return -float(np.polyfit(np.log(ranks), np.log(values), 1, w=ranks**-0.5)[0])

    all_rows, block = rows.numpy(), np.arange(200) % 10
    each = slope(all_rows), slope(all_rows, 3, 7), slope(all_rows, 7, 15)
    left = np.array([slope(all_rows[block != b]) for b in range(10)])
    reach = 2.2622 * math.sqrt(9 / 10 * float(np.square(left - left.mean()).sum()))
    assert reading.value == pytest.approx(each[0])
    assert (reading.low, reading.high) == pytest.approx((min(each) - reach, max(each) + reach), rel=1e-4)


def test_a_spectrum_that_is_no_power_law_has_a_wide_window() -> None:
    straight = spectral_exponent(made(12, 400, 300) * torch.arange(1, 301) ** -0.75)
    bent = spectral_exponent(made(13, 400, 300) * torch.exp(-torch.arange(300) / 8))
    assert bent.high - bent.low > 5 * (straight.high - straight.low)
