"""Areas with their intervals, folds, permutations and baselines, each against an oracle that was written another way."""

from __future__ import annotations

import random
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi2, norm
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from strandscope.errors import InputError
from strandscope.statistics import words
from strandscope.statistics.detect import (
    Area,
    area,
    area_difference,
    compare,
    design_effect,
    dyadic_covariance,
    quick_auroc,
    score_interval,
    smallest_detectable,
)
from strandscope.statistics.resample import group_folds, holm, permuted_labels, relabelled
from strandscope.strand.linear import Method, Training, noise_shares
from strandscope.strand.readings import pooled_aurocs


def rows_with_ties(seed, n=26, groups=7, folds=2, classes=2):
    """Scores from few values, labels, groups that mix them, and folds of whole groups."""
    generator = np.random.default_rng(seed)
    group = np.arange(n) % groups
    labels = generator.permutation(np.arange(n) % classes)
    return generator.integers(0, 6, n).astype(np.float64), labels, group, group % folds


def compared(labels, folds):
    """Every (positive row, negative row) of one fold."""
    return [
        (i, j) for i, j in product(range(len(labels)), repeat=2) if labels[i] == 1 and labels[j] == 0 and folds[i] == folds[j]
    ]


def counted(scores, labels, folds):
    """The AUROC counted pair by pair."""
    won = [1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0 for i, j in compared(labels, folds)]
    return sum(won) / len(won)


def independent_spread(auroc, positives, negatives):
    """Standard error of an AUROC for independent rows, as Hanley & McNeil (1982) print it."""
    q1, q2 = auroc / (2 - auroc), 2 * auroc * auroc / (1 + auroc)
    above = auroc * (1 - auroc) + (positives - 1) * (q1 - auroc * auroc) + (negatives - 1) * (q2 - auroc * auroc)
    return (above / (positives * negatives)) ** 0.5


def assert_uniform(draws, expected):
    """Chi-square over configurations, at one in a million."""
    seen = dict.fromkeys(expected, 0)
    for draw in draws:
        seen[tuple(draw)] += 1
    due = len(draws) / len(expected)
    assert sum((count - due) ** 2 / due for count in seen.values()) < chi2.ppf(1 - 1e-6, len(expected) - 1)


# Areas


@pytest.mark.parametrize("seed", range(5))
def test_the_auroc_counts_pairs_inside_folds_and_ties_as_halves(seed):
    scores, labels, groups, folds = rows_with_ties(seed)
    found = compare(scores, labels, groups, folds)
    assert found.auroc == pytest.approx(counted(scores, labels, folds), abs=1e-12)
    assert found.pairs == len(compared(labels, folds)) and (found.positives, found.negatives, found.groups) == (13, 13, 7)
    # Moving one fold's scores as a whole changes nothing: only rows of one fold are compared.
    assert area(scores + 100.0 * folds, labels, groups, folds).value == found.auroc


def test_each_pair_is_booked_under_the_groups_of_its_rows():
    scores, labels, groups, folds = rows_with_ties(3)
    found = compare(scores, labels, groups, folds)
    won, counts = np.zeros((7, 7)), np.zeros((7, 7))
    for i, j in compared(labels, folds):
        won[groups[i], groups[j]] += 0.5 + 0.5 * np.sign(scores[i] - scores[j])
        counts[groups[i], groups[j]] += 1
    assert np.array_equal(found.concordance, won) and np.array_equal(found.counts, counts)


