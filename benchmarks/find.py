"""Find: its time, and its held-out AUROC beside xRFM's six configurations per site, on the same states and the same folds.

xRFM is used as its authors' monitoring code uses it: the kernel `l2_high_dim`, ridge 1e-3, bandwidth 1, 10 or 100, gradients
centred or not, eight iterations with early stopping, all judged by the AUROC on validation rows. Its validation rows are whole
groups of the training rows, so that it chooses as honestly as we do. Its score of a new row is the prediction of the kernel
machine; over sites it is taken twice, from the site with the best validation AUROC and as the mean of the eight best, and our
verdict stands beside the better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from xrfm.rfm_src import RFM
from xrfm.rfm_src.class_conversion import ClassificationConverter

import strandscope as ss
from common import Line, Results, Size, Table, main, paired, seconds
from strandscope.provenance import numpy_generator
from strandscope.statistics.detect import area, area_difference
from strandscope.statistics.resample import group_folds
from strandscope.strand.linear import DEFAULT
from strandscope.strand.nested import nested_evidence
from strandscope.strand.rows import Ordered

PACKS = ("harm", "truth", "sentiment", "formality", "certainty", "spanish")
GRID = tuple(product((1.0, 10.0, 100.0), (True, False)))  # bandwidth, centre_grads
RIDGE, ITERATIONS, FOLDS, MEAN_OF = 1e-3, 8, 5, 8
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The best of the six configurations at one site."""

    model: RFM
    auroc: float  # on the validation rows
    centre: float
    spread: float  # of its predictions on the validation rows, so that sites can be averaged


def fit_site(states: Tensor, labels: Tensor, fit: Ints, validate: Ints) -> Fitted:
    """Six configurations at one site, the best by validation AUROC (the first of equals)."""
    best: tuple[float, RFM] | None = None
    inside, outside = torch.as_tensor(fit), torch.as_tensor(validate)
    for bandwidth, centre in GRID:
        model = RFM(
            "l2_high_dim", iters=ITERATIONS, bandwidth=bandwidth, device="cpu", tuning_metric="auc", verbose=False,
            class_converter=ClassificationConverter("zero_one", 2),
        )  # fmt: skip
        held = (states[outside], labels[outside])
        model.fit((states[inside], labels[inside]), held, reg=RIDGE, center_grads=centre, verbose=False)
        found = float(model.score(*held, ["auc"])["auc"])
        if best is None or found > best[0]:
            best = (found, model)
    assert best is not None
    scores = predictions(best[1], states[outside])
    return Fitted(best[1], best[0], float(scores.mean()), max(float(scores.std()), 1e-12))


def predictions(model: RFM, states: Tensor) -> Floats:
    scores: Any = model.predict(states)
    return np.asarray(scores, dtype=np.float64)[:, 0]


def fit_all(sites: Sequence[Tensor], labels: Ints, groups: Ints, train: Ints, generator: np.random.Generator) -> list[Fitted]:
    """Every site, with a quarter of the training groups kept for validation."""
    parts = group_folds(labels[train], groups[train], 4, generator)
    truth = torch.as_tensor(labels).float()[:, None]
    return [fit_site(states, truth, train[parts != 0], train[parts == 0]) for states in sites]


