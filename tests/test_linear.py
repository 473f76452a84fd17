"""Linear directions: every closed form against a refit that solves the problem as it is written down, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from strandscope.errors import InputError, TrustError
from strandscope.statistics.resample import relabelled
from strandscope.strand.linear import DEFAULT, LOGISTIC, Method, Training, fit_scores, logistic, noise_shares

MEANS, LDA, RIDGE, LOGIT = Method("difference of means"), Method("shrunk LDA"), Method("ridge", 0.3), Method("logistic", 0.1)
SHAPES = [(60, 8), (24, 40)]  # rows and dimensions: more of either
NEW = 9


def planted(n, d, seed=0, columns=3):
    """States of unequal scales off the origin, new states, and label columns of which the first is told along two axes."""
    generator = torch.Generator().manual_seed(seed)
    everything = torch.randn(n + NEW, d, generator=generator, dtype=torch.float64)
    everything[:, 1] += everything[:, 0]
    told = (everything[:n, 0] + everything[:n, 1] + 0.5 * torch.randn(n, generator=generator) > 0.3).double()
    others = (torch.rand(n, columns - 1, generator=generator) > 0.6).double()
    scale = torch.logspace(-1, 1, d, dtype=torch.float64)
    states = 3 + everything * scale
    return states[:n], states[n:], torch.cat([told[:, None], others], dim=1)


def parts_of(n, count=4):
    """Blocks of unequal size that cover the rows."""
    block = torch.arange(n) ** 2 % 7 % count
    return [torch.nonzero(block == k)[:, 0] for k in range(count) if bool((block == k).any())]


def standardised(states, by=None):
    """In numpy: centred and divided by the standard deviation of the training rows as a whole."""
    by = (states if by is None else by).numpy()
    return (states.numpy() - by.mean(0)) / by.std(0)


def wanted_penalty(method, standard):
    if method.family != "shrunk LDA":
        return method.strength * (standard**2).sum(1).mean()
    n, d = standard.shape
    a = ledoit_wolf_shrinkage(standard, assume_centered=True)
    return n * a * ((standard**2).sum() / n / d) / (1 - a)


def refitted(standard, labels, new, lam):
    """Ridge with an intercept that no penalty touches, from its normal equations."""
    n, d = standard.shape
    with_one = np.hstack([standard, np.ones((n, 1))])
    solved = np.linalg.solve(with_one.T @ with_one + lam * np.diag([*[1.0] * d, 0.0]), with_one.T @ labels)
    return np.hstack([new, np.ones((len(new), 1))]) @ solved


def assert_orders_alike(first, second, tolerance=1e-8):
    """second = a · first + b with a > 0, column by column."""
    for x, y in zip(np.asarray(first).T, np.asarray(second).T, strict=True):
        slope, shift = np.polyfit(x, y, 1)
        assert slope > 0
        np.testing.assert_allclose(slope * x + shift, y, atol=tolerance * np.abs(y - y.mean()).max())


def without(n, part):
    return np.setdiff1d(np.arange(n), part.numpy())


# Held out without refitting


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("method", [LDA, RIDGE, Method("ridge", 1e-3), Method("ridge", 10.0)], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 5e-3)])
def test_scores_of_a_held_out_block_are_those_of_a_refit_without_it(n, d, method, dtype, tolerance):
    """Same penalty, coordinates standardised by all training rows, intercept of the fit's own."""
    states, new, labels = planted(n, d)
    standard = standardised(states)
    inside, outside = fit_scores(Training.of(states.to(dtype)), new.to(dtype), [method], labels, parts_of(n))
    lam = wanted_penalty(method, standard)
    for part in parts_of(n):
        kept = without(n, part)
        wanted = refitted(standard[kept], labels.numpy()[kept], standard[part], lam)
        np.testing.assert_allclose(inside[0, part], wanted, atol=tolerance)
    wanted = refitted(standard, labels.numpy(), standardised(new, by=states), lam) - labels.numpy().mean(0)
    np.testing.assert_allclose(outside[0], wanted, atol=tolerance)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_differences_of_means_are_refitted_without_the_block(n, d):
    states, new, labels = planted(n, d)
    inside, outside = fit_scores(Training.of(states), new, [MEANS], labels, parts_of(n))
    for rows, kept, scores in [
        *((part, without(n, part), inside[0, part]) for part in parts_of(n)),
        (None, np.arange(n), outside[0]),
    ]:
        seen, truth = states.numpy()[kept], labels.numpy()[kept]
        directions = [seen[y == 1].mean(0) - seen[y == 0].mean(0) for y in truth.T]
        assert_orders_alike((new if rows is None else states[rows]).numpy() @ np.stack(directions, axis=1), scores)