def test_quick_auroc_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 8, (3, 4, 30)).astype(np.float64)
    labels = generator.permuted(np.tile(np.arange(30) % 3 == 0, (4, 1)), axis=1).astype(np.int64)
    found = quick_auroc(scores, labels)
    assert found.shape == (3, 4)
    for i, j in product(range(3), range(4)):
        assert found[i, j] == pytest.approx(roc_auc_score(labels[j], scores[i, j]), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fast_auroc_of_the_null_is_the_one_that_is_reported(classes):
    _, labels, groups, folds = rows_with_ties(1, n=36, classes=classes)
    columns = np.concatenate([labels[None], permuted_labels(labels, groups, 6, np.random.default_rng(0))])
    k = 1 if classes == 2 else classes
    scores = torch.randint(0, 9, (36, 7, k), generator=torch.Generator().manual_seed(0)).float()
    for column, found in enumerate(pooled_aurocs(scores, columns, folds)):
        mine = scores[:, column].double().numpy()
        assert found == pytest.approx(area(mine[:, 0] if k == 1 else mine, columns[column], groups, folds).value, abs=1e-12)


def test_of_several_classes_the_area_is_the_mean_of_each_against_the_rest():
    _, labels, groups, folds = rows_with_ties(2, n=36, classes=3)
    scores = np.random.default_rng(2).integers(0, 5, (36, 3)).astype(np.float64)
    each = [counted(scores[:, k], labels == k, folds) for k in range(3)]
    assert area(scores, labels, groups, folds).value == pytest.approx(np.mean(each), abs=1e-12)


def test_of_several_classes_the_standard_error_is_the_mean_of_theirs():
    generator = np.random.default_rng(0)
    labels, groups = np.repeat([0, 1, 2], [20, 40, 60]), np.arange(120) // 2
    scores = generator.normal(size=(120, 3)) + np.eye(3)[labels] * [0.3, 1.0, 1.5]
    folds = groups % 3
    found = area(scores, labels, groups, folds)
    each = [area(scores[:, k], (labels == k).astype(np.int64), groups, folds) for k in range(3)]
    errors = [part.effect**0.5 * independent_spread(part.value, part.positives, part.negatives) for part in each]
    joint = found.effect**0.5 * independent_spread(found.value, found.positives, found.negatives)
    assert (found.positives, found.negatives) == (40, 80) and joint == pytest.approx(np.mean(errors))


# Their variance


def centred_pairs(scores, labels, folds):
    pairs = compared(labels, folds)
    value = counted(scores, labels, folds)
    return pairs, np.array([0.5 + 0.5 * np.sign(scores[i] - scores[j]) - value for i, j in pairs])


def shared_products(pairs, first, second, groups):
    """Sum of first[p]·second[q] over all pairs of pairs p, q that have a group in common."""
    held = [{int(groups[i]), int(groups[j])} for i, j in pairs]
    return sum(first[p] * second[q] for p in range(len(pairs)) for q in range(len(pairs)) if held[p] & held[q])


@pytest.mark.parametrize("seed", range(4))
def test_dyadic_covariance_sums_every_product_of_pairs_that_share_a_group(seed):
    scores, labels, groups, folds = rows_with_ties(seed)
    other = np.random.default_rng(seed + 100).integers(0, 6, len(scores)).astype(np.float64)
    pairs, one = centred_pairs(scores, labels, folds)
    _, two = centred_pairs(other, labels, folds)
    ones = np.ones(len(pairs))
    overlap = shared_products(pairs, ones, ones, groups) / len(pairs) ** 2
    parts = [compare(values, labels, groups, folds) for values in (scores, other)]
    sums = [part.concordance - part.auroc * part.counts for part in parts]
    for a, b, x, y in ((one, two, sums[0], sums[1]), (one, one, sums[0], sums[0].copy())):
        wanted = shared_products(pairs, a, b, groups) / len(pairs) ** 2 / (1 - overlap)
        assert dyadic_covariance(x, y, parts[0].counts)[0] == pytest.approx(wanted, rel=1e-9, abs=1e-15)
    by_group = np.array([sum(c for (i, j), c in zip(pairs, one, strict=True) if g in (groups[i], groups[j])) for g in range(7)])
    carriers = (by_group**2).sum() ** 2 / (by_group**4).sum()
    assert dyadic_covariance(sums[0], sums[0], parts[0].counts)[1] == pytest.approx(carriers, rel=1e-9)


def test_a_variance_is_positive_where_the_exact_sum_falls_below_zero():
    centred, counts = np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones((2, 2))
    centred[0, 0] = centred[1, 1] = -1.2
    assert dyadic_covariance(centred, centred.copy(), counts)[0] < 0 < dyadic_covariance(centred, centred, counts)[0]


def test_the_design_effect_is_one_for_independent_rows_and_grows_with_what_groups_share():
    generator = np.random.default_rng(0)
    labels, groups, one_fold = np.tile([1, 0], 60), np.repeat(np.arange(30), 4), np.zeros(120, dtype=np.int64)

    def effects(shift, group):
        for _ in range(40):
            scores = labels + generator.normal(size=120) + shift * labels * generator.normal(size=30)[groups]
            yield design_effect(compare(scores, labels, group, one_fold), scores, labels, group)

    assert np.mean(list(effects(0.0, np.arange(120)))) == pytest.approx(1.0, abs=0.1)
    assert np.mean(list(effects(1.5, groups))) > 1.5


# Intervals


@pytest.mark.parametrize("each", [1, 2, 6])
@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_scores_have_an_interval(sign, each):
    labels = np.tile([1, 0], 24)
    groups = np.arange(48) // each
    found = area(sign * (labels + 0.01 * np.arange(48) / 48), labels, groups, np.arange(48) // 12 % 2)
    assert found.value == (1.0 if sign == 1 else 0.0)
    assert 0 <= found.low < found.high <= 1


@pytest.mark.parametrize("value", [0.02, 0.3, 0.5, 0.9, 0.999])
def test_the_interval_ends_where_the_score_test_turns(value):
    low, high = score_interval(value, 1.7, 40, 60, 21, 0.9)
    quantile = student.ppf(0.95, 20)
    assert 0 < low < value < high < 1
    for end in (low, high):
        assert abs(value - end) == pytest.approx(quantile * 1.7**0.5 * independent_spread(end, 40, 60), rel=1e-6)


def test_at_one_it_still_ends_where_the_score_test_turns():
    low, high = score_interval(1.0, 1.7, 40, 60, 21, 0.9)
    assert high == 1.0 and 0.8 < low < 0.99
    assert 1 - low == pytest.approx(student.ppf(0.95, 20) * 1.7**0.5 * independent_spread(low, 40, 60), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.02, 0.3, 0.5])
def test_swapping_the_classes_mirrors_the_interval(value):
    low, high = score_interval(value, 1.3, 40, 60, 21)
    mirrored = score_interval(1 - value, 1.3, 60, 40, 21)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-8)


