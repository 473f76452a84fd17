"""The theorems of LEACE on the rows of the fit, and what holds on rows that the eraser has not seen."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm, t
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from strandscope.errors import InputError, TrustError
from strandscope.io import load_tensors, save_tensors
from strandscope.statistics.accumulators import ClassMoments
from strandscope.statistics.detect import quick_auroc
from strandscope.strand import erase
from strandscope.strand.erase import SPANS, Eraser, Metric, fit_eraser
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
    eraser = fit_eraser(states, labels, shrinkages=())
    assert np.allclose(projection(eraser).numpy() @ (states.numpy() - mean).T, wanted @ (states.numpy() - mean).T, atol=1e-8)
    assert np.allclose(eraser.mean.numpy(), mean, rtol=1e-12)
    exact = states.numpy() - (states.numpy() - mean) @ wanted.T
    assert np.allclose(eraser(states).numpy(), exact, atol=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_no_linear_predictor_is_better_than_a_constant(case: str) -> None:
    states, labels = CASES[case]
    eraser = fit_eraser(states, labels, shrinkages=())
    erased, z = eraser(states), indicators(labels)
    before, after = ((part - part.mean(0)).T @ z / len(z) for part in (states, erased))
    assert after.abs().max() < 1e-11 * before.abs().max()
    assert torch.allclose(erased.mean(0), states.mean(0), rtol=1e-12)
    slope = torch.linalg.pinv(erased - erased.mean(0), rtol=1e-8) @ z  # least squares, on the erased states
    assert ((erased - erased.mean(0)) @ slope).abs().max() < 1e-8
    assert ((states - states.mean(0)) @ (torch.linalg.pinv(states - states.mean(0), rtol=1e-8) @ z)).abs().max() > 0.1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("span", SPANS)
def test_erases_once_and_for_all_with_rank_one_less_than_the_classes_a_shrinkage(case: str, span: tuple[float, ...]) -> None:
    states, labels = CASES[case]
    eraser = fit_eraser(states, labels, shrinkages=span)
    directions = min(int(torch.linalg.matrix_rank(states - states.mean(0))), int(labels.max()) * (1 + len(span)))
    assert eraser.rank == directions
    assert torch.allclose(eraser.read.T @ eraser.write, torch.eye(eraser.rank, dtype=torch.float64), atol=1e-9)
    once = eraser(states)
    assert torch.allclose(eraser(once), once, atol=1e-9)


def test_class_means_on_a_line_are_erased_with_rank_one_and_equal_ones_with_none() -> None:
    noise = drawn(300, D)
    labels = torch.arange(300) % 3
    noise -= torch.stack([noise[labels == code].mean(0) for code in range(3)])[labels]
    line = fit_eraser(noise + labels[:, None] * drawn(D, seed=1), labels, shrinkages=())
    assert line.rank == 1
    for span in ((), (0.5,)):
        none = fit_eraser(noise, labels, shrinkages=span)
        assert none.rank == 0 and torch.equal(none(noise), noise)
    still = torch.ones(12, D)  # nothing varies, so nothing is in it
    for groups in (None, torch.arange(12) // 4):
        assert fit_eraser(still, torch.arange(12) % 2, groups, shrinkages=None if groups is not None else ()).rank == 0
    assert fit_eraser(noise, labels, torch.arange(300) // 30).rank == 0


@pytest.mark.parametrize("case", ["three classes", "two classes", "degenerate covariance"])
def test_no_other_guard_moves_the_states_less(case: str) -> None:
    """Affine maps that guard are those whose linear part kills Σxz: P + perturbations that do so move the states more."""
    states, labels = CASES[case]
    eraser = fit_eraser(states, labels, shrinkages=())
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


@pytest.mark.parametrize("case", CASES)
def test_further_shrinkages_take_out_what_a_ridge_predicts_and_keep_what_leace_grants(case: str) -> None:
    """The columns of a dense ridge are in what is written, and so are LEACE's: the theorem of the fit stays."""
    states, labels = CASES[case]
    centred, z = states - states.mean(0), indicators(labels)
    sigma, across = centred.T @ centred / len(states), centred.T @ z / len(states)
    for span in ((0.1,), (0.7,), (0.5, 0.97)):
        eraser = fit_eraser(states, labels, shrinkages=span)
        p = projection(eraser)
        assert torch.allclose(p @ across, across, atol=1e-8)
        erased = eraser(states)
        assert ((erased - erased.mean(0)).T @ z).abs().max() < 1e-8 * (centred.T @ z).abs().max()
        for shrinkage in span:
            shrunk = (1 - shrinkage) * sigma + shrinkage * sigma.trace() / len(sigma) * torch.eye(len(sigma), dtype=torch.float64)
            predicted = sigma @ torch.linalg.solve(shrunk, across)
            assert torch.allclose(p @ predicted, predicted, atol=1e-5 * float(predicted.abs().max()))
        noise = drawn(len(sigma), len(sigma), seed=1)
        noise -= noise @ eraser.write @ torch.linalg.pinv(eraser.write)
        moved = float((centred @ p.T).square().sum())
        assert abs(float(((centred @ p.T) * (centred @ noise.T)).sum())) < 1e-6 * moved  # no guard of that span moves less