@pytest.mark.parametrize("method", [MEANS, RIDGE, LOGIT], ids=str)
def test_gram_and_primal_branch_agree(method):
    """Coordinates that are constant change no fit, but with enough of them the rows are the fewer."""
    states, new, labels = planted(30, 20)
    wide, wide_new = (torch.cat([rows, torch.full((len(rows), 15), 2.0, dtype=rows.dtype)], dim=1) for rows in (states, new))
    narrow = fit_scores(Training.of(states), new, [method], labels, parts_of(30))
    gram = fit_scores(Training.of(wide), wide_new, [method], labels, parts_of(30))
    for one, other in zip(narrow, gram, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3 if method is LOGIT else 1e-8)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_no_label_of_a_block_reaches_its_own_scores(n, d):
    states, new, labels = planted(n, d)
    training, methods = Training.of(states), [*DEFAULT, LOGIT]
    part = parts_of(n)[0]
    other = labels.clone()
    other[part] = 1 - other[part]
    before, after = (fit_scores(training, new, methods, columns, parts_of(n))[0] for columns in (labels, other))
    rest = torch.as_tensor(without(n, part))
    torch.testing.assert_close(before[:, part], after[:, part], rtol=0, atol=1e-9)
    for index in range(len(methods)):
        assert float((before[index, rest] - after[index, rest]).abs().max()) > 1e-2


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_label_columns_do_not_know_of_each_other(n, d):
    states, new, labels = planted(n, d, columns=5)
    training, methods = Training.of(states), [*DEFAULT, LOGIT]
    together = fit_scores(training, new, methods, labels, parts_of(n))
    for column in (0, 3):
        alone = fit_scores(training, new, methods, labels[:, [column]], parts_of(n))
        for every, single in zip(together, alone, strict=True):
            torch.testing.assert_close(every[:-1, :, [column]], single[:-1], rtol=1e-10, atol=1e-10)
            # Logistic steps stop for all columns together, so that a column may be nearer its optimum than alone.
            torch.testing.assert_close(every[-1:, :, [column]], single[-1:], rtol=0, atol=1e-3)


# The direction


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("method", [MEANS, LDA, RIDGE, LOGIT], ids=str)
def test_weights_order_rows_as_the_scores_do(n, d, method):
    states, new, labels = planted(n, d)
    training = Training.of(states)
    _, outside = fit_scores(training, new, [method], labels, parts_of(n))
    assert_orders_alike(new @ training.weights(method, labels), outside[0])


@pytest.mark.parametrize(("n", "d"), [*SHAPES, (200, 5)])
def test_lda_shrinks_as_ledoit_and_wolf_do(n, d):
    states, _, labels = planted(n, d)
    training, standard = Training.of(states), standardised(states)
    lam, mean_square = training.penalty(LDA), (standard**2).mean()
    a = ledoit_wolf_shrinkage(standard, assume_centered=True)
    assert 0.005 < a < 0.95
    assert lam / (lam + n * mean_square) == pytest.approx(a, rel=1e-9)
    shrunk = (1 - a) * standard.T @ standard / n + a * mean_square * np.eye(d)
    gaps = np.stack([standard[y == 1].mean(0) - standard[y == 0].mean(0) for y in labels.numpy().T], axis=1)
    wanted = np.linalg.solve(shrunk, gaps) / states.numpy().std(0)[:, None]
    assert_parallel(training.weights(LDA, labels), wanted)


def test_unshrunk_it_is_the_discriminant_within_classes(monkeypatch):
    """The total covariance stands for the one within classes: both give the same direction."""
    monkeypatch.setattr(Training, "penalty", lambda self, method: 0.0)
    states, _, labels = planted(120, 6)
    classical = [LinearDiscriminantAnalysis(solver="svd").fit(states, y).coef_[0] for y in labels.numpy().T]
    assert_parallel(Training.of(states).weights(LDA, labels), np.stack(classical, axis=1))


def assert_parallel(found, wanted):
    for mine, other in zip(np.asarray(found).T, np.asarray(wanted).T, strict=True):
        assert mine @ other / np.linalg.norm(mine) / np.linalg.norm(other) == pytest.approx(1.0, abs=1e-9)


def test_a_training_row_projects_onto_its_own_row_of_the_basis():
    for n, d in SHAPES:
        states, _, _ = planted(n, d)
        training = Training.of(states)
        torch.testing.assert_close(training.project(states), training.basis, rtol=0, atol=1e-10)
        torch.testing.assert_close(training.basis.T @ training.basis, torch.eye(len(training.values)).double(), rtol=0, atol=1e-9)


# Logistic regression


def chances(scores):
    return 1 / (1 + np.exp(-np.asarray(scores)))