@pytest.mark.parametrize("seed", range(10))
def test_the_interval_holds_its_estimate_shrinks_with_n_and_widens_with_noise(seed):
    generator = np.random.default_rng(seed)
    labels, groups = np.tile([1, 0], 240), np.repeat(np.arange(80), 6)
    scores = generator.normal(size=480) + generator.uniform(0, 3) * labels

    def of(rows, noise=0.0):
        found = area(scores[:rows], labels[:rows], groups[:rows], groups[:rows] % 3, noise=noise)
        assert 0 <= found.low <= found.value <= found.high <= 1
        return found.high - found.low

    assert of(480) < of(60)
    assert of(60) < of(60, 0.4) < of(60, 1.0) == of(60, 7.0)


def test_of_independent_rows_it_is_close_to_hanley_and_mcneil():
    generator = np.random.default_rng(0)
    labels, one_fold = np.tile([1, 0], 150), np.zeros(300, dtype=np.int64)
    for shift in (0.0, 0.6, 1.2):
        scores = generator.normal(size=300) + shift * labels
        found = area(scores, labels, np.arange(300), one_fold)
        reach = 1.96 * independent_spread(found.value, 150, 150)
        assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach), abs=0.25 * reach)


GROUPS, EACH = 24, 5  # rows of each class in a group
PLANTED = [(0.6, 0.0, 0.0), (0.75, 0.5, 1.0), (0.9, 1.0, 1.0), (0.97, 0.7, 0.0)]  # AUROC off groups, shift, interaction
RUNS = 400


def true_area(gap, shift, tilt):
    """AUROC of one fold of four or five whole groups: pairs of one group do not feel the shift that they share."""
    groups = np.arange(GROUPS)
    same = np.array([(groups % 5 == fold).sum() for fold in range(5)])
    near, far = norm.cdf(gap / np.sqrt(2 + tilt**2)), norm.cdf(gap / np.sqrt(2 + 2 * shift**2 + tilt**2))
    return float((same.sum() * near + (same**2 - same).sum() * far) / (same**2).sum())


