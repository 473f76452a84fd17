"""Thresholds, sequence scores and probabilities of a monitor, each against an answer that is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom, norm, t
from sklearn.linear_model import LogisticRegression

from strandscope.errors import InputError
from strandscope.monitor.probability import Isotonic, Platt, _auroc, isotonic, platt, reliability
from strandscope.monitor.rows import share
from strandscope.monitor.sequence import Aggregation, Running, sequence_scores
from strandscope.monitor.threshold import assurance, calibrate, least_sequences
from strandscope.statistics.detect import area


def generator(seed=0):
    return np.random.default_rng(seed)


# Thresholds


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


# Sequences

FORMS = ["last", "mean", "max", "ema(0.9)", "ema(0.0)", "window(1)", "window(4)", "window(7)", "window(17)"]


def by_definition(scores, form):
    """The score of one sequence (tokens,), written out."""
    aggregation = Aggregation.parse(form)
    if aggregation.kind == "ema":
        averages = [scores[0]]
        for score in scores[1:]:
            averages.append(aggregation.decay * averages[-1] + (1 - aggregation.decay) * score)
        return max(averages)
    if aggregation.kind == "window":
        width = min(aggregation.width, len(scores))
        return np.lib.stride_tricks.sliding_window_view(scores, width).mean(1).max()
    return {"last": scores[-1], "mean": scores.mean(), "max": scores.max()}[aggregation.kind]


def ragged(seed, channels=()):
    rng = generator(seed)
    lengths = rng.integers(1, 23, 40)
    return rng.normal(size=(int(lengths.sum()), *channels)) * 10.0 ** rng.integers(-6, 6), lengths


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_batch_is_what_its_definition_says(form, channels):
    scores, lengths = ragged(7, channels)
    found = sequence_scores(scores, lengths, Aggregation.parse(form))
    parts = np.split(scores, np.cumsum(lengths)[:-1])
    wanted = [np.apply_along_axis(by_definition, 0, part, form) for part in parts]
    np.testing.assert_allclose(found, np.array(wanted), rtol=1e-12, atol=1e-13 * np.abs(scores).max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_token_by_token_gives_the_same_bits_as_the_batch(form, seed):
    aggregation = Aggregation.parse(form)
    scores, lengths = ragged(seed)
    batch = sequence_scores(scores, lengths, aggregation)
    threshold = float(np.sort(batch)[20])  # the score of one of them: alarms are strict in both ways
    for part, whole in zip(np.split(scores, np.cumsum(lengths)[:-1]), batch, strict=True):
        running = Running(aggregation)
        early = False
        for number, score in enumerate(part):
            running.update([score])
            prefix = sequence_scores(part[: number + 1], [number + 1], aggregation)
            assert running.score()[0] == prefix[0]
            assert running.certain()[0] <= whole
            early |= bool(running.alarms(threshold)[0])
        assert running.score()[0] == whole
        assert (early or running.alarms(threshold, ended=True)[0]) == (whole > threshold)


def test_sequences_side_by_side_do_not_touch_each_other():
    scores, lengths = ragged(8, (2,))
    for form in FORMS:
        running = Running(Aggregation.parse(form), len(lengths), (2,))
        parts = np.split(scores, np.cumsum(lengths)[:-1])
        assert np.isnan(running.score()).all()
        for token in range(lengths.max()):
            running.update(np.array([part[token] for part in parts if len(part) > token]), lengths > token)
        np.testing.assert_array_equal(running.score(), sequence_scores(scores, lengths, running.aggregation))


def test_an_alarm_is_raised_at_the_token_that_makes_it_certain():
    fired = {}
    for form in ("max", "window(2)", "mean", "last"):
        running = Running(Aggregation.parse(form))
        alarms = []
        for score in (0.0, 4.0, 4.0, 0.0):
            running.update([score])
            alarms.append(bool(running.alarms(3.0)[0]))
        fired[form] = alarms
    assert fired["max"] == [False, True, True, True]
    assert fired["window(2)"] == [False, False, True, True]
    assert fired["mean"] == fired["last"] == [False] * 4


def test_memory_does_not_grow_with_the_sequence():
    running = Running(Aggregation.parse("window(5)"))
    for score in np.arange(100.0):
        running.update([score])
    assert sum(part.size for part in (running._now, running._best, running._recent, running.tokens)) == 8


@pytest.mark.parametrize("form", [*FORMS, "ema(1e-05)"])
def test_an_aggregation_prints_what_it_parses(form):
    assert str(Aggregation.parse(form)) == form


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        *(
            (lambda text=text: Aggregation.parse(text), "aggregation: ")
            for text in ("median", "ema", "ema(x)", "ema(1)", "max(2)")
        ),
        *(
            (lambda text=text: Aggregation.parse(text), "aggregation: ")
            for text in ("window(0)", "window(1.5)", "", "ema(1.2.3)")
        ),
        (lambda: Aggregation("max", decay=0.5), "a decay is of ema"),
        (lambda: Aggregation("Max"), "wanted last, mean"),  # type: ignore[arg-type]
        (lambda: sequence_scores([1.0], [0, 1], Aggregation("max")), "lengths: sequence 0 has none"),
        (lambda: sequence_scores([1.0], [2], Aggregation("max")), "lengths: add up to 2 tokens, but there are scores of 1"),
        (lambda: sequence_scores([1.0, np.nan], [2], Aggregation("max")), "scores: row 1"),
        (lambda: sequence_scores([1.0], [], Aggregation("max")), "lengths: shape"),
        (lambda: Running(Aggregation("max"), 0), "sequences: got 0"),
        (lambda: Running(Aggregation("max"), 2).update([1.0]), "scores: got shape"),
        (lambda: Running(Aggregation("max"), 2).update([1.0], np.array([1])), "active: got int64 of shape"),
    ],
)
def test_bad_input_to_a_sequence_score_is_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


# Probabilities


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