@pytest.mark.parametrize("seed", range(3))
def test_no_linear_probe_of_any_rows_reads_more_than_after_leace(seed: int) -> None:
    planted = Planted(seed, leading=True)
    states, labels, _ = planted.rows(120)
    left = [planted.left(fit_eraser(states, labels, shrinkages=span)) for span in SPANS]
    assert all(other < left[0] - 1e-9 for other in left[1:]) and left[4] < left[1]


# --- streams ---


@pytest.mark.parametrize("span", [(), (0.5,)])
def test_shards_in_any_order_give_the_eraser_of_all_rows(span: tuple[float, ...]) -> None:
    states, labels = CASES["three classes"]
    whole = fit_eraser(states, labels, shrinkages=span)
    shards = [slice(0, 1), slice(1, 60), slice(60, 61), slice(61, 200)]
    for order in itertools.permutations(shards):
        merged = ClassMoments(3, D)
        for rows in order:
            part = ClassMoments(3, D)
            part.update(states[rows], labels[rows])
            merged.merge(part)
        eraser = Eraser.of(merged.result(), span)
        assert (eraser.n, eraser.counts, eraser.how) == (200, whole.counts, "given")
        assert torch.allclose(projection(eraser), projection(whole), atol=1e-10)
        assert torch.allclose(eraser.mean, whole.mean)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_in_the_networks_own_dtype_are_erased_to_its_rounding(dtype: torch.dtype) -> None:
    states, labels = CASES["three classes"]
    rough = (states - 40).to(dtype).requires_grad_()  # as states come that were not made without gradients
    assert not fit_eraser(rough, labels, torch.arange(200) // 10).write.requires_grad
    erased = fit_eraser(rough, labels, shrinkages=())(rough.detach())
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
        written = np.linalg.qr((self.turn.T @ eraser.write.numpy()) / self.spread[:, None])[0]
        return float(apart @ apart - np.square(written.T @ apart).sum())


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
        plain, chosen = fit_eraser(states, labels, shrinkages=()), fit_eraser(states, labels, groups)
        fresh = planted.rows(240)
        read = [read_by_a_probe(eraser(fresh[0]), *fresh[1:]) for eraser in (plain, chosen)]
        probe.append(read[0] - read[1])
        best.append(planted.left(plain) - planted.left(chosen))
        before.append(read_by_a_probe(*fresh))
        seen.append(read_by_a_probe(plain(states), labels, groups))
        assert chosen.how.startswith("chosen") and [span for span, _ in chosen.leakage] == list(SPANS)
        price = {span: left + erase.WORTH * len(span) * chosen.leakage[0][1] for span, left in chosen.leakage}
        assert min(price.values()) == price[chosen.shrinkages]
    assert np.mean(before) > 0.95 and np.mean(seen) < 0.1  # the probe could learn, and the rows of the fit flatter
    assert interval(probe)[0] > 0.005 and interval(best)[0] > 0


def test_where_a_concept_lies_in_all_directions_alike_what_is_chosen_brings_what_it_costs() -> None:
    chosen, left = [], []
    for seed in range(10):
        planted = Planted(seed, leading=False)
        states, labels, groups = planted.rows(120)
        eraser = fit_eraser(states, labels, groups)
        chosen.append(len(eraser.shrinkages))
        left.append(planted.left(eraser) / planted.left(fit_eraser(states, labels, shrinkages=())))
    assert np.mean(left) <= 1 - erase.WORTH * np.mean(chosen)


def test_what_a_best_linear_probe_reads_after_leace_is_a_matter_of_rows_alone() -> None:
    """d′² = 4d/n, less what noise of that size leaves of the concept's own d′²."""
    for n in (120, 480):
        found, wanted = [], []
        for seed in range(12):
            planted = Planted(seed, leading=False)
            states, labels, _ = planted.rows(n)
            found.append(planted.left(fit_eraser(states, labels, shrinkages=())))
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
    assert back.shrinkages == one.shrinkages and torch.allclose(projection(back), projection(one), atol=1e-8)
    assert 0 < min(left for _, left in one.leakage) < max(left for _, left in one.leakage) < 1


def test_the_leakage_by_which_is_chosen_is_that_of_unseen_rows_without_bias() -> None:
    """Rows enough for the covariance: an eraser of two thirds of the rows leaves d′² = 4d/n, whatever noise the folds have."""
    found, spread = [], np.arange(1, 31) ** -0.5
    apart = np.full(30, 0.3) * spread
    whole, noise = float(np.sum((apart / spread) ** 2)), 4 * 29 / 400
    for seed in range(40):
        random, labels = np.random.default_rng(seed), np.arange(600) % 2
        states = torch.as_tensor(random.standard_normal((600, 30)) * spread + np.outer(labels, apart))
        found.append(fit_eraser(states, labels, np.arange(600) // 10).leakage[0][1])
    assert np.mean(found) == pytest.approx(noise / (whole + noise), abs=0.015)
    assert np.mean(found) < 0.11  # as it is with the folds' own noise in it: .105 + 4 · 29 / 100 / whole, about .4


def test_the_metric_is_that_of_the_covariance_within_classes() -> None:
    states, labels = CASES["three classes"]
    metric, codes = Metric.of(states, labels.numpy()), labels.numpy()
    means = torch.stack([states[codes == code].mean(0) for code in range(3)])[codes]
    rows = states - means
    share = ledoit_wolf((states - states.mean(0)).numpy())[1]
    level = float((states - states.mean(0)).square().sum() / len(states) / D)
    within = (1 - share) * rows.T @ rows / len(rows) + share * level * torch.eye(D, dtype=torch.float64)
    one, other, gone = drawn(D, 2, seed=1), drawn(D, 3, seed=2), drawn(D, 2, seed=3)
    inverse = torch.linalg.inv(within)
    assert torch.allclose(metric.product(one, other), one.T @ inverse @ other, rtol=1e-8)
    root = torch.linalg.cholesky(inverse).T
    span = torch.linalg.qr(root @ gone).Q
    rest = [root @ part - span @ (span.T @ root @ part) for part in (one, other)]
    assert torch.allclose(metric.left(one, other, gone), rest[0].T @ rest[1], rtol=1e-7, atol=1e-9)


def test_a_saved_eraser_is_the_same_and_of_one_network_alone(tmp_path) -> None:
    states, labels = CASES["three classes"]
    said = {"name": "c", "site": "resid:1", "position": "last", "classes": ("a", "b", "c"), "fingerprint": "f" * 64}
    eraser = replace(fit_eraser(states, labels, torch.arange(200) // 10), **said, provenance={"seed": 3})
    eraser.save(tmp_path / "c.safetensors")
    again = Eraser.load(tmp_path / "c.safetensors")
    assert (
        torch.equal(again(states), eraser(states)) and again.leakage == eraser.leakage and again.shrinkages == eraser.shrinkages
    )
    assert {key: getattr(again, key) for key in said} == said and (again.n, again.counts, again.how) == (
        200,
        eraser.counts,
        eraser.how,
    )
    again.check("f" * 64)
    again.check("e" * 64, force=True)
    with pytest.raises(TrustError, match=r"^eraser 'c' was fitted in the network ffffffffffff, this one is eeeeeeeeeeee"):
        again.check("e" * 64)
    save_tensors(tmp_path / "other.safetensors", {"read": states}, {"schema": "strandscope/strand/1"})
    with pytest.raises(InputError, match=r"^other.safetensors: holds 'strandscope/strand/1', wanted an eraser"):
        Eraser.load(tmp_path / "other.safetensors")
    manifest = load_tensors(tmp_path / "c.safetensors")[1]
    parts = {"read": again.read[:, :1], "write": again.write, "mean": again.mean}
    save_tensors(tmp_path / "odd.safetensors", parts, manifest)
    with pytest.raises(InputError, match=r"^odd.safetensors: its tensors do not fit"):
        Eraser.load(tmp_path / "odd.safetensors")
    save_tensors(tmp_path / "less.safetensors", parts, {key: manifest[key] for key in manifest if key != "how"})
    with pytest.raises(InputError, match=r"^less.safetensors: its manifest lacks or garbles 'how'"):
        Eraser.load(tmp_path / "less.safetensors")


def test_the_probe_of_the_choice_shrinks_as_ledoit_and_wolf_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    shrinkage = erase._ledoit_wolf
    monkeypatch.setattr(
        erase, "_ledoit_wolf", lambda rows, solved: asked.append((shrinkage(rows, solved), ledoit_wolf(rows.numpy())[1])) or 0.5
    )
    fit_eraser(*CASES["more coordinates than rows"], torch.arange(30) // 3)
    assert len(asked) == 15  # six folds, two at a time
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
        (lambda: fit_eraser(STATES, np.arange(12) == 3, shrinkages=()), r"^labels: got classes of 11, 1 rows, .*add rows"),
        (lambda: fit_eraser(with_nan(), LABELS, GROUPS), r"^states: row 5 holds a NaN or an infinity; look where"),
        (lambda: fit_eraser(STATES[0], LABELS, GROUPS), r"^states: got shape \(4,\), wanted \(rows, d\)"),
        (lambda: fit_eraser(STATES, LABELS[:7], GROUPS), r"^labels: got shape \(7,\) of int64, wanted 12 whole numbers"),
        (lambda: fit_eraser(STATES, LABELS + 0.5, GROUPS), r"^labels: got shape \(12,\) of float64, wanted 12 whole"),
        (lambda: fit_eraser(STATES, LABELS, GROUPS[:7]), r"^groups: got shape \(7,\) of int64, wanted 12 whole numbers"),
        (lambda: fit_eraser(STATES, LABELS), r"^groups: got none, wanted one a row .* give shrinkages="),
        (lambda: fit_eraser(STATES, LABELS, LABELS), r"^groups: got 2 that cannot be parted .* give shrinkages="),
        (lambda: fit_eraser(STATES, LABELS, np.arange(12) // 11), r"^groups: got 2 that cannot be parted"),
        (lambda: fit_eraser(STATES, LABELS, np.arange(12) // 9), r"^groups: got 2 that cannot be parted"),
        (
            lambda: fit_eraser(STATES, LABELS, shrinkages=(1.5,)),
            r"^shrinkages: got \(1.5,\), wanted each from 0 to 1, or \(\) for LEACE",
        ),
        (lambda: Eraser.of(ClassMoments(2, 4).result()), r"^labels: got classes of 0, 0 rows"),
        (lambda: Eraser.of(ClassMoments(2, 4).result(), (math.nan,)), r"^shrinkages: got \(nan,\)"),
    ],
)
def test_what_cannot_be_erased_is_told_in_a_sentence(call, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        call()
