"""Dimensions from random rows: unbiased as promised, covered where an interval is given, silent where nothing is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from strandscope.errors import InputError
from strandscope.statistics.pairs import log_ratio
from strandscope.statistics.spectrum import (
    energy_dimension,
    energy_reading,
    held_out_share,
    overlap,
    participation,
    participation_of,
    participations,
    top_eigenvalues,
    trace,
)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def brute(rows):
    """log PR and the plain jackknife's leave-one-out values, by explicit loops over pairs."""

    def log(kept):
        top = sum(float(rows[i] @ rows[i]) * float(rows[j] @ rows[j]) for i in kept for j in kept if i != j)
        return math.log(top) - math.log(sum(float(rows[i] @ rows[j]) ** 2 for i in kept for j in kept if i != j))

    every = range(len(rows))
    return log(every), [log([j for j in every if j != i]) for i in every]


def test_sums_over_pairs_are_those_of_explicit_loops():
    rows = normal(9, 5)
    whole, _ = brute(rows)
    found = participation(rows)
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    assert found.square == pytest.approx(sum(float(rows[i] @ rows[j]) ** 2 for i, j in pairs) / 72)
    assert found.trace == pytest.approx(float(rows.square().sum()) / 9)
    assert found.log == pytest.approx(whole, abs=0.3)  # less its bias
    assert participation(gram=rows @ rows.T) == found


def test_far_from_degenerate_the_variance_is_the_jackknife_s():
    """A spectrum with a few large eigenvalues: the pairs' own noise is small beside that of the rows."""
    rows = normal(200, 12) * torch.arange(1, 13, dtype=torch.float64) ** -1.5
    whole, without = brute_by_gram(rows)
    spread = np.asarray(without)
    jackknife = (len(rows) - 1) / len(rows) * float(((spread - spread.mean()) ** 2).sum())
    found = participation(rows)
    assert found.variance == pytest.approx(jackknife, rel=0.08)  # where each pair's own noise is counted twice it would be more
    assert found.log == pytest.approx(len(rows) * whole - (len(rows) - 1) * spread.mean(), abs=0.1 * jackknife**0.5)


def brute_by_gram(rows):
    gram = (rows @ rows.T).numpy()

    def log(kept):
        part = gram[np.ix_(kept, kept)]
        own = np.diag(part)
        return math.log(own.sum() ** 2 - (own**2).sum()) - math.log((part**2).sum() - (own**2).sum())

    every = np.arange(len(rows))
    return log(every), [log(np.delete(every, i)) for i in every]