def peer_scores(
    sites: Sequence[Tensor], labels: Ints, groups: Ints, folds: Ints, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Cross-fitted scores of xRFM: of its best site, and the mean of its eight best."""
    single, several = np.zeros(len(labels)), np.zeros(len(labels))
    for fold in np.unique(folds):
        train, new = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        fitted = fit_all(sites, labels, groups, train, generator)
        order = sorted(range(len(sites)), key=lambda site: -fitted[site].auroc)[:MEAN_OF]
        held = torch.as_tensor(new)
        chosen = [(fitted[site], sites[site][held]) for site in order]
        scores = [(predictions(one.model, states) - one.centre) / one.spread for one, states in chosen]
        single[new], several[new] = scores[0], np.mean(scores, axis=0)
    return single, several


def our_scores(rows: Ordered) -> tuple[Floats, Ints, float]:
    """The cross-fitted scores behind `ss.find(…).decodable`, their folds (by the same generator) and noise share."""
    generator = numpy_generator(0, "folds", rows.key)
    evidence = nested_evidence(rows.states, rows.labels[None], rows.groups, 2, DEFAULT, FOLDS, generator)
    return evidence.combined[:, 0, 0].double().numpy(), evidence.folds, evidence.noise.combined


@dataclass(frozen=True, slots=True)
class Compared:
    """One pack: areas, and ours minus the peer's with its interval, for the peer's best site and its mean of eight."""

    pack: str
    ours: float
    areas: tuple[float, float]
    differences: tuple[tuple[float, float, float], tuple[float, float, float]]


def compare(pack: str, acts: ss.Activations) -> Compared:
    rows = Ordered.of(acts)
    mine, folds, noise = our_scores(rows)
    stated = ss.find(acts, permutations=0).decodable.value
    labels, groups = rows.labels, rows.groups
    ours = area(mine, labels, groups, folds).value
    if stated is None or abs(ours - stated) > 1e-9:
        raise SystemExit(f"{pack}: these scores give {ours}, find says {stated}: not the same procedure")
    theirs = peer_scores(rows.states, labels, groups, folds, numpy_generator(0, "peer", acts.examples.digest))
    areas = tuple(area(scores, labels, groups, folds).value for scores in theirs)
    both = (noise, noise)  # the peer's own share is unknown; it is fitted to the same rows
    differences = tuple(area_difference(mine, scores, labels, groups, folds, noise=both) for scores in theirs)
    return Compared(pack, ours, (areas[0], areas[1]), (differences[0], differences[1]))


def accuracy_lines(compared: list[Compared]) -> tuple[Line, ...]:
    """Our mean difference and worst lower end against the peer's better way over sites, the other way reported."""
    means = [float(np.mean([row.areas[way] for row in compared])) for way in (0, 1)]
    better = int(np.argmax(means))
    names = ("best site", "mean of its eight best sites")
    lines = []
    for way in (better, 1 - better):
        judged, name, n = way == better, names[way], len(compared)
        note = "the better of its two ways" if judged else "the other way, reported"
        mean = float(np.mean([row.differences[way][0] for row in compared]))
        worst = min(row.differences[way][1] for row in compared)
        bounds = (-0.005, -0.02) if judged else (None, None)
        what = f"AUROC, ours − xRFM's {name}"
        low, high = (_mean_end([row.differences[way] for row in compared], end) for end in (1, 2))
        lines.append(Line(f"{what}: mean over packs", mean, low, high, n, least=bounds[0], range_of="95 %", note=note))
        lines.append(Line(f"{what}: lowest end of the packs' paired 95 % intervals", worst, n=n, least=bounds[1], note=note))
    return tuple(lines)


def _mean_end(differences: list[tuple[float, float, float]], end: int) -> float:
    """An end of the interval of a mean of independent differences: the distances to their own ends add as squares (MOVER)."""
    values = np.asarray(differences)
    away = float(np.linalg.norm(values[:, end] - values[:, 0])) / len(values)
    return float(values[:, 0].mean()) + (away if end == 2 else -away)


def run(size: Size) -> Results:
    subject = ss.load("smollm2")
    at = "resid:*" if size.full else "resid:20,resid:24"
    packs = {name: ss.capture(subject, ss.concept(name), at=at, positions="last") for name in (PACKS if size.full else PACKS[:1])}
    acts = packs["harm"]
    sites = [acts.at(site).float() for site in acts.sites]
    everything, repeats = np.arange(len(acts.labels)), size.of(5, 1)

    def peer() -> None:
        fit_all(sites, acts.labels, acts.groups, everything, numpy_generator(0, "peer", acts.examples.digest))

    bare = paired(lambda: ss.find(acts, permutations=0), peer, repeats)
    timing = (
        seconds(
            "find, default methods, nested selection, 200 permutations", lambda: ss.find(acts, permutations=200), repeats, 10
        ),
        seconds("find with logistic, no permutations", lambda: ss.find(acts, logistic=True, permutations=0), repeats, 15),
        bare.line("find without permutations / xRFM's six configurations per site", 0.25),
    )
    compared = [compare(name, states) for name, states in packs.items()]
    columns = ("pack", "ours", "xRFM best site", "difference", "xRFM mean of eight", "difference")
    return Results(
        f"{len(acts.labels)} rows × {len(sites)} sites (pack harm, last token, SmolLM2-135M-Instruct) for the times; "
        f"{len(packs)} packs, {FOLDS} outer folds of whole groups, the same for both, for the AUROC.",
        (*timing, *accuracy_lines(compared)),
        (
            Table(
                "Held-out AUROC by pack, with the paired difference (ours − xRFM's) and its 95 % interval",
                columns,
                tuple(map(_row, compared)),
            ),
        ),
    )


def _row(row: Compared) -> tuple[str, ...]:
    shown = [f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" for value, low, high in row.differences]
    return row.pack, f"{row.ours:.3f}", f"{row.areas[0]:.3f}", shown[0], f"{row.areas[1]:.3f}", shown[1]


if __name__ == "__main__":
    main("find", run, __doc__ or "")
