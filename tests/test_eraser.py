"""The theorems of LEACE on the rows of the fit, and what holds on rows that the eraser has not seen."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, t
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from strandscope.control import erase
from strandscope.control.erase import GRID, Eraser, fit_eraser
from strandscope.errors import InputError
from strandscope.statistics.accumulators import ClassMoments
from strandscope.statistics.detect import quick_auroc
from strandscope.strand.linear import Method, Training, fit_scores

D = 12


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(n: int = 200, d: int = D, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows far from the origin, whose covariance is far from round, with classes of unequal size in them."""
    labels = torch.arange(n) % (classes + 1) % classes
    return drawn(n, d, seed=seed) @ drawn(d, d, seed=seed + 1) + 2 * drawn(classes, d, seed=seed + 2)[labels] + 40, labels


def oracle(states: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(d, d) projection P and (d,) mean of LEACE, dense, from its definition."""
    x, z = states.numpy(), np.eye(int(labels.max()) + 1)[labels.numpy()]
    centred = x - x.mean(0)
    sigma, across = centred.T @ centred / len(x), centred.T @ (z - z.mean(0)) / len(x)
    u, s, _ = np.linalg.svd(sigma)
    keep = s > 1e-11 * s[0]
    whiten = (u[:, keep] / np.sqrt(s[keep])) @ u[:, keep].T
    across = whiten @ across
    return np.linalg.pinv(whiten, rcond=1e-7) @ across @ np.linalg.pinv(across, rcond=1e-7) @ whiten, x.mean(0)


def projection(eraser: Eraser) -> Tensor:
    """(d, d) P with h' = h − P(h − mean)."""
    return eraser.write @ eraser.read.T


def indicators(labels: Tensor) -> Tensor:
    z = torch.nn.functional.one_hot(labels).double()
    return z - z.mean(0)


CASES = {
    "three classes": correlated(),
    "two classes": correlated(classes=2, seed=5),
    "six classes": correlated(classes=6, seed=9),
    "more coordinates than rows": correlated(30, 50, seed=12),
    "degenerate covariance": (correlated(d=5, seed=20)[0] @ drawn(5, D, seed=21), correlated(d=5)[1]),
}


# --- the theorems, on the rows of the fit ---


@pytest.mark.parametrize("case", CASES)
def test_equals_a_dense_leace_of_another_hand(case: str) -> None:
    states, labels = CASES[case]
    wanted, mean = oracle(states, labels)
    eraser = fit_eraser(states, labels, shrinkage=0)
    assert np.allclose(projection(eraser).numpy() @ (states.numpy() - mean).T, wanted @ (states.numpy() - mean).T, atol=1e-8)
    assert np.allclose(eraser.mean.numpy(), mean, rtol=1e-12)
    exact = states.numpy() - (states.numpy() - mean) @ wanted.T
    assert np.allclose(eraser.edit()(states).numpy(), exact, atol=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_no_linear_predictor_is_better_than_a_constant(case: str) -> None:
    states, labels = CASES[case]
    eraser = fit_eraser(states, labels, shrinkage=0)
    erased, z = eraser.edit()(states), indicators(labels)
    before, after = ((part - part.mean(0)).T @ z / len(z) for part in (states, erased))
    assert after.abs().max() < 1e-11 * before.abs().max()
    assert torch.allclose(erased.mean(0), states.mean(0), rtol=1e-12)
    slope = torch.linalg.pinv(erased - erased.mean(0), rtol=1e-8) @ z  # least squares, on the erased states
    assert ((erased - erased.mean(0)) @ slope).abs().max() < 1e-8
    assert ((states - states.mean(0)) @ (torch.linalg.pinv(states - states.mean(0), rtol=1e-8) @ z)).abs().max() > 0.1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shrinkage", GRID)
def test_erases_once_and_for_all_with_rank_one_less_than_the_classes(case: str, shrinkage: float) -> None:
    states, labels = CASES[case]
    eraser = fit_eraser(states, labels, shrinkage=shrinkage)
    assert eraser.rank == int(labels.max())
    assert torch.allclose(eraser.read.T @ eraser.write, torch.eye(eraser.rank, dtype=torch.float64), atol=1e-9)
    once = eraser.edit()(states)
    assert torch.allclose(eraser.edit()(once), once, atol=1e-9)


def test_class_means_on_a_line_are_erased_with_rank_one_and_equal_ones_with_none() -> None:
    noise = drawn(300, D)
    labels = torch.arange(300) % 3
    noise -= torch.stack([noise[labels == code].mean(0) for code in range(3)])[labels]
    line = fit_eraser(noise + labels[:, None] * drawn(D, seed=1), labels, shrinkage=0)
    assert line.rank == 1
    for shrinkage in (0, 0.5):
        none = fit_eraser(noise, labels, shrinkage=shrinkage)
        assert none.rank == 0 and torch.equal(none.edit()(noise), noise)
    still = torch.ones(8, D)  # nothing varies, so nothing is in it
    for groups in (None, torch.arange(8) // 4):
        assert fit_eraser(still, torch.arange(8) % 2, groups, shrinkage=None if groups is not None else 0).rank == 0
    assert fit_eraser(noise, labels, torch.arange(300) // 30).rank == 0


@pytest.mark.parametrize("case", ["three classes", "two classes", "degenerate covariance"])
def test_no_other_guard_moves_the_states_less(case: str) -> None:
    """Affine maps that guard are those whose linear part kills Σxz: P + perturbations that do so move the states more."""
    states, labels = CASES[case]
    eraser = fit_eraser(states, labels, shrinkage=0)
    centred = states - states.mean(0)
    across = centred.T @ indicators(labels) / len(states)

    def change(map_: Tensor) -> float:
        return float((centred @ map_.T).square().sum(1).mean())

    best, found = change(projection(eraser)), projection(eraser)
    basis = torch.linalg.svd(across).U[:, : eraser.rank]
    orthogonal = basis @ basis.T  # the projection that has no covariance in it (SAL, mean projection)
    assert torch.allclose(orthogonal @ across, across) and change(orthogonal) > 1.02 * best
    free = torch.eye(D, dtype=torch.float64) - orthogonal  # what may be added without undoing the guard
    for seed in range(50):
        step = drawn(D, D, seed=seed) @ free
        assert torch.allclose((found + step) @ across, across, atol=1e-9)
        assert abs(float(((centred @ found.T) * (centred @ step.T)).sum(1).mean())) < 1e-9 * best  # optimal to first order
        assert all(change(found + size * step) > best for size in (1e-3, -1e-3, 0.1, -0.1))
    for seed in range(20):  # projections of the same rank, that read otherwise
        read = basis + 0.3 * drawn(D, eraser.rank, seed=seed)
        oblique = basis @ torch.linalg.solve(read.T @ basis, read.T)
        assert torch.allclose(oblique @ across, across) and change(oblique) > best


def test_shrinkage_guards_what_a_ridge_predicts() -> None:
    """The same theorem with another concept: the classes' ridge prediction, from a dense solve."""
    states, labels = CASES["three classes"]
    centred, z = states - states.mean(0), indicators(labels)
    sigma = centred.T @ centred / len(states)
    for shrinkage in (0.1, 0.7, 1.0):
        shrunk = (1 - shrinkage) * sigma + shrinkage * sigma.trace() / D * torch.eye(D, dtype=torch.float64)
        predicted = centred @ torch.linalg.solve(shrunk, centred.T @ z / len(states))
        eraser = fit_eraser(states, labels, shrinkage=shrinkage)
        erased = eraser.edit()(states)
        assert ((erased - erased.mean(0)).T @ predicted).abs().max() < 1e-9 * (centred.T @ predicted).abs().max()
        across = centred.T @ predicted / len(states)
        assert torch.allclose(projection(eraser) @ across, across, atol=1e-9)
        noise = drawn(D, D, seed=1)
        noise -= noise @ across @ torch.linalg.pinv(across)
        assert abs(float(((centred @ projection(eraser).T) * (centred @ noise.T)).sum())) < 1e-6  # optimal among its guards


# --- streams ---


@pytest.mark.parametrize("shrinkage", [0.0, 0.5])
def test_shards_in_any_order_give_the_eraser_of_all_rows(shrinkage: float) -> None:
    states, labels = CASES["three classes"]
    whole = fit_eraser(states, labels, shrinkage=shrinkage)
    shards = [slice(0, 1), slice(1, 60), slice(60, 61), slice(61, 200)]
    for order in itertools.permutations(shards):
        merged = ClassMoments(3, D)
        for rows in order:
            part = ClassMoments(3, D)
            part.update(states[rows], labels[rows])
            merged.merge(part)
        eraser = Eraser.of(merged.result(), shrinkage)
        assert (eraser.n, eraser.counts, eraser.how) == (200, whole.counts, "given")
        assert torch.allclose(projection(eraser), projection(whole), atol=1e-10)
        assert torch.allclose(eraser.mean, whole.mean)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_in_the_networks_own_dtype_are_erased_to_its_rounding(dtype: torch.dtype) -> None:
    states, labels = CASES["three classes"]
    rough = (states - 40).to(dtype).requires_grad_()  # as states come that were not made without gradients
    assert not fit_eraser(rough, labels, torch.arange(200) // 10).write.requires_grad
    erased = fit_eraser(rough, labels, shrinkage=0).edit()(rough.detach())
    across = (erased.double() - erased.double().mean(0)).T @ indicators(labels) / len(states)
    assert erased.dtype == dtype and across.abs().max() < torch.finfo(dtype).eps * rough.double().abs().max()


# --- fresh rows ---


class Planted:
    """States of 200 coordinates whose variance falls off, with a concept of two classes in the leading 20, or in all alike."""

    def __init__(self, seed: int, leading: bool) -> None:
        self.random = np.random.default_rng(seed)
        self.turn = np.linalg.qr(self.random.standard_normal((200, 200)))[0]
        self.spread = np.arange(1, 201) ** -0.35
        apart = self.random.standard_normal(200) * (np.arange(200) < 20 if leading else 1)
        self.apart = 1.5 * apart / np.linalg.norm(apart)

    def rows(self, n: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """States, labels and groups of ten."""
        labels = np.arange(n) % 2
        states = self.random.standard_normal((n, 200)) * self.spread + np.outer(labels - 0.5, self.apart) + 3
        return torch.as_tensor(states @ self.turn.T), labels, np.arange(n) // 10

    def left(self, eraser: Eraser) -> float:
        """Squared separation d′² that the best of all linear probes has on erased states: it is 0 on what is written along."""
        apart = self.apart / self.spread
        written = (self.turn.T @ eraser.write.numpy()[:, 0]) / self.spread
        return float(apart @ apart - (written @ apart) ** 2 / (written @ written))


def read_by_a_probe(states: Tensor, labels: np.ndarray, groups: np.ndarray) -> float:
    """AUROC of a shrunk linear discriminant that is trained and tested on these rows, on other groups."""
    parts = [torch.as_tensor(np.flatnonzero(groups == group)) for group in np.unique(groups)]
    columns = torch.as_tensor(labels)[:, None].double()
    scores, _ = fit_scores(Training.of(states), states[:0], [Method("shrunk LDA")], columns, parts)
    return float(quick_auroc(scores[0, :, 0].numpy(), labels))


def interval(differences: list[float]) -> tuple[float, float]:
    mean, error = np.mean(differences), np.std(differences, ddof=1) / math.sqrt(len(differences))
    reach = t.ppf(0.975, len(differences) - 1) * error
    return float(mean - reach), float(mean + reach)


def test_of_few_rows_the_regularised_eraser_leaks_less_on_fresh_ones() -> None:
    probe, best, before, seen = [], [], [], []
    for seed in range(24):
        planted = Planted(seed, leading=True)
        states, labels, groups = planted.rows(120)
        plain, chosen = fit_eraser(states, labels, shrinkage=0), fit_eraser(states, labels, groups)
        fresh = planted.rows(240)
        read = [read_by_a_probe(eraser.edit()(fresh[0]), *fresh[1:]) for eraser in (plain, chosen)]
        probe.append(read[0] - read[1])
        best.append(planted.left(plain) - planted.left(chosen))
        before.append(read_by_a_probe(*fresh))
        seen.append(read_by_a_probe(plain.edit()(states), labels, groups))
        assert chosen.how.startswith("chosen") and [shrinkage for shrinkage, _ in chosen.leakage] == list(GRID)
        assert min(left for _, left in chosen.leakage) == dict(chosen.leakage)[chosen.shrinkage]
    assert np.mean(before) > 0.95 and np.mean(seen) < 0.1  # the probe could learn, and the rows of the fit flatter
    assert interval(probe)[0] > 0.005 and interval(best)[0] > 0


def test_where_a_concept_lies_in_all_directions_alike_it_is_left_alone() -> None:
    chosen = []
    for seed in range(10):
        planted = Planted(seed, leading=False)
        states, labels, groups = planted.rows(120)
        eraser = fit_eraser(states, labels, groups)
        chosen.append(eraser.shrinkage)
        assert planted.left(eraser) < 1.15 * planted.left(fit_eraser(states, labels, shrinkage=0))
    assert np.median(chosen) <= 0.3


def test_what_a_best_linear_probe_reads_after_leace_is_a_matter_of_rows_alone() -> None:
    """d′² = 4d/n, less what noise of that size leaves of the concept's own d′²."""
    for n in (120, 480):
        found, wanted = [], []
        for seed in range(12):
            planted = Planted(seed, leading=False)
            states, labels, _ = planted.rows(n)
            found.append(planted.left(fit_eraser(states, labels, shrinkage=0)))
            whole, noise = float(np.sum((planted.apart / planted.spread) ** 2)), 4 * 199 / n
            wanted.append(whole * noise / (whole + noise))
        assert np.mean(found) == pytest.approx(np.mean(wanted), rel=0.08)
        assert norm.cdf(math.sqrt(np.mean(found) / 2)) > 0.8  # still read well


def test_the_choice_is_repeatable_and_does_not_depend_on_the_order_of_rows() -> None:
    states, labels, groups = Planted(0, leading=True).rows(120)
    one = fit_eraser(states, labels, groups)
    again = fit_eraser(states, torch.as_tensor(labels) + 7, torch.as_tensor(groups))
    assert one.leakage == again.leakage and torch.equal(one.write, again.write)
    back = fit_eraser(states.flip(0), labels[::-1].copy(), groups[::-1].copy())
    assert back.shrinkage == one.shrinkage and torch.allclose(projection(back), projection(one), atol=1e-8)
    assert 0 < min(left for _, left in one.leakage) < max(left for _, left in one.leakage) < 1


def test_the_probe_of_the_choice_shrinks_as_ledoit_and_wolf_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    shrinkage = erase._ledoit_wolf
    monkeypatch.setattr(
        erase, "_ledoit_wolf", lambda rows, solved: asked.append((shrinkage(rows, solved), ledoit_wolf(rows.numpy())[1])) or 0.5
    )
    fit_eraser(*CASES["more coordinates than rows"], torch.arange(30) // 3)
    assert 5 <= len(asked) < 10  # groups of three rows: in ten folds one would lack a class
    assert all(ours == pytest.approx(theirs) and 0 < ours < 1 for ours, theirs in asked)


# --- bad input ---

STATES, LABELS, GROUPS = drawn(12, 4), np.arange(12) % 2, np.arange(12) // 4


def with_nan() -> Tensor:
    states = STATES.clone()
    states[5, 2] = math.nan
    return states


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fit_eraser(STATES, np.zeros(12, int), GROUPS), r"^labels: got one class alone, wanted at least 2 classes"),
        (lambda: fit_eraser(STATES, np.arange(12) == 3, shrinkage=0), r"^labels: got classes of 11, 1 rows, .*add rows"),
        (lambda: fit_eraser(with_nan(), LABELS, GROUPS), r"^states: row 5 holds a NaN or an infinity; look where"),
        (lambda: fit_eraser(STATES[0], LABELS, GROUPS), r"^states: got shape \(4,\), wanted \(rows, d\)"),
        (lambda: fit_eraser(STATES, LABELS[:7], GROUPS), r"^labels: got shape \(7,\) of int64, wanted 12 whole numbers"),
        (lambda: fit_eraser(STATES, LABELS + 0.5, GROUPS), r"^labels: got shape \(12,\) of float64, wanted 12 whole"),
        (lambda: fit_eraser(STATES, LABELS, GROUPS[:7]), r"^groups: got shape \(7,\) of int64, wanted 12 whole numbers"),
        (lambda: fit_eraser(STATES, LABELS), r"^groups: got none, wanted one a row .* give shrinkage="),
        (lambda: fit_eraser(STATES, LABELS, LABELS), r"^groups: got 2 that cannot be parted .* give shrinkage="),
        (lambda: fit_eraser(STATES, LABELS, np.arange(12) // 11), r"^groups: got 2 that cannot be parted"),
        (lambda: fit_eraser(STATES, LABELS, np.arange(12) // 9), r"^groups: got 2 that cannot be parted"),
        (lambda: fit_eraser(STATES, LABELS, shrinkage=1.5), r"^shrinkage: got 1.5, wanted 0 \(LEACE\) to 1"),
        (lambda: Eraser.of(ClassMoments(2, 4).result()), r"^labels: got classes of 0, 0 rows"),
        (lambda: Eraser.of(ClassMoments(2, 4).result(), math.nan), r"^shrinkage: got nan"),
        (lambda: fit_eraser(STATES, LABELS, shrinkage=0).edit()(drawn(3, 5)), r"got one of width 4, the states here have 5"),
    ],
)
def test_what_cannot_be_erased_is_told_in_a_sentence(call, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        call()
