"""The few-shot law against simulation: prediction, coverage, groups, and what other rows show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from strandscope.errors import InputError
from strandscope.provenance import numpy_generator
from strandscope.strand.fewshot import _blocks, _measured, _pilot, direction_error, examples_needed, few_shot_curve, few_shot_law

D = 48
SPREAD = torch.arange(1, D + 1, dtype=torch.float64) ** -0.5


def rows_of(n1, n0, gap, seed, groups=None, shared=0.0, ratio=1.0):
    """Classes `gap` apart along the widest direction; class 0 is `ratio` as wide; a part `shared` of the noise is the group's."""
    generator = torch.Generator().manual_seed(seed)
    labels = np.r_[np.ones(n1, dtype=np.int64), np.zeros(n0, dtype=np.int64)]
    noise = torch.randn(n1 + n0, D, generator=generator, dtype=torch.float64)
    if groups is not None:
        common = torch.randn(int(groups.max()) + 1, D, generator=generator, dtype=torch.float64)
        noise = math.sqrt(1 - shared) * noise + math.sqrt(shared) * common[torch.as_tensor(groups)]
    states = noise * SPREAD.sqrt()
    states[labels == 0] *= ratio
    states[labels == 1, 0] += gap
    return states, labels


def constant(gap, ratio=1.0):
    """C in closed form."""
    return float(SPREAD.sum() - SPREAD[0]) * (1 + ratio**2) / gap**2


def test_the_law_is_that_of_simulated_differences_of_means():
    """‖ŵ_⊥‖²/‖w‖² over 2,000 draws of n a class is C/n; tan² of the angle itself is larger, and much larger for few examples."""
    gap, n = 2.0, 6
    across, tangent = [], []
    for seed in range(2000):
        states, labels = rows_of(n, n, gap, seed)
        found = states[labels == 1].mean(0) - states[labels == 0].mean(0)
        side = float(found[1:].square().sum())
        across.append(side / gap**2)
        tangent.append(side / float(found[0]) ** 2)
    assert np.mean(across) == pytest.approx(constant(gap) / n, abs=4 * np.std(across) / 2000**0.5)
    assert np.mean(tangent) > 1.15 * np.mean(across)


@pytest.mark.parametrize(("n1", "n0", "gap", "ratio"), [(60, 60, 2.0, 1.0), (90, 50, 1.5, 0.6)])
def test_the_pilot_predicts_c_and_covers(n1, n0, gap, ratio):
    """Unequal classes with unequal covariances too; ‖ŵ‖² in place of ‖w‖² would be off by more than a tenth there."""
    logs, covered = [], []
    for seed in range(150):
        law = few_shot_law(*rows_of(n1, n0, gap, seed, ratio=ratio))
        reading = law.ratio(1)
        logs.append(math.log(law.value / constant(gap, ratio)))
        covered.append(reading.low <= constant(gap, ratio) <= reading.high)
    assert abs(np.mean(logs)) < 0.05
    assert 0.9 <= np.mean(covered) <= 0.995


def test_both_parts_of_the_pilot_are_unbiased():
    gap, signal, noise = 1.0, [], []
    for seed in range(600):
        found = _pilot(*rows_of(40, 30, gap, seed), np.arange(70))
        signal.append(found[0])
        noise.append(found[1])
    assert np.mean(signal) == pytest.approx(gap**2, abs=4 * np.std(signal) / 600**0.5)
    assert np.mean(noise) == pytest.approx(2 * float(SPREAD.sum() - SPREAD[0]), rel=0.02)


def test_a_dozen_rows_a_class_are_enough_for_the_noise_without_bias():
    """In 48 dimensions the direction that they give lies along their own noise, which is taken out again."""
    noise = [_pilot(*rows_of(12, 12, 2.5, seed), np.arange(24))[1] for seed in range(400)]
    wanted = 2 * float(SPREAD.sum() - SPREAD[0])
    assert np.mean(noise) == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("kind", ["each group of one class", "every group of both"])
def test_groups_add_their_luck_or_cancel_it(kind):
    """Twelve rows a group, half their noise in common: 6.5 times the noise if a group has one class, half if it has both."""
    groups = np.repeat(np.arange(20), 12) if kind.startswith("each") else np.tile(np.arange(20), 12)
    factor = 0.5 + 0.5 * 12 if kind.startswith("each") else 0.5
    logs, blind = [], []
    for seed in range(60):
        states, labels = rows_of(120, 120, 3.0, seed, groups, shared=0.5)
        law = few_shot_law(states, labels, groups)
        logs.append(math.log(law.value / (factor * constant(3.0))))
        blind.append(math.log(few_shot_law(states, labels).value / (factor * constant(3.0))))
    assert abs(np.mean(logs)) < 0.1
    assert abs(np.mean(blind)) > 0.5


def test_an_angle_and_the_examples_for_it_are_one_law():
    states, labels = rows_of(100, 100, 2.0, 0)
    needed = examples_needed(states, labels, angle=20.0)
    back = direction_error(states, labels, None, needed.value)
    assert back.value == pytest.approx(20.0) and back.low < 20 < back.high
    assert needed.low < needed.value < needed.high and needed.unit == "examples a class"
    assert examples_needed(states, labels, angle=10.0).value == pytest.approx(
        needed.value * (math.tan(math.radians(20)) / math.tan(math.radians(10))) ** 2
    )


def test_scale_and_rotation_change_nothing():
    states, labels = rows_of(50, 50, 2.0, 1)
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    one, two = few_shot_law(states, labels), few_shot_law(1e-3 * states @ turn + 4.0, labels)
    assert (two.value, two.error) == pytest.approx((one.value, one.error), rel=1e-6)