def coverage_of_a_fixed_direction(best, shift, tilt, runs):
    generator = np.random.default_rng(round(100 * best))
    groups, labels = np.repeat(np.arange(GROUPS), 2 * EACH), np.tile(np.repeat([1, 0], EACH), GROUPS)
    gap = norm.ppf(best) * np.sqrt(2 + 2 * shift**2 + tilt**2)
    truth, held = true_area(gap, shift, tilt), 0
    for _ in range(runs):
        u, v = shift * generator.normal(size=GROUPS)[groups], tilt * generator.normal(size=GROUPS)[groups]
        found = area(labels * (gap + v) + u + generator.normal(size=len(labels)), labels, groups, groups % 5)
        held += found.low <= truth <= found.high
    return held


def test_the_interval_of_a_fixed_direction_holds_the_truth_as_often_as_it_says():
    """Within what binomial chance allows of 93.5 to 96.5 %, one in a thousand over all settings and their sum."""
    hits = [coverage_of_a_fixed_direction(*setting, RUNS) for setting in PLANTED]
    tail = 0.0005 / (len(PLANTED) + 1)
    for count, runs in [*((hit, RUNS) for hit in hits), (sum(hits), RUNS * len(PLANTED))]:
        assert binom.ppf(tail, runs, 0.935) <= count <= binom.ppf(1 - tail, runs, 0.965), hits


def fitted_run(generator, width=16, best=0.6):
    """Scores of cross-fitted differences of means, their noise share, and the true area of the fitted directions."""
    groups, labels = np.repeat(np.arange(GROUPS), 2 * EACH), np.tile(np.repeat([1, 0], EACH), GROUPS)
    delta = np.eye(width)[0] * norm.ppf(best) * np.sqrt(2)
    states = labels[:, None] * delta + generator.normal(size=(len(labels), width))
    fakes = relabelled(labels, groups, 20, generator)
    scores, shares, truth, pairs = np.zeros(len(labels)), [], 0.0, 0.0
    for fold in range(5):
        held = groups % 5 == fold
        direction = states[~held & (labels == 1)].mean(0) - states[~held & (labels == 0)].mean(0)
        direction /= np.linalg.norm(direction)
        scores[held] = states[held] @ direction
        columns = [torch.as_tensor(rows[:, ~held].T, dtype=torch.float64) for rows in (labels[None], fakes)]
        training = Training.of(torch.as_tensor(states[~held]))
        new = torch.as_tensor(states[held])
        shares.append(float(noise_shares(training, new, labels[held], [Method("difference of means")], *columns)))
        here = (held.sum() / 2) ** 2
        truth, pairs = truth + here * norm.cdf(delta @ direction / np.sqrt(2)), pairs + here
    return scores, labels, groups, float(np.mean(shares)), truth / pairs


def test_of_a_fitted_direction_it_holds_the_truth_only_with_the_noise_of_the_fit():
    generator, runs = np.random.default_rng(0), 300
    plain, with_noise = 0, 0
    for _ in range(runs):
        scores, labels, groups, noise, truth = fitted_run(generator)
        bare, full = (area(scores, labels, groups, groups % 5, noise=q) for q in (0.0, noise))
        plain, with_noise = plain + (bare.low <= truth <= bare.high), with_noise + (full.low <= truth <= full.high)
    assert plain < binom.ppf(0.001, runs, 0.95) <= with_noise, (plain, with_noise)


# Paired differences