def of_scikit(standard, labels, new, lam):
    """(new, columns) probabilities at the penalty ½λ‖w‖²; scikit-learn's C is 1/λ, and its intercept is free too."""
    models = [LogisticRegression(C=1 / lam, tol=1e-10, max_iter=10000).fit(standard, y) for y in labels.T]
    return np.stack([model.predict_proba(new)[:, 1] for model in models], axis=1)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("method", LOGISTIC, ids=str)
def test_logistic_regression_is_that_of_scikit_learn(n, d, method):
    states, new, labels = planted(n, d)
    standard, truth = standardised(states), labels.numpy()
    inside, outside = fit_scores(Training.of(states), new, [method], labels, parts_of(n))
    lam = wanted_penalty(method, standard)
    np.testing.assert_allclose(chances(outside[0]), of_scikit(standard, truth, standardised(new, by=states), lam), atol=1e-3)
    for part in parts_of(n):
        kept = without(n, part)
        np.testing.assert_allclose(
            chances(inside[0, part]), of_scikit(standard[kept], truth[kept], standard[part], lam), atol=1e-3
        )


def test_a_fit_that_does_not_converge_cannot_be_trusted():
    states, _, labels = planted(60, 8)
    training = Training.of(states)
    with pytest.raises(TrustError, match=r"did not converge in 2 steps; use a stronger penalty or leave the method out"):
        logistic(training.basis * training.values.sqrt(), training.values, labels, 1e-3, most=2)


# Bad states


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_states_that_are_no_numbers_are_refused(bad):
    states, _, _ = planted(12, 4)
    states[3, 2] = bad
    with pytest.raises(InputError, match="NaN or an infinity"):
        Training.of(states)


def test_rows_that_are_all_the_same_are_refused():
    with pytest.raises(InputError, match=r"every row is the same .* choose another site or position"):
        Training.of(torch.full((12, 4), 1.5))


def test_a_constant_coordinate_is_no_division_by_zero():
    states, new, labels = planted(30, 5)
    states[:, 2] = new[:, 2] = 7.0
    training = Training.of(states)
    for method in (MEANS, LDA, RIDGE, LOGIT):
        weights = training.weights(method, labels)
        assert bool(torch.isfinite(weights).all()) and float(weights[2].abs().max()) < 1e-12 < float(weights[0].abs().min())


# Noise of the fit


def grouped(gap, d, n=240, groups=40, seed=0):
    """States with a class distance along one axis, their labels, and relabellings of them."""
    generator = np.random.default_rng(seed)
    labels, group = np.tile([0, 1], n // 2), np.repeat(np.arange(groups), n // groups)
    states = generator.normal(size=(2 * n, d)) + gap * np.tile(labels, 2)[:, None] * np.eye(d)[0]
    fake = torch.as_tensor(relabelled(labels, group, 20, generator).T, dtype=torch.float64)
    return torch.as_tensor(states[:n]), torch.as_tensor(states[n:]), labels, fake


@pytest.mark.parametrize("d", [3, 60])
def test_fits_to_labels_that_mean_nothing_are_all_noise(d):
    states, new, kind, fake = grouped(0.0, d)
    noise = noise_shares(Training.of(states), new, kind, [*DEFAULT, LOGIT], fake[:, :1], fake[:, 1:])
    assert noise.shape == (6, 1) and float(noise.min()) > (0.4 if d == 3 else 0.75) and float(noise.max()) <= 1


def test_fits_to_a_strong_signal_in_few_dimensions_hold_hardly_any():
    states, new, kind, fake = grouped(4.0, 3, n=960, groups=160)
    truth = torch.as_tensor(kind, dtype=torch.float64)[:, None]
    noise = noise_shares(Training.of(states), new, kind, [*DEFAULT, LOGIT], truth, fake)
    assert float(noise.min()) >= 0 and float(noise.max()) < 0.06


def test_a_share_is_the_spread_of_fits_to_noise_over_that_of_the_fit():
    states, new, kind, fake = grouped(1.0, 20)
    truth = torch.stack([torch.as_tensor(kind == k, dtype=torch.float64) for k in (0, 1)], dim=1)
    training = Training.of(states)
    found = noise_shares(training, new, kind, DEFAULT, truth, fake)
    _, scores = fit_scores(training, new, DEFAULT, torch.cat([truth, fake], dim=1), [])
    within = sum((scores[:, kind == k] - scores[:, kind == k].mean(1, keepdim=True)).square().sum(1) for k in (0, 1))
    ratio = within[:, 2:].unflatten(1, (-1, 2)).mean(1) / within[:, :2]
    assert float(ratio.max()) < 1
    torch.testing.assert_close(found, ratio, rtol=1e-8, atol=0)