def curve_errors(repetitions, n, true, make, groups=None):
    """Logarithms of predicted/true and measured/true at n examples a class, (repetitions, 2)."""
    found = []
    for seed in range(repetitions):
        (point,) = few_shot_curve(*make(seed), groups, [n], draws=40, seed=seed)
        found.append([math.log(point.predicted.value / true), math.log(point.measured.value / true)])
    return np.array(found)


@pytest.mark.parametrize("n", [4, 20])
def test_other_rows_show_what_the_pilot_predicts(n):
    errors = curve_errors(12, n, constant(2.0) / n, lambda seed: rows_of(150, 150, 2.0, seed))
    assert bool((np.abs(errors.mean(0)) < 3.5 * errors.std(0) / 12**0.5 + 0.02).all())
    assert float(errors.std(0).max()) < 0.4


def test_the_curve_draws_whole_groups():
    """Rows drawn one by one would show a third of the noise: ln 3.5 lower."""
    groups = np.repeat(np.arange(80), 6)
    true = (0.5 + 0.5 * 6) * constant(3.0) / 24
    errors = curve_errors(12, 24, true, lambda seed: rows_of(240, 240, 3.0, seed, groups, shared=0.5), groups)
    assert bool((np.abs(errors.mean(0)) < 3.5 * errors.std(0) / 12**0.5 + 0.05).all())
    assert float(np.abs(errors.mean(0)).max()) < 0.4


def test_a_curve_s_points_carry_both_readings():
    points = few_shot_curve(*rows_of(60, 60, 3.0, 0), None, [2, 8], draws=20)
    assert [point.n for point in points] == [2, 8]
    for reading in (points[0].predicted, points[0].measured):
        assert reading.unit == "share of ‖w‖²" and reading.low < reading.value < reading.high
    assert points[0].predicted.value == pytest.approx(4 * points[1].predicted.value)


def test_what_is_measured_is_what_turns_the_direction_and_not_what_lengthens_it():
    """Nearly all the noise lies along the direction itself."""
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(200) % 2
    rows = torch.randn(200, 4, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 1.0, 1.0, 1.0])
    rows[:, 0] += 10 * torch.as_tensor(labels)
    found = _measured(rows, labels, np.arange(200), 20, 400, np.random.default_rng(0))
    assert found == pytest.approx(2 * 3 / 100 / 20, rel=0.25)  # C = 2·(1 + 1 + 1)/10²; with what lies along it, 9 times that


def test_the_curve_s_pilot_sees_half_of_the_groups_and_what_is_measured_the_other():
    states, labels = rows_of(60, 60, 3.0, 0)
    groups = np.arange(120) // 2
    half = _blocks(labels, groups, 2, numpy_generator(5, "few-shot curve")) == 0
    (plain,) = few_shot_curve(states, labels, groups, [4], draws=20, seed=5)
    for part, which in ((half, "measured"), (~half, "predicted")):
        changed = states.clone()
        changed[torch.as_tensor(part)] *= torch.linspace(0.5, 2, D)
        (point,) = few_shot_curve(changed, labels, groups, [4], draws=20, seed=5)
        other = {"measured": "predicted", "predicted": "measured"}[which]
        assert getattr(point, which) == getattr(plain, which) and getattr(point, other) != getattr(plain, other)
    rest = few_shot_law(states[torch.as_tensor(~half)], labels[~half], groups[~half]).ratio(4)
    for end in ("low", "high"):  # as wide as the law of the rows that it was measured on
        assert getattr(plain.measured, end) / plain.measured.value == pytest.approx(getattr(rest, end) / rest.value)
    assert few_shot_curve(states, labels, groups, [4], draws=20, seed=6)[0].measured != plain.measured


def test_groups_are_dealt_out_by_the_classes_that_they_hold():
    labels = np.repeat([1, 1, 0, 0, 1, 1, 0, 0], 3)  # as they stand, every fourth has the same class
    block = _blocks(labels, np.arange(24) // 3, 4)
    assert [(int((labels[block == b] == 1).sum()), int((block == b).sum())) for b in range(4)] == [(3, 6)] * 4


def test_a_direction_of_noise_is_seldom_measured():
    """‖w‖ = 0: half of all pilots put ‖w‖² above 0, and a one-sided 2.5 % of them beyond doubt."""
    found = [few_shot_law(*rows_of(25, 25, 0.0, seed)).reason for seed in range(80)]
    assert sum(not reason for reason in found) <= 6


def test_where_there_is_no_direction_it_says_so():
    states, labels = rows_of(50, 50, 0.0, 0)
    assert "cannot be told apart" in examples_needed(states, labels).reason
    few = examples_needed(*rows_of(20, 20, 3.0, 0), np.arange(40) % 8)
    assert few.status == "not measured" and "8 groups" in few.reason


def test_bad_input_is_told_in_a_sentence():
    states, labels = rows_of(20, 20, 2.0, 0)
    for call, words in (
        (lambda: few_shot_law(states, np.ones(40)), r"labels: got \[1.0\], wanted both 0 and 1"),
        (lambda: few_shot_law(states, np.arange(40) % 3), "the law is of two classes"),
        (lambda: few_shot_law(states, labels[:-1]), "one label and group for each row"),
        (lambda: few_shot_law(torch.full_like(states, math.nan), labels), "row 0 holds a NaN"),
        (lambda: examples_needed(states, labels, angle=90), "angle: got 90"),
        (lambda: direction_error(states, labels, None, 0), "n: got 0"),
        (lambda: few_shot_curve(states, labels, None, [9]), "wanted 1 to 3"),
    ):
        with pytest.raises(InputError, match=words):
            call()