def noisy_pair(seed, rows=120, common=1.0):
    generator = np.random.default_rng(seed)
    labels, groups = np.tile([1, 0], rows // 2), np.repeat(np.arange(rows // 4), 4)
    base = labels + common * generator.normal(size=rows)
    first, second = (base + 0.5 * generator.normal(size=rows) for _ in range(2))
    return first, second, labels, groups, groups % 3


def test_identical_scores_differ_by_nothing():
    first, _, labels, groups, folds = noisy_pair(0)
    value, low, high = area_difference(first, first.copy(), labels, groups, folds)
    alone = area(first, labels, groups, folds)
    assert value == 0 and low <= 0 <= high
    assert high - low < (alone.high - alone.low) / 2


@pytest.mark.parametrize("several", [False, True])
def test_a_difference_is_antisymmetric_and_its_interval_mirrored(several):
    first, second, labels, groups, folds = noisy_pair(1)
    if several:
        labels = np.arange(len(labels)) % 3
        first, second = (np.stack([scores, -scores, scores**2], axis=1) for scores in (first, second))
    value, low, high = area_difference(first, second, labels, groups, folds, noise=(0.3, 0.1))
    back = area_difference(second, first, labels, groups, folds, noise=(0.1, 0.3))
    assert back == pytest.approx((-value, -high, -low), abs=1e-12) and low < value < high
    assert value == area(first, labels, groups, folds).value - area(second, labels, groups, folds).value


def test_pairing_narrows_the_interval_of_scores_that_share_their_luck():
    def width(common):
        found = []
        for seed in range(10):
            first, second, labels, groups, folds = noisy_pair(seed, common=common)
            one, two = (area(scores, labels, groups, folds) for scores in (first, second))
            _, low, high = area_difference(first, second, labels, groups, folds)
            found.append((high - low) / np.hypot(one.high - one.low, two.high - two.low))
        return np.mean(found)

    assert width(2.0) < 0.6 and width(0.0) == pytest.approx(1.0, abs=0.2)


# Folds


@pytest.mark.parametrize("seed", range(5))
def test_folds_keep_groups_whole_and_hold_every_class_alike(seed):
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(30), generator.integers(2, 9, 30))
    labels = generator.integers(0, 3, len(groups))
    folds = group_folds(labels, groups, 5, generator)
    assert set(folds) == set(range(5))
    for group in range(30):
        assert len(set(folds[groups == group])) == 1
    for k in range(3):
        held = np.bincount(folds[labels == k], minlength=5) / (labels == k).sum()
        assert held.min() > 0.1 and held.max() < 0.3


def test_groups_that_are_alike_are_dealt_out_evenly():
    groups, labels = np.repeat(np.arange(20), 6), np.tile([0, 0, 0, 1, 1, 1], 20)
    assert np.bincount(group_folds(labels, groups, 5, np.random.default_rng(0))).tolist() == [24] * 5


def test_folds_follow_their_generator_and_no_global_state():
    groups, labels = np.repeat(np.arange(20), 6), np.tile([0, 1], 60)
    before = (np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist())  # noqa: NPY002
    drawn = [group_folds(labels, groups, 5, np.random.default_rng(seed)).tolist() for seed in (0, 0, 1)]
    permuted_labels(labels, groups, 3, np.random.default_rng(0))
    relabelled(labels, groups, 3, np.random.default_rng(0))
    after = (np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist())  # noqa: NPY002
    assert drawn[0] == drawn[1] != drawn[2] and before == after


@pytest.mark.parametrize(
    ("groups", "labels", "sentence"),
    [
        (np.arange(20) % 3, np.tile([0, 1], 10), r"^groups: got 3, wanted at least one per fold \(5\); add groups or use fewer"),
        (
            np.arange(20) % 10,
            (np.arange(20) % 10 < 3).astype(int),
            r"^groups: fold \d of 5 would hold no row of class 1; .* fewer",
        ),
    ],
)
def test_too_few_groups_are_answered_with_what_to_do(groups, labels, sentence):
    with pytest.raises(InputError, match=sentence):
        group_folds(labels, groups, 5, np.random.default_rng(0))


# Permutations


MIXING, WHOLE = np.array([0, 0, 0, 1, 1]), np.array([2, 2, 3, 4, 4, 4, 5])
LABELS, BOTH = np.array([1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 1]), np.concatenate([MIXING, WHOLE])


def test_permutations_keep_the_counts_of_groups_that_mix_and_move_the_others_whole():
    drawn = permuted_labels(LABELS, BOTH, 200, np.random.default_rng(0))
    assert drawn.shape == (200, 12) and len({tuple(draw) for draw in drawn}) > 20
    for group in (0, 1):
        assert (drawn[:, group == BOTH].sum(1) == 1).all()
    for group in (2, 3, 4, 5):
        assert (drawn[:, group == BOTH] == drawn[:, group == BOTH][:, :1]).all()
    firsts = np.array([np.flatnonzero(group == BOTH)[0] for group in (2, 3, 4, 5)])
    assert (np.sort(drawn[:, firsts], axis=1) == [0, 0, 1, 1]).all()
    assert permuted_labels(LABELS, BOTH, 0, np.random.default_rng(0)).shape == (0, 12)


