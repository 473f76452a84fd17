"""Thresholds of a monitor and shares by groups, each against an answer that is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom, norm, t

from strandscope.errors import InputError
from strandscope.monitor.rows import share
from strandscope.monitor.threshold import assurance, calibrate, least_sequences


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("rate", "confidence", "least"),
    [(0.01, 0.95, 299), (0.05, 0.95, 59), (0.1, 0.9, 22), (0.001, 0.99, 4603), (0.5, 0.75, 2), (0.99, 0.5, 1)],
)
def test_the_least_number_of_sequences_is_exact_and_refused_below(rate, confidence, least):
    assert least_sequences(rate, confidence) == least
    assert 1 - (1 - rate) ** least >= confidence > 1 - (1 - rate) ** (least - 1)
    if least > 1:
        with pytest.raises(InputError, match=rf"got {least - 1} sequences, wanted at least {least} "):
            calibrate(np.arange(least - 1.0), rate=rate, confidence=confidence)
    assert calibrate(np.arange(float(least)), rate=rate, confidence=confidence).order == 1


@pytest.mark.parametrize("rate", [0.003, 0.01, 0.05, 0.2, 0.7])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_the_order_is_the_largest_that_binomial_counts_allow(rate, confidence):
    """P(at least k of n independent sequences alarm at a threshold of exactly that rate), summed term by term."""
    for n in (59, 60, 299, 300, 1000, 2500):
        below = np.cumsum(binom.pmf(np.arange(n), n, rate))  # fewer than 1, 2, … of them
        allowed = [k for k in range(1, n + 1) if below[k - 1] <= 1 - confidence]
        if not allowed:
            with pytest.raises(InputError, match="add benign sequences"):
                calibrate(np.arange(float(n)), rate=rate, confidence=confidence)
            continue
        found = calibrate(np.arange(float(n)), rate=rate, confidence=confidence)
        assert found.order == max(allowed)
        assert found.value == n - found.order


@pytest.mark.parametrize(
    ("n", "rate", "confidence"), [(299, 0.01, 0.95), (1000, 0.01, 0.95), (59, 0.05, 0.95), (400, 0.05, 0.95), (150, 0.2, 0.9)]
)
@pytest.mark.parametrize("law", [norm(), t(2), beta(0.3, 2)], ids=["normal", "heavy", "skew"])
def test_the_true_rate_keeps_to_the_stated_one_as_often_as_stated(n, rate, confidence, law):
    """The true rate of a threshold is 1 − F; the share of 2,000 calibrations that keep to it is known exactly."""
    thresholds = [calibrate(row, rate=rate, confidence=confidence) for row in law.rvs((2000, n), random_state=generator(n))]
    true = law.sf([found.value for found in thresholds])
    assert (true[:200] <= rate).sum() >= (182 if confidence == 0.95 else 168)  # all but some 0.3 % of the time at worst
    order = thresholds[0].order
    share_ = assurance(n, order, rate)
    assert share_ >= confidence
    assert abs((true <= rate).mean() - share_) < 4.5 * (share_ * (1 - share_) / 2000) ** 0.5
    expected = thresholds[0].expected
    assert expected.value == pytest.approx(beta(order, n - order + 1).mean())
    assert abs(true.mean() - expected.value) < 4.5 * beta(order, n - order + 1).std() / 2000**0.5
    assert (true <= expected.high).mean() == pytest.approx(confidence, abs=0.03)  # a one-sided bound, exact for continuous scores


def test_ties_only_lower_the_rate():
    """Scores of few values: an alarm is strictly above, so that the rate is that of the next value up."""
    values = np.arange(10.0)
    kept = 0
    for row in generator(3).choice(values, (200, 300)):
        threshold = calibrate(row, rate=0.15).value
        kept += (values > threshold).mean() <= 0.15
    assert kept == 200  # one value in ten above is within the rate; two would be above it
    same = calibrate(np.full(299, 2.5), rate=0.01)
    assert not same.alarms([2.5]).any()
    assert same.alarms([np.nextafter(2.5, 3)]).all()


def test_rows_of_a_group_count_once_by_their_largest():
    scores, groups = generator(4).normal(size=1000), np.arange(1000) % 100
    grouped = calibrate(scores, rate=0.05, groups=groups)
    alone = calibrate([scores[groups == g].max() for g in range(100)], rate=0.05)
    assert (grouped.value, grouped.order, grouped.sequences, grouped.rows) == (alone.value, alone.order, 100, 1000)
    assert grouped == calibrate(scores, rate=0.05, groups=[f"template {g}" for g in groups])
    with pytest.raises(InputError, match=r"got 58 groups of sequences, wanted at least 59"):
        calibrate(scores, rate=0.05, groups=np.arange(1000) % 58)


def test_templated_rows_counted_singly_would_break_the_promise():
    """Ten copies of each of 100 scores: as 1,000 sequences they would buy a threshold that 100 do not carry."""
    kept = {True: 0, False: 0}
    for row in generator(5).normal(size=(200, 100)):
        for honest in kept:
            found = calibrate(np.repeat(row, 10), rate=0.05, groups=np.repeat(np.arange(100), 10) if honest else None)
            kept[honest] += norm.sf(found.value) <= 0.05
    assert kept[True] >= 182
    assert kept[False] < 170


def test_recall_is_clopper_pearson_and_alarms_are_strict():
    threshold = calibrate(np.arange(100.0), rate=0.05)
    found = threshold.recall([threshold.value, *np.full(7, 1000.0), -1.0, -2.0])
    assert (found.value, found.n) == (0.7, 10)
    assert (found.low, found.high) == (pytest.approx(beta.ppf(0.025, 7, 4)), pytest.approx(beta.ppf(0.975, 8, 3)))
    everything = threshold.recall(np.full(20, 1000.0))
    assert (everything.value, everything.high) == (1.0, 1.0)
    assert everything.low == pytest.approx(0.025 ** (1 / 20))
    nothing = threshold.false_alarms(np.zeros(20), level=0.9)
    assert (nothing.value, nothing.low) == (0.0, 0.0)
    assert nothing.high == pytest.approx(1 - 0.05 ** (1 / 20))


@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
def test_the_interval_of_a_share_covers_whatever_the_rows_of_a_group_have_in_common(together):
    rng, covered = generator(6), 0
    for _ in range(400):
        codes = np.repeat(np.arange(30), rng.integers(1, 6, 30))
        codes = np.unique(codes, return_inverse=True)[1]
        common, own = rng.random(30)[codes], rng.random(len(codes))
        hits = np.where(rng.random(30)[codes] < together, common, own) < 0.8
        found = share(hits, codes, 0.95, unit="share", method="")
        covered += found.low <= 0.8 <= found.high
    assert covered >= binom.ppf(0.001, 400, 0.95)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: calibrate([0.0, np.nan], rate=0.5), "benign: row 1 holds a number that is not finite"),
        (lambda: calibrate([], rate=0.5), "benign: got shape"),
        (lambda: calibrate(["a"], rate=0.5), "benign: could not convert .*, wanted numbers alike in shape"),
        (lambda: calibrate([[1.0]], rate=0.5), "benign: got shape"),
        (lambda: calibrate([1.0], rate=0.0), "rate: got 0, wanted a share strictly between 0 and 1"),
        (lambda: calibrate([1.0], rate=0.5, confidence=1.0), "confidence: got 1, wanted"),
        (lambda: calibrate([1.0, 2.0], rate=0.5, groups=["a"]), "groups: got shape .* for 2 rows"),
        (lambda: calibrate(np.arange(9.0), rate=0.5).recall([np.inf]), "scores: row 0"),
        (lambda: calibrate(np.arange(9.0), rate=0.5).recall([1.0], level=95), "level: got 95"),
    ],
)
def test_bad_input_to_a_threshold_is_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
