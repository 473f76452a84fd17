"""Nested selection and cross-fitted evidence for many label vectors at once.

Outer folds give the evidence: every group is scored once, by a model that never saw it. Inside each outer training set, inner
folds choose everything that is chosen: for each site its method, then how many of the best sites are averaged. A permuted label
vector goes through all of it, so the null is the null of the whole procedure, selection included. Column 0 of the labels is the
truth, the others permutations.

What `Evidence` does not hold is a model: the saved strand is refitted on all rows by `choose`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..statistics.resample import group_folds, relabelled
from .linear import Method, Training, fit_scores, noise_shares

Ints = NDArray[np.int64]
SIZES = (1, 2, 4, 8)  # numbers of sites that may be averaged
INNER_FOLDS = 4
TIE = 0.005  # sites whose inner AUROC rounds to the same multiple are ordered by how far apart the classes are
NOISE_DRAWS = 20  # relabellings from which the share of noise in the fits is taken


@dataclass(frozen=True, slots=True)
class Choice:
    """What cross-validation chose for one label vector: sites, best first, with their methods, and how many are averaged."""

    sites: tuple[int, ...]
    methods: tuple[int, ...]
    size: int
    auroc: tuple[float, ...]  # inner AUROC of each of `sites`


@dataclass(frozen=True, slots=True)
class Evidence:
    """Cross-fitted scores: (rows, columns, classes); column 0 is the truth; classes is 1 for two classes."""

    folds: Ints
    combined: Tensor  # sites averaged, their number chosen inside
    single: Tensor  # the best site alone
    by_site: Tensor  # (sites, rows, columns, classes), each site with its own best method
    choices: tuple[Choice, ...]  # per outer fold, for the truth
    noise: Noise


@dataclass(frozen=True, slots=True)
class Noise:
    """Share q of the scores' variance within a class that comes from the noise of the fits (`statistics.detect`), by reading."""

    combined: float
    single: float
    by_site: tuple[float, ...]


Report = Callable[[int, int], None]


def targets(labels: Ints, classes: int) -> Tensor:
    """(rows, columns·k) of 0 and 1 from label columns (columns, rows); k is 1 for two classes, else one column a class."""
    codes = torch.as_tensor(labels.T.copy())
    if classes == 2:
        return codes.double()
    return torch.stack([codes == k for k in range(classes)], dim=-1).double().flatten(1)


def fold_aurocs(values: Tensor, truth: Tensor) -> Tensor:
    """AUROC over the last axis but one of values (…, rows, columns), truth (rows, columns) of 0 and 1; NaN without a class.

    Ties count half.
    """
    rows = values.shape[-2]
    ordered, order = values.transpose(-1, -2).sort(dim=-1)  # (…, columns, rows)
    sorted_truth = truth.T.expand(order.shape).gather(-1, order)
    positives = truth.sum(0)
    won = (sorted_truth * _mid_ranks(ordered)).sum(-1)
    return (won - positives * (positives + 1) / 2) / (positives * (rows - positives))


def _mid_ranks(ordered: Tensor) -> Tensor:
    """Ranks from 1 along the last axis of values in ascending order; equal values share the middle of theirs."""
    rows = ordered.shape[-1]
    ranks = torch.arange(1, rows + 1, dtype=torch.float32)
    new = ordered[..., 1:] != ordered[..., :-1]
    if bool(new.all()):
        return ranks
    edge = torch.ones_like(new[..., :1])
    first = torch.where(torch.cat([edge, new], -1), ranks, 0.0).cummax(-1).values
    last = torch.where(torch.cat([new, edge], -1), ranks, rows + 1.0).flip(-1).cummin(-1).values.flip(-1)
    return (first + last) / 2