def test_every_permutation_that_the_null_allows_is_equally_likely():
    groups, labels = np.array([0, 0, 0, 1, 2, 2, 3]), np.array([1, 0, 0, 2, 0, 0, 1])
    drawn = permuted_labels(labels, groups, 9000, np.random.default_rng(0))
    inside = sorted(set(permutations((1, 0, 0))))
    wanted = [(*a, b[0], b[1], b[1], b[2]) for a in inside for b in permutations((2, 0, 1))]
    assert_uniform(drawn, wanted)


def test_pairs_exchange_their_labels_where_they_differ_and_as_wholes_where_they_do_not():
    groups = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
    pairs = np.array([0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 5])  # a mixed pair, one of ones, one of zeros, a single row; two pure groups
    labels = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0])
    order = np.random.default_rng(1).permutation(11)  # rows of a pair need not stand together
    drawn = np.empty((9000, 11), dtype=np.int64)
    drawn[:, order] = permuted_labels(labels[order], groups[order], 9000, np.random.default_rng(0), pairs[order])
    blocks = [(1, 1, 0, 0, 0), (0, 0, 1, 1, 0), (0, 0, 0, 0, 1)]
    assert_uniform(drawn, [(*a, *b, *c) for a in ((1, 0), (0, 1)) for b in blocks for c in ((1, 1, 0, 0), (0, 0, 1, 1))])


def test_rows_without_pairs_are_permuted_as_where_each_is_its_own():
    args = LABELS, BOTH, 50
    single = permuted_labels(*args, np.random.default_rng(0), np.arange(12))
    assert (single == permuted_labels(*args, np.random.default_rng(0))).all()


def test_relabelling_keeps_what_rows_of_a_group_share_and_renames_the_classes():
    labels, groups = np.array([0, 1, 2, 0, 1, 1, 2, 0]), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    drawn = relabelled(labels, groups, 7200, np.random.default_rng(0))
    for group in (0, 1):
        mine, theirs = labels[groups == group], drawn[:, groups == group]
        assert ((theirs[:, :, None] == theirs[:, None]) == (mine[:, None] == mine[None])).all()
    names = np.concatenate([drawn[:, [0, 1, 2]], drawn[:, [7, 4, 6]]], axis=1)  # what classes 0, 1, 2 are called in either group
    assert_uniform(names, [(*a, *b) for a in permutations(range(3)) for b in permutations(range(3))])