def test_both_traces_are_unbiased_at_eight_rows():
    lam = torch.tensor([3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    found = participations(normal(20000, 8, 4) * lam.sqrt())
    for values, true in ((found.trace, lam.sum()), (found.square, lam.square().sum())):
        assert float(values.mean()) == pytest.approx(float(true), abs=4 * float(values.std()) / 20000**0.5)


def softmax_rows(repetitions, rows, scale, seed=1):
    """Score rows of a random softmax in 64 dimensions, and the exact metric."""
    weights = normal(2000, 64, seed=seed) * torch.arange(1, 65, dtype=torch.float64) ** -0.3
    p = (normal(2000, seed=seed + 1) * scale).softmax(0)
    centred = weights - p @ weights
    drawn = torch.multinomial(p, repetitions * rows, True, generator=stream(seed + 2))
    return centred[drawn].view(repetitions, rows, 64), centred.T @ (centred * p[:, None])


@pytest.mark.parametrize("case", ["isotropic", "power law", "softmax"])
def test_intervals_cover_where_the_jackknife_alone_does_not(case):
    """600 repetitions, so within .025 of .95; the plain jackknife covers .99 of the isotropic case. The certificate has 2,000."""
    if case == "softmax":
        rows, matrix = softmax_rows(600, 64, 3.0)
    else:
        spectrum = torch.ones(60) if case == "isotropic" else torch.arange(1, 401) ** -1.0
        rows, matrix = normal(600, 64, len(spectrum)) * spectrum.double().sqrt(), torch.diag(spectrum.double())
    found, true = participations(rows), participation_of(matrix)
    covered = float(((found.low <= true) & (true <= found.high)).double().mean())
    assert 0.925 <= covered <= 0.975
    assert float(found.log.mean()) == pytest.approx(math.log(true), abs=4 * float(found.log.std()) / 600**0.5 + 0.01)


def test_a_batch_is_its_contexts_one_by_one():
    rows = normal(5, 20, 30)
    batch = participations(rows)
    for index in range(5):
        one = participation(rows[index])
        assert batch[index].value == pytest.approx(one.value, rel=1e-12) and batch[index].high == pytest.approx(one.high)
    assert len(batch) == 5 and bool(batch.readable().all())


def test_scale_and_rotation_change_nothing():
    rows = normal(40, 15) * torch.arange(1, 16, dtype=torch.float64)
    turned = 1e-9 * rows @ torch.linalg.qr(normal(15, 15, seed=1)).Q
    one, two = participation(rows), participation(turned)
    assert (two.value, two.low, two.high, two.variance) == pytest.approx((one.value, one.low, one.high, one.variance), rel=1e-8)


def test_one_direction_is_one_dimension_exactly():
    found = participation(normal(64, 1) * torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64))
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_the_exact_ratio():
    assert participation_of(torch.eye(7)) == pytest.approx(7)
    assert participation_of(torch.diag(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx(16 / 6)
    with pytest.raises(InputError, match="it is zero"):
        participation_of(torch.zeros(3, 3))


def test_draws_that_missed_the_rare_outcomes_are_not_measured():
    """p = .99 and .01/30: most batches of 64 hold the common outcome alone, and a rare one carries everything where it comes."""
    directions = normal(31, 20)
    p = torch.tensor([0.99] + [0.01 / 30] * 30, dtype=torch.float64)
    scores = directions - p @ directions
    readings = [participation(scores[torch.multinomial(p, 64, True, generator=stream(seed))]).reading() for seed in range(40)]
    assert {reading.status for reading in readings} == {"not measured"}
    assert any("mean of the scores" in reading.reason for reading in readings)
    assert any("carry the trace" in reading.reason for reading in readings)


def test_a_trace_below_the_floor_is_not_measured_and_says_so():
    found = participation(1e-4 * normal(64, 10))
    assert found.reading().status == "measured"
    low = found.reading(floor=1e-3)
    assert low.status == "not measured" and "floor" in low.reason


def test_rows_with_a_mean_are_refused_as_scores_alone():
    rows = normal(64, 10) + 3.0
    assert participation(rows).reading().status == "not measured"
    assert participation(rows).reading(scores=False).status == "measured"


def test_bad_rows_are_told_in_a_sentence():
    for call, words in (
        (lambda: participation(torch.zeros(10, 3)), "every one is zero"),
        (lambda: participation(torch.full((10, 3), math.inf)), "row 0 holds a NaN or an infinity"),
        (lambda: participation(normal(3, 8)), "wanted at least 4"),
        (lambda: participation(normal(3, 8, 2)), r"wanted \(rows, d\)"),
        (lambda: participation(), "give either rows"),
        (lambda: overlap(normal(3, 8, 2)), "wanted at least 4"),
        (lambda: overlap(normal(6, 8, 2), np.zeros(6, dtype=np.int64)), r"got 1 \(groups of them\)"),
        (lambda: overlap(torch.cat([normal(5, 8, 2), torch.zeros(1, 8, 2, dtype=torch.float64)])), "context 5"),
        (lambda: overlap(normal(6, 8, 2)).at(0), "at least one context"),
        (lambda: top_eigenvalues(normal(5, 20), 6), "k: got 6"),
        (lambda: energy_dimension(torch.eye(3), 1.5), "share: got 1.5"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_the_trace_has_an_interval_that_covers():
    rows = normal(400, 64, 10)
    readings = [trace(context) for context in rows]
    assert 0.92 <= np.mean([reading.low <= 10 <= reading.high for reading in readings]) <= 0.98


# Contexts


def planted_contexts(contexts, draws, rank=4, d=40, shared=2, seed=0):
    """Metrics of `rank` dimensions, `shared` of them common to all; rows of each, and the exact metrics."""
    common = torch.linalg.qr(normal(d, shared, seed=seed + 1)).Q if shared else torch.zeros(d, 0, dtype=torch.float64)
    own = torch.linalg.qr(normal(contexts, d, rank - shared, seed=seed + 2)).Q
    bases = torch.cat([common.expand(contexts, -1, -1), own], -1)
    rows = normal(contexts, draws, rank, seed=seed + 3) @ bases.transpose(-1, -2)
    return rows, bases @ bases.transpose(-1, -2) / rank


def test_overlaps_are_those_of_the_exact_metrics():
    rows, exact = planted_contexts(30, 500)
    found = overlap(rows)
    wanted = torch.einsum("iab,jab->ij", exact, exact)
    apart = ~torch.eye(30, dtype=torch.bool)
    assert float((found.matrix - wanted)[apart].abs().max()) < 0.04
    assert found.omega == pytest.approx(float(wanted[apart].mean()), abs=4e-3)
    assert found.inverse_local == pytest.approx(float(wanted.diagonal().mean()), abs=4e-3)


def test_overlaps_do_not_depend_on_the_block_in_which_they_are_computed(monkeypatch):
    from strandscope.statistics import overlap as module

    rows, _ = planted_contexts(6, 10)
    whole = overlap(rows).matrix
    monkeypatch.setattr(module, "_BLOCK", 6 * 40 * 7)
    assert torch.allclose(overlap(rows).matrix, whole, rtol=1e-12)
    metrics = (rows.transpose(-1, -2) @ rows) / rows.square().sum((-1, -2))[:, None, None]
    plain = torch.einsum("iab,jab->ij", metrics, metrics)
    apart = ~torch.eye(6, dtype=torch.bool)
    assert float((whole - plain)[apart].abs().max()) < 0.1 * float(plain.max()) and not torch.equal(whole, plain)


def test_the_ratio_s_bias_is_taken_off():
    """With six Gaussian draws of a lopsided metric the plain Σggᵀ/Σ‖g‖² is biased; the jackknifed weights much less."""
    lam = torch.tensor([8.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    rows = normal(4000, 6, 5) * lam.sqrt()
    true = float(lam.square().sum() / lam.sum() ** 2)
    plain = (rows.transpose(-1, -2) @ rows) / rows.square().sum((-1, -2))[:, None, None]
    naive = float(((plain.sum(0)).square().sum() - plain.square().sum()) / (4000 * 3999))
    found = overlap(rows).omega
    assert abs(found - true) < 0.35 * abs(naive - true)


def test_the_pooled_law_predicts_what_more_contexts_give():
    """1/PR_N from 40 contexts holds for the exact pooled metric of 400."""
    rows, _ = planted_contexts(40, 64)
    found = overlap(rows)
    _, exact = planted_contexts(400, 4, seed=10)
    true = participation_of(exact.mean(0))
    assert found.reading(400).low <= true <= found.reading(400).high
    assert found.at(40) < found.at(400) < found.at(math.inf) == pytest.approx(1 / found.omega)
    assert found.at(1) == pytest.approx(1 / found.inverse_local)


@pytest.mark.parametrize("shared", [0, 2])
def test_the_pooled_interval_covers(shared):
    """Whether contexts are exchangeable to first order (random subspaces) or share directions; truth in closed form."""
    r, d, k = 4, 40, shared
    true = r**2 / (k + (r - k) ** 2 / d + (2 * k * (r - k) / d))
    covered = []
    for seed in range(250):
        rows, _ = planted_contexts(32, 16, shared=shared, seed=100 + 5 * seed)
        reading = overlap(rows).pooled()
        covered.append(reading.low <= true <= reading.high)
    assert 0.91 <= np.mean(covered) <= 0.985


def test_groups_are_deleted_whole_and_never_compared_with_themselves():
    rows, _ = planted_contexts(12, 30)
    twice = torch.cat([rows, rows])
    groups = np.tile(np.arange(12), 2)
    one, two, wrong = overlap(rows), overlap(twice, groups), overlap(twice)
    assert two.omega == pytest.approx(one.omega) and wrong.omega > 1.01 * one.omega
    assert two.pooled().high - two.pooled().low == pytest.approx(one.pooled().high - one.pooled().low, rel=1e-6)


# Spectra


def test_top_eigenvalues_of_rows_and_of_their_matrix_agree():
    rows = normal(30, 12)
    one, two = top_eigenvalues(rows, 4), top_eigenvalues(rows.T @ rows / 30, 4, matrix=True)
    assert torch.allclose(one.values, two.values) and one.trace == pytest.approx(two.trace)


def test_a_share_is_scored_on_draws_that_did_not_choose():
    noise = held_out_share(normal(50, 20, 200), 5)
    assert float(noise.mean()) == pytest.approx(5 / 200, rel=0.15)
    rows, _ = planted_contexts(20, 40)
    assert float(held_out_share(rows, 4).min()) == pytest.approx(1.0)


def test_the_energy_dimension_counts_and_is_only_read_where_it_stands_still():
    assert energy_dimension(torch.diag(torch.tensor([5.0, 3.0, 1.0, 1.0])), 0.8) == 2
    assert energy_dimension(torch.eye(10), 0.9) == 9
    growing = energy_reading(normal(40, 200))
    assert growing.status == "not measured" and "grows" in growing.reason
    still = energy_reading(normal(600, 10))
    assert (still.value, still.level) == (9.0, None) and still.low <= 9 <= still.high


def test_a_sum_that_is_not_positive_has_no_logarithm():
    kernel = torch.full((6, 6), -1.0, dtype=torch.float64)
    assert math.isnan(float(log_ratio(torch.ones_like(kernel), kernel).log))
    orthogonal = participation(torch.eye(20, dtype=torch.float64))
    assert orthogonal.reading(scores=False).status == "not measured"