def _select(inner: Tensor, folds: Ints, truth: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Best method per site (sites, P), site order (sites, P), size index (P) and AUROC (sites, P) from inner scores.

    Args:
        inner: (sites, methods, rows, P·k).
    """
    k = 1 if classes == 2 else classes
    parts = [torch.as_tensor(np.flatnonzero(folds == fold)) for fold in np.unique(folds)]

    def mean_auroc(values: Tensor) -> Tensor:
        found = torch.stack([fold_aurocs(values[..., part, :], truth[part]) for part in parts])
        return torch.nan_to_num(found.nanmean(0).unflatten(-1, (-1, k)).nanmean(-1), nan=0.5)

    auroc = mean_auroc(inner)  # (sites, methods, P)
    best, method = auroc.max(1)  # (sites, P)
    picked = _pick(inner, method, k)
    gap = torch.stack([_separation(picked[:, part], truth[part], k) for part in parts]).nanmean(0)
    order = ((best / TIE).round() * TIE + TIE * gap.atan() / torch.pi).argsort(dim=0, descending=True, stable=True)
    averages = _averages(picked, order, k)
    size = torch.stack([mean_auroc(average) for average in averages]).argmax(0)  # first of equals: the fewer sites
    return method, order, size, best


def _separation(values: Tensor, truth: Tensor, k: int) -> Tensor:
    """(sites, P): distance of the class means of values (sites, rows, P·k) in deviations within classes; NaN without a class."""
    count = truth.sum(0)
    above = (values * truth).sum(1) / count
    below = (values * (1 - truth)).sum(1) / (len(truth) - count)
    centred = values - torch.where(truth[None] == 1, above[:, None], below[:, None])
    return ((above - below) / centred.square().mean(1).sqrt().clamp_min(1e-30)).unflatten(-1, (-1, k)).nanmean(-1)


def _pick(values: Tensor, method: Tensor, k: int) -> Tensor:
    """(sites, rows, P·k) of values (sites, methods, rows, P·k) at each site's and column's own method."""
    index = method.repeat_interleave(k, dim=1)[:, None, None, :].expand(-1, 1, values.shape[2], -1)
    return values.gather(1, index)[:, 0]


def _averages(picked: Tensor, order: Tensor, k: int) -> list[Tensor]:
    """Mean of the best 1, 2, 4, 8 sites' scores, each (rows, P·k)."""
    most = min(SIZES[-1], picked.shape[0])
    index = order[:most].repeat_interleave(k, dim=1)[:, None, :].expand(-1, picked.shape[1], -1)
    running = picked.gather(0, index).cumsum(0)
    return [running[size - 1] / size for size in SIZES if size <= most]


def _fold_scores(
    states: Sequence[Tensor],
    methods: Sequence[Method],
    held: NDArray[np.bool_],
    inner: Ints,
    columns: Tensor,
    report: Report | None = None,
    after: Callable[[int, Training, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Inner held-out scores (sites, methods, train rows, columns) and outer ones (sites, methods, held rows, columns).

    Both are divided by the standard deviation of the inner ones, so that sites and methods can be averaged. `after` is called
    with each site, its training rows and its held-out states. A site whose training rows are all the same scores every row 0:
    nothing can be read there.
    """
    train, new = torch.as_tensor(np.flatnonzero(~held)), torch.as_tensor(np.flatnonzero(held))
    parts = [torch.as_tensor(np.flatnonzero(inner == fold)) for fold in np.unique(inner)]
    inside = torch.zeros(len(states), len(methods), len(train), columns.shape[1], dtype=torch.float32)
    outside = torch.zeros(len(states), len(methods), len(new), columns.shape[1], dtype=torch.float32)
    for site, rows in enumerate(states):
        if bool((rows[train] != rows[train[0]]).any()):
            training = Training.of(rows[train])
            inside[site], outside[site] = fit_scores(training, rows[new], methods, columns[train], parts)
            if after:
                after(site, training, rows[new])
        if report:
            report(site + 1, len(states))
    scale = inside.std(2, keepdim=True).clamp_min(1e-30)
    return inside / scale, outside / scale


def nested_evidence(
    states: Sequence[Tensor],
    labels: Ints,
    groups: Ints,
    classes: int,
    methods: Sequence[Method],
    folds: int,
    generator: np.random.Generator,
    report: Report | None = None,
) -> Evidence:
    """Cross-fitted scores of the whole procedure for each row of `labels` (columns, rows).

    Args:
        states: one (rows, d) float tensor a site.
        labels: class codes; row 0 the truth, the others permutations of it.
        report: called with (steps done, steps in all).
    """
    k = 1 if classes == 2 else classes
    truth = targets(labels, classes)
    outer_folds = group_folds(labels[0], groups, folds, generator)
    rows, count = labels.shape[1], labels.shape[0]
    combined, single = (torch.empty(rows, count * k, dtype=torch.float32) for _ in range(2))
    by_site = torch.empty(len(states), rows, count * k, dtype=torch.float32)
    choices, noise = [], []
    fake = targets(relabelled(labels[0], groups, NOISE_DRAWS, generator), classes)
    for fold in range(folds):
        held = outer_folds == fold
        inner_folds = group_folds(labels[0][~held], groups[~held], INNER_FOLDS, generator)
        step = (lambda done, of, fold=fold: report(fold * of + done, folds * of)) if report else None
        share = torch.ones(len(states), len(methods), dtype=torch.float32)
        kept = torch.as_tensor(~held)

        def measure(
            site: int, training: Training, new: Tensor, held: Any = held, kept: Tensor = kept, share: Tensor = share
        ) -> None:
            share[site] = noise_shares(training, new, labels[0][held], methods, truth[kept, :k], fake[kept]).mean(1)

        inside, outside = _fold_scores(states, methods, held, inner_folds, truth, step, measure)
        method, order, size, best = _select(inside, inner_folds, truth[kept].float(), classes)
        picked = _pick(outside, method, k)
        averages = torch.stack(_averages(picked, order, k))  # (sizes, rows, P·k)
        chosen = size.repeat_interleave(k)[None, None, :].expand(1, averages.shape[1], -1)
        index = torch.as_tensor(np.flatnonzero(held))
        by_site[:, index], single[index], combined[index] = picked, averages[0], averages.gather(0, chosen)[0]
        choices.append(_choice(method, order, size, best))
        noise.append(share[torch.arange(len(states)), method[:, 0]])
    shape = (count, k)
    found = torch.stack(noise)  # (folds, sites)
    used = [found[fold, list(choice.sites)] for fold, choice in enumerate(choices)]
    shares = Noise(
        float(torch.stack([row[: choice.size].mean() for row, choice in zip(used, choices, strict=True)]).mean()),
        float(torch.stack([row[0] for row in used]).mean()),
        tuple(found.mean(0).tolist()),
    )
    return Evidence(
        outer_folds,
        combined.unflatten(-1, shape),
        single.unflatten(-1, shape),
        by_site.unflatten(-1, shape),
        tuple(choices),
        shares,
    )


def choose(
    states: Sequence[Tensor],
    labels: Ints,
    groups: Ints,
    classes: int,
    methods: Sequence[Method],
    folds: int,
    generator: np.random.Generator,
) -> Choice:
    """The procedure's choice on all rows: which sites, by which methods, how many averaged. For the strand that is saved."""
    truth = targets(labels[None], classes)
    inner_folds = group_folds(labels, groups, folds, generator)
    inside, _ = _fold_scores(states, methods, np.zeros(len(labels), dtype=bool), inner_folds, truth)
    method, order, size, best = _select(inside, inner_folds, truth.float(), classes)
    return _choice(method, order, size, best)


def _choice(method: Tensor, order: Tensor, size: Tensor, best: Tensor) -> Choice:
    ranked = [int(site) for site in order[:, 0]]
    return Choice(
        tuple(ranked),
        tuple(int(method[site, 0]) for site in ranked),
        SIZES[int(size[0])],
        tuple(float(best[site, 0]) for site in ranked),
    )