# Several tests at once, and power


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.005, 0.009, 0.05, 0.5], [0.02, 0.027, 0.1, 0.5]),
        ([0.6, 0.4, 0.02], [0.8, 0.8, 0.06]),
        ([0.9, 0.9], [1.0, 1.0]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm_by_hand(raw, adjusted):
    assert holm(raw) == pytest.approx(adjusted)


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_the_largest_of_the_weighted_smaller_ones(seed):
    raw = (np.random.default_rng(seed).random(8) ** 3).tolist()
    adjusted = holm(raw)
    for mine, found in zip(raw, adjusted, strict=True):
        assert found == pytest.approx(min(1.0, max(sum(q >= p for q in raw) * p for p in raw if p <= mine)))
        assert mine <= found <= 1
    order = np.argsort(raw)
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@pytest.mark.parametrize(("critical", "power"), [(0.58, 0.8), (0.65, 0.8), (0.65, 0.95)])
def test_the_smallest_detectable_area_is_detected_as_often_as_it_says(critical, power):
    positives, negatives, runs = 60, 90, 6000
    measured = Area(0.7, 0.6, 0.8, 0.95, 1.0, positives, negatives, 150)
    smallest = smallest_detectable(critical, measured, power)
    labels = np.repeat([1, 0], [positives, negatives])
    scores = np.random.default_rng(0).normal(size=(runs, 150)) + np.sqrt(2) * norm.ppf(smallest) * labels
    assert (quick_auroc(scores, labels) > critical).mean() == pytest.approx(power, abs=0.03)


def test_what_is_detectable_worsens_with_the_design_effect_and_stays_an_area():
    def smallest(critical, effect):
        return smallest_detectable(critical, Area(0.7, 0.6, 0.8, 0.95, effect, 40.0, 40.0, 20))

    assert 0.6 < smallest(0.6, 1.0) < smallest(0.6, 3.0) < 1
    assert smallest(1.0, 1.0) is None


# What words and lengths tell


FILLER = "tree stone river cloud lamp chair road bread window garden".split()


def sentences(seed=0, rows=60, told="splendid"):
    """Random words, and in the rows of class 1 the word that tells them."""
    generator = np.random.default_rng(seed)
    labels, groups = np.tile([0, 1], rows // 2), np.repeat(np.arange(rows // 4), 4)
    texts = [" ".join([*generator.choice(FILLER, 6), *([told] if label else ["dull"])]) for label in labels]
    return texts, labels, groups, group_folds(labels, groups, 3, generator)


def test_an_obvious_word_is_learned_and_nothing_is_learned_from_filler():
    texts, labels, groups, folds = sentences()
    scores, noise = words.word_scores(texts, labels, groups, folds, 2, np.random.default_rng(0))
    assert scores.shape == (60,) and area(scores, labels, groups, folds).value == 1.0
    plain = [text.rsplit(" ", 1)[0] for text in texts]
    blind, all_noise = words.word_scores(plain, labels, groups, folds, 2, np.random.default_rng(0))
    found = area(blind, labels, groups, folds, noise=all_noise)
    assert found.low < 0.5 < found.high
    assert 0 <= noise <= 1 and 0.7 < all_noise <= 1


@pytest.mark.parametrize("classes", [2, 3])
def test_lengths_tell_classes_that_differ_in_length(classes):
    generator = np.random.default_rng(0)
    labels, groups = np.arange(90) % classes, np.repeat(np.arange(15), 6)
    lengths = np.stack([generator.poisson(10.0 ** (labels + 1)), generator.poisson(3 + 5 * labels)], axis=1).astype(np.float64)
    folds = group_folds(labels, groups, 5, generator)
    scores, noise = words.length_scores(lengths, labels, groups, folds, classes, generator)
    assert scores.shape == ((90,) if classes == 2 else (90, 3)) and 0 <= noise < 0.3
    # The middle class of three is on neither side of a line through one length; the outer two are.
    ends = scores if classes == 2 else scores[:, 2]
    assert area(ends, (labels == classes - 1).astype(np.int64), groups, folds).value > 0.95


def flipped(labels, rows):
    return np.where(rows, 1 - labels, labels)


def baselines(texts, labels, groups, folds):
    lengths = np.array([[len(text), len(text.split())] for text in texts], dtype=np.float64)
    for scored in (
        words.word_scores(texts, labels, groups, folds, 2, np.random.default_rng(0)),
        words.length_scores(lengths, labels, groups, folds, 2, np.random.default_rng(0)),
    ):
        yield scored[0]


@pytest.mark.parametrize("fold", range(3))
def test_labels_of_a_fold_never_reach_its_own_scores(fold, monkeypatch):
    # With inner folds that depend on the groups alone; drawn ones would move the random stream of later folds.
    monkeypatch.setattr(words, "group_folds", lambda labels, groups, folds, generator: groups % folds)
    texts, labels, groups, folds = sentences()
    mine = folds == fold
    for before, after in zip(
        baselines(texts, labels, groups, folds), baselines(texts, flipped(labels, mine), groups, folds), strict=True
    ):
        assert np.array_equal(before[mine], after[mine]) and not np.allclose(before[~mine], after[~mine])


def test_scores_of_the_first_fold_are_untouched_by_its_labels_with_drawn_inner_folds_too():
    texts, labels, groups, folds = sentences()
    mine = folds == 0
    for before, after in zip(
        baselines(texts, labels, groups, folds), baselines(texts, flipped(labels, mine), groups, folds), strict=True
    ):
        assert np.array_equal(before[mine], after[mine])
