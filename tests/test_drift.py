"""The drift alarm: silent on traffic like before, at any time; quick on a shift; the same after a pause."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import binom, kstest, norm

from strandscope.errors import InputError
from strandscope.monitor.drift import Betting, Drift, _log_bets
from strandscope.provenance import numpy_generator


def generator(*names):
    return numpy_generator(0, "test_drift", *names)


def made(rows=300, channels=("a",), level=0.01, seed="calibration", **others):
    calibration = generator(seed).normal(size=(rows, len(channels)))
    return Drift(calibration, channels, level=level, generator=generator(seed, "ties"), **others)


def until_alarm(drift, rows):
    """The number of rows that it took, one more than there are if there was no alarm."""
    for number, row in enumerate(rows):
        if drift.update(row):
            return number + 1
    return len(rows) + 1


def most(drift, rows):
    """The largest logarithm of capital that each channel ever has."""
    highest = np.zeros(len(drift.channels))
    for row in rows:
        drift.update(row)
        highest = np.maximum(highest, list(drift.evidence().values()))
    return highest


# --- what makes it valid ---


def test_every_bet_has_mean_one_under_a_uniform_p():
    z = np.linspace(-8, 8, 20_001)
    bets = np.exp(_log_bets(norm.sf(z)))
    means = (bets * norm.pdf(z)[:, None]).sum(0) * (z[1] - z[0])
    np.testing.assert_allclose(means, 1, rtol=1e-3)  # a spread of 2 has a little beyond ±8


def test_the_capital_is_one_at_first_and_the_mean_of_it_stays_one():
    betting = Betting(1)
    assert betting.log_capital() == pytest.approx(0, abs=1e-12)
    grid = (np.arange(200_000) + 0.5) / 200_000
    wide = Betting(len(grid))
    for _ in range(3):  # the same p three times would be no martingale: each is averaged over the next alone
        before = betting.log_capital()[0]
        wide.bets, wide._stakes = betting.bets, np.repeat(betting._stakes, len(grid), axis=0)
        wide.update(grid)
        assert np.exp(wide.log_capital()).mean() == pytest.approx(np.exp(before), rel=1e-3)
        betting.update(np.array([0.013]))


def test_capital_follows_its_definition():
    """A stake for each bet and each time of entry, multiplied out, and what has not entered."""
    p = generator("definition").random(12)
    betting = Betting(1)
    bets = np.exp(_log_bets(p))  # (time, bet)
    for t in range(1, 13):
        betting.update(p[t - 1 : t])
        entered = sum(100 / ((u + 100) * (u + 101)) * bets[u:t].prod(0).mean() for u in range(t))
        assert np.exp(betting.log_capital()[0]) == pytest.approx(entered + 100 / (t + 100))


@pytest.mark.parametrize("ties", [False, True])
def test_online_ranks_of_exchangeable_scores_are_uniform_and_independent(ties):
    drift = made(rows=5)
    scores = generator("ranks", str(ties)).normal(size=4000)
    if ties:
        scores = np.round(scores)
        drift = Drift(np.zeros((1, 1)) + scores[0], ["a"], generator=generator("ranks"))
        scores = scores[1:]
    p = np.concatenate([drift._p_values(np.array([score])) for score in scores])
    assert kstest(p, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(p[1:], p[:-1])[0, 1]) < 4.5 / len(p) ** 0.5


def test_a_p_value_is_the_smoothed_share_of_scores_at_least_as_large():
    class Half(np.random.Generator):
        def random(self, *_args, **_others):
            return np.array([0.5])

    drift = Drift([[1.0], [2.0], [2.0], [5.0]], ["a"], generator=Half(np.random.PCG64(0)))
    assert drift._p_values(np.array([2.0])).tolist() == [(1 + 0.5 * 3) / 5]
    assert drift._p_values(np.array([9.0])).tolist() == [0.5 / 6]
    assert drift._p_values(np.array([0.0])).tolist() == [6.5 / 7]


def test_benign_streams_raise_no_more_alarms_than_the_level():
    """100 streams of 2,000. 1,600 of 10,000 raised 10 alarms at 1 %, 44 at 5 % and 90 at 10 %."""
    streams = made(channels=[str(number) for number in range(100)])
    highest = most(streams, generator("benign").normal(size=(2000, 100)))
    for level in (0.01, 0.05, 0.2):
        assert (highest >= np.log(1 / level)).sum() <= binom.ppf(0.999, 100, level)
    assert (highest >= np.log(2)).any()  # it bets at all


def test_ranks_against_a_fixed_calibration_set_would_break_the_level():
    """The same bets on ranks among the 50 calibration rows alone: every bet shares their luck."""
    calibration, scores = (generator("fixed", part).normal(size=(100, n)) for part, n in (("before", 50), ("after", 1000)))
    ties, betting, highest = generator("fixed").random(scores.shape), Betting(100), np.zeros(100)
    for row in range(1000):
        above = (calibration > scores[:, row : row + 1]).sum(1)
        betting.update((above + ties[:, row]) / 51)
        highest = np.maximum(highest, betting.log_capital())
    assert (highest >= np.log(100)).sum() > 10


def test_the_level_holds_over_all_channels_however_they_depend():
    """20 channels, wholly alike, half alike and not at all, at a level of 20 % so that few streams suffice."""
    for together in (0.0, 0.7, 1.0):
        alarms = 0
        for number in range(60):
            rng = generator("channels", str(together), str(number))
            rows = together**0.5 * rng.normal(size=(400, 1)) + (1 - together) ** 0.5 * rng.normal(size=(400, 20))
            drift = Drift(rows[:100], [str(n) for n in range(20)], level=0.2, generator=rng)
            alarms += until_alarm(drift, rows[100:]) <= 300
        assert alarms <= binom.ppf(0.999, 60, 0.2)


def test_ranks_of_two_channels_together_say_where_the_next_falls():
    """Why channels are not combined by the mean of their martingales, which would need p-values uniform given all channels' past.

    Two values of a cluster are in opposite order in the two channels, values of different clusters in the same. If the first two
    rows are in opposite order they are of one cluster, and the third lies between them half as often as chance would have it.
    """
    opposite = between = always = 0
    rng = generator("clusters")
    for _ in range(4000):
        cluster, inside = 10.0 * rng.integers(0, 2, 3), rng.random(3)
        a, b = cluster + inside, cluster - inside
        middle = min(a[:2]) < a[2] < max(a[:2])
        always += middle
        if (a[0] > a[1]) != (b[0] > b[1]):
            opposite += 1
            between += middle
    assert always / 4000 == pytest.approx(1 / 3, abs=0.04)
    assert between / opposite == pytest.approx(1 / 6, abs=0.04)


# --- what makes it useful ---


@pytest.mark.parametrize("before", [0, 2000])
@pytest.mark.parametrize("shift", [1.0, -1.0, 2.0])
def test_a_shift_of_a_standard_deviation_is_seen_within_100_sequences(shift, before):
    taken = []
    for number in range(9):
        drift, rng = made(seed=f"shift {number}"), generator("shift", str(shift), str(before), str(number))
        early = until_alarm(drift, rng.normal(size=(before, 1)))
        taken.append(until_alarm(drift, rng.normal(shift, 1, size=(300, 1))) if early > before else 0)
    assert 0 < np.median(taken) <= 100


@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_a_change_of_spread_alone_is_seen_too(spread):
    assert until_alarm(made(), generator("spread").normal(0, spread, size=(300, 1))) <= 150


def test_what_drifted_is_named_and_its_alarm_is_raised_once():
    names = ("harm@resid:12", "harm@resid:20", "spanish@resid:12")
    drift = made(channels=names)
    rows = generator("named").normal(size=(200, 3)) + np.array([0.0, 0.0, 1.5])
    raised = [(number, alarm) for number, row in enumerate(rows) if (alarm := drift.update(row))]
    ((number, alarm),) = raised
    assert (alarm.channel, alarm.row) == ("spanish@resid:12", number)
    assert alarm == drift.alarm
    assert alarm.evidence >= np.log(3 / 0.01)
    assert alarm.p == pytest.approx(3 * np.exp(-alarm.evidence))
    assert drift.p < alarm.p <= 0.01
    evidence = drift.evidence()
    assert max(evidence, key=evidence.__getitem__) == "spanish@resid:12"
    assert evidence["harm@resid:12"] < np.log(3 / 0.01)
    assert drift.rows == 200


def test_the_p_value_never_rises_again():
    drift = made()
    rows = np.r_[generator("rises").normal(2, 1, 30), generator("rises", "after").normal(0, 1, 300)]
    seen = [drift.p]
    for row in rows:
        drift.update([row])
        seen.append(drift.p)
    assert seen[0] == 1.0
    assert (np.diff(seen) <= 0).all()
    assert drift.evidence()["a"] < drift._most
    assert Drift.resume(drift.state()).p == drift.p


def test_long_drift_does_not_overflow():
    drift = made(rows=2000)
    for _ in range(3000):
        drift.update([50.0 + drift.rows])
    assert np.isfinite(drift.evidence()["a"])
    assert drift.evidence()["a"] > 710  # more than a float64 could hold as a product


# --- paused and resumed ---


@pytest.mark.parametrize("pause", [0, 1, 57, 120])
def test_a_pause_changes_nothing(pause):
    rows = np.round(generator("pause").normal(0.4, 1, size=(160, 2)), 1)  # ties, so that the generator counts
    whole, first = (made(channels=("a", "b"), level=0.1) for _ in range(2))
    alarms = [whole.update(row) for row in rows]
    before = [first.update(row) for row in rows[:pause]]
    resumed = Drift.resume(json.loads(json.dumps(first.state(), allow_nan=False)))
    after = [resumed.update(row) for row in rows[pause:]]
    assert before + after == alarms
    assert whole.alarm is not None
    assert resumed.state() == whole.state()
    assert (resumed.rows, resumed.p, resumed.calibrated) == (160, whole.p, 300)


def test_a_state_is_not_changed_by_what_comes_after():
    drift = made()
    state = drift.state()
    copy = json.loads(json.dumps(state))
    drift.update([1.0])
    resumed = Drift.resume(state)
    resumed.update([2.0])
    assert state == copy


def test_the_order_of_calibration_rows_does_not_matter():
    states = [
        Drift(np.array(order)[:, None], ["a"], generator=generator("order")).state() for order in permutations([3.0, 1.0, 2.0])
    ]
    assert all(state == states[0] for state in states)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Drift([1.0, 2.0], ["a"], generator=generator()), "calibration: got shape"),
        (lambda: Drift(np.zeros((0, 1)), ["a"], generator=generator()), "calibration: got shape"),
        (lambda: Drift([[1.0], [np.nan]], ["a"], generator=generator()), "calibration: row 1"),
        (lambda: Drift([[1.0, 2.0]], ["a"], generator=generator()), r"channels: got \['a'\] for 2 column"),
        (lambda: Drift([[1.0, 2.0]], ["a", "a"], generator=generator()), "all different"),
        (lambda: Drift([[1.0, 2.0]], "ab", generator=generator()), "channels: got 'ab'"),
        (lambda: Drift([[1.0]], ["a"], level=0, generator=generator()), "level: got 0"),
        (lambda: Drift([[1.0]], ["a"], generator=np.random.Generator(np.random.Philox(0))), "generator: got one on Philox"),
        (lambda: made().update([1.0, 2.0]), "scores: got 2, wanted one for each of the channels a"),
        (lambda: made().update([np.inf]), "scores: row 0"),
        (lambda: Drift.resume({}), "state: got version None, wanted 1"),
        (lambda: Drift.resume({**made().state(), "scores": [[1.0], [2.0]]}), "channels: got"),
        (
            lambda: Drift.resume({key: part for key, part in made().state().items() if key != "stakes"}),
            "state: 'stakes' is missing",
        ),
        (lambda: Drift.resume({**made().state(), "stakes": [1.0]}), "is not what `Drift.state` wrote"),
    ],
)
def test_bad_input_to_drift_is_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
