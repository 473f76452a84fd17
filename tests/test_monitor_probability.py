"""Scores as probabilities, and their reliability, each against an answer that is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom, norm
from sklearn.linear_model import LogisticRegression

from strandscope.errors import InputError
from strandscope.monitor.probability import Isotonic, Platt, _auroc, isotonic, platt, reliability
from strandscope.statistics.detect import area


def generator(seed=0):
    return np.random.default_rng(seed)


def labelled(n, seed=0, slope=1.7, intercept=-0.4):
    rng = generator(seed)
    scores = rng.normal(size=n)
    return scores, rng.random(n) < 1 / (1 + np.exp(-(slope * scores + intercept)))


def test_platt_finds_the_curve_that_made_the_labels_whatever_the_unit():
    scores, labels = labelled(200_000)
    found = platt(scores, labels)
    assert (found.slope, found.intercept) == (pytest.approx(1.7, abs=0.03), pytest.approx(-0.4, abs=0.03))
    other = platt(1e4 * scores + 3e5, labels)
    np.testing.assert_allclose(other(1e4 * scores[:50] + 3e5), found(scores[:50]), rtol=1e-6)


def test_platt_is_the_greatest_likelihood_of_labels_drawn_in():
    """Each row stands twice for scikit-learn, weighted by its target."""
    scores, labels = labelled(120, seed=1)
    n1, n0 = labels.sum(), (~labels).sum()
    target = np.where(labels, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    oracle = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000)
    oracle.fit(np.tile(scores, 2)[:, None], np.repeat([1, 0], 120), sample_weight=np.concatenate([target, 1 - target]))
    found = platt(scores, labels)
    assert (found.slope, found.intercept) == (
        pytest.approx(oracle.coef_[0, 0], rel=1e-4),
        pytest.approx(oracle.intercept_[0], rel=1e-4),
    )


@pytest.mark.parametrize(("seed", "stalling"), [*enumerate((649, 692, 805, 820, 841, 1012))])
def test_platt_converges_where_plain_newton_steps_overshoot_and_where_rounding_would_stall_it(seed, stalling):
    """The equations of greatest likelihood hold, with one score far from all others, and with heavy tails."""
    rng = generator(seed)
    far = 30.0 * (np.arange(2000) < 43) + rng.normal(size=2000)
    far[rng.integers(2000)] = 10.0 ** (2 + seed % 3) * (-1) ** seed
    rng = generator(stalling)
    heavy = 30 * rng.standard_t(1, size=60)
    for scores, labels in ((far, np.arange(2000) < 43), (heavy, rng.random(60) < norm.cdf(heavy))):
        n1, n0 = labels.sum(), (~labels).sum()
        off = platt(scores, labels)(scores) - np.where(labels, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
        assert abs(off.mean()) < 1e-8
        assert abs((off * scores).mean()) < 1e-8 * scores.std()


def test_classes_that_part_still_have_a_curve():
    scores = np.r_[np.linspace(-2, -1, 30), np.linspace(1, 2, 30)]
    found = platt(scores, scores > 0)
    assert 0 < found([-1.5])[0] < 0.1 < 0.9 < found([1.5])[0] < 1


def test_isotonic_is_the_greatest_of_least_means():
    """Least squares over rising curves in closed form (Barlow & Brunk 1972): max over beginnings of min over ends of the mean."""
    scores, labels = labelled(60, seed=5)
    truth = labels[np.argsort(scores)]
    wanted = [max(min(truth[a : b + 1].mean() for b in range(i, 60)) for a in range(i + 1)) for i in range(60)]
    np.testing.assert_allclose(isotonic(scores, labels)(np.sort(scores)), wanted, atol=1e-12)


def test_isotonic_rises_and_keeps_the_mean():
    scores, labels = labelled(2000, seed=2)
    found = isotonic(scores, labels)
    chance = found(np.sort(scores))
    assert (np.diff(chance) >= 0).all()
    assert found(scores).mean() == pytest.approx(labels.mean(), abs=1e-9)
    assert found([-99.0, 99.0]).tolist() == [chance[0], chance[-1]]
    assert Isotonic((0.0, 1.0), (0.2, 0.6))([0.5]).tolist() == [pytest.approx(0.4)]


@pytest.mark.parametrize("fit", [platt, isotonic])
def test_scores_that_run_the_other_way_are_refused_and_not_turned_round(fit):
    scores, labels = labelled(200, seed=3)
    with pytest.raises(
        InputError, match=r"scores: run against the labels \(AUROC 0\.\d\d \[.*\]\), wanted larger scores for label 1"
    ):
        fit(-scores, labels)
    with pytest.raises(InputError, match="do not show which way"):  # two groups show nothing, however many rows they have
        fit(scores, labels, np.arange(200) % 2)
    with pytest.raises(InputError, match="do not show which way"):  # two groups a class part by chance one time in three
        parted = np.repeat([1.0, 2.0, 3.0, 4.0], 20)
        fit(parted, parted > 2.5, parted)
    with pytest.raises(InputError, match="labels: all 200 rows are of class 1"):
        fit(scores, np.ones(200))
    with pytest.raises(InputError, match="do not show which way"):
        fit(np.ones(200), labels)


@pytest.mark.parametrize("group", [1, 10])
def test_scores_that_say_nothing_are_refused(group):
    """At least 95 % of the time, also where the 10 rows of a group share score and label."""
    rng, refused = generator(4), 0
    for _ in range(200):
        scores, labels = (np.repeat(part, group) for part in (rng.normal(size=60), rng.random(60) < 0.5))
        try:
            platt(scores, labels, np.repeat(np.arange(60), group))
        except InputError:
            refused += 1
    assert refused >= binom.ppf(0.001, 200, 0.975)


def test_the_direction_is_judged_by_the_area_that_the_project_reports():
    scores, labels = labelled(300, seed=6, slope=0.6)
    scores, codes = scores.round(1), np.arange(300) // 3
    found, wanted = _auroc(scores, labels, codes), area(scores, labels.astype(int), codes, np.zeros(300, dtype=int))
    assert found[0] == pytest.approx(wanted.value)
    assert found[1:] == (pytest.approx(wanted.low, abs=0.01), pytest.approx(wanted.high, abs=0.01))


def test_perfect_probabilities_are_within_their_null_and_false_ones_are_not():
    covered, low_p = 0, 0
    for seed in range(200):
        rng = generator(seed)
        chance = rng.random(400)
        found = reliability(chance, rng.random(400) < chance, generator=rng, draws=200).error
        covered += found.low == 0.0
        low_p += found.null.p <= 0.05
    assert covered >= binom.ppf(0.001, 200, 0.95)
    assert low_p <= binom.ppf(0.999, 200, 0.05)
    rng = generator(9)
    chance = rng.random(20_000)
    sharp = 1 / (1 + np.exp(-2 * np.log(chance / (1 - chance))))  # twice the log-odds that are true
    found = reliability(sharp, rng.random(20_000) < chance, generator=rng)
    truth = np.mean([abs(part.mean()) for part in np.array_split((chance - sharp)[np.argsort(sharp)], 10)])
    assert found.error.low <= truth <= found.error.high
    assert found.error.value == pytest.approx(truth, abs=0.01)
    assert found.error.low > 0
    assert found.error.null.p == pytest.approx(1 / 1001)


def test_bins_hold_as_many_rows_and_equal_probabilities_stay_together():
    chance, labels = np.r_[np.full(50, 0.1), np.linspace(0.2, 0.9, 50)], np.arange(100) % 2
    found = reliability(chance, labels, generator=generator(), bins=4)
    assert [part.rows for part in found.bins] == [50, 25, 25]
    first = found.bins[0]
    assert (first.predicted, first.observed.value) == (pytest.approx(0.1), 0.5)
    assert first.observed.low == pytest.approx(beta.ppf(0.025, 25, 26))
    gaps = [part.rows / 100 * abs(part.observed.value - part.predicted) for part in found.bins]
    assert found.error.value == pytest.approx(sum(gaps))
    assert len(reliability(np.full(10, 0.5), np.arange(10) % 2, generator=generator()).bins) == 1


@pytest.mark.parametrize("said", [0.9, 0.1])
def test_the_interval_of_an_error_is_that_of_the_shares(said):
    found = reliability(np.full(100, said), np.arange(100) % 2, generator=generator(), bins=1).error
    low, high = beta.ppf(0.025, 50, 51), beta.ppf(0.975, 51, 50)
    ends = (said - high, said - low) if said > 0.5 else (low - said, high - said)
    assert (found.low, found.value, found.high) == (pytest.approx(ends[0]), pytest.approx(0.4), pytest.approx(ends[1]))


def test_a_large_group_weighs_as_much_as_a_small_one_in_a_bin():
    """One group of 30 positives said to be .6, and one negative said to be .4."""
    found = reliability(
        np.r_[np.full(30, 0.6), 0.4], np.r_[np.ones(30), 0], np.r_[np.zeros(30), 1], generator=generator(), bins=1
    )
    (part,) = found.bins
    assert (part.predicted, part.observed.value) == (pytest.approx(0.5), pytest.approx(0.5))


def test_rows_of_a_group_do_not_make_an_error_surer():
    """400 rows in 20 groups of one label each: by rows the calibration is off beyond doubt, by groups it may be luck."""
    rng, alarms = generator(10), {True: 0, False: 0}
    groups = np.repeat(np.arange(20), 20)
    for _ in range(100):
        labels = (rng.random(20) < 0.5)[groups]
        for honest in alarms:
            found = reliability(np.full(400, 0.5), labels, groups if honest else None, generator=rng, draws=100)
            alarms[honest] += found.error.null.p <= 0.05
    assert alarms[True] <= binom.ppf(0.999, 100, 0.05)
    assert alarms[False] > 30


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: platt([1.0, 2.0], [0, 1, 1]), "labels: wanted a 1 or a 0 for each of 2 rows"),
        (lambda: platt([1.0, 2.0], [0, 2]), "labels: wanted a 1 or a 0"),
        (lambda: platt([1.0, np.nan], [0, 1]), "scores: row 1"),
        (lambda: Platt(1.0, 0.0)([np.inf]), "scores: row 0"),
        (lambda: reliability([0.5, 1.5], [0, 1], generator=generator(), bins=1), "probabilities: row 1 is 1.5, wanted 0 to 1"),
        (lambda: reliability([0.5], [0], generator=generator()), "bins: got 10 for 1 rows"),
    ],
)
def test_bad_input_to_a_probability_is_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
