"""Recursive feature machines beside xRFM 0.4.5 at 30 sites: time and held-out AUROC.

Both run the same: the kernel `l2_high_dim` (Laplace), ridge 1e-3, bandwidths 1, 10 and 100, gradients centred or not, eight
updates, every iterate scored by its AUROC on the same validation rows and the best kept, early stopping off. Ours is the preset
`xrfm` with those changes. The AUROC is of a third set of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import strandscope as ss
from common import Line, Pairs, Results, Size, Table, main, timed
from others import facts
from strandscope.provenance import numpy_generator
from strandscope.statistics.detect import quick_auroc
from strandscope.strand.rfm import iterates
from strandscope.strand.rfm_spec import RFMSpec
from strandscope.strand.rows import Ordered

PACKS = ("harm", "truth", "sentiment", "certainty")
GRID = tuple(product((1.0, 10.0, 100.0), (True, False)))  # bandwidth, gradients centred
RIDGE, UPDATES, FIT, HELD, SPLITS = 1e-3, 8, 416, 98, 2
CLIP = 1e-3  # xRFM chooses by predictions clipped to [.001, .999], where those beyond are ties; both are scored as they are


@dataclass(frozen=True, slots=True)
class Split:
    """States (sites, rows, d) and labels to fit, to choose by and to score."""

    states: tuple[Tensor, Tensor, Tensor]
    labels: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, rows: Ordered, seed: int, sizes: Sequence[int]) -> Split:
        order = numpy_generator(seed, "split", rows.key).permutation(len(rows.labels))
        parts = [torch.as_tensor(part) for part in np.split(order, np.cumsum(sizes))[:3]]
        states, labels = torch.stack(list(rows.states)), torch.as_tensor(rows.labels)
        fit, choose, score = parts
        return cls((states[:, fit], states[:, choose], states[:, score]), (labels[fit], labels[choose], labels[score]))


def aurocs(scores: Tensor, labels: Tensor) -> NDArray[np.float64]:
    return np.atleast_1d(quick_auroc(scores.numpy(), labels.numpy()))


def ours(split: Split) -> NDArray[np.float64]:
    """Held-out AUROC of each site: the best of all iterates of six configurations by validation AUROC."""
    (fit, choose, score), (labels, chosen_by, truth) = split.states, split.labels
    best = np.full(len(fit), -1.0)
    found = torch.zeros(len(fit), len(truth))
    for bandwidth, centred in GRID:
        spec = RFMSpec.preset("xrfm", bandwidth=bandwidth, ridge=RIDGE, centre_gradients=centred, iterations=UPDATES)
        for machine in iterates(spec, fit, labels, spectra=False):
            values = aurocs(machine.predict(choose)[..., 0].clamp(CLIP, 1 - CLIP), chosen_by)
            for site in np.flatnonzero(values > best).tolist():
                best[site] = values[site]
                found[site] = machine.site(site).predict(score[site])[:, 0]
    return aurocs(found, truth)


def theirs(split: Split) -> NDArray[np.float64]:
    """The same by xRFM, site by site."""
    from xrfm.rfm_src import RFM as Peer
    from xrfm.rfm_src.class_conversion import ClassificationConverter

    (fit, choose, score), (labels, chosen_by, truth) = split.states, split.labels
    found = []
    for site in range(len(fit)):
        best, scores = -1.0, None
        for bandwidth, centred in GRID:
            model = Peer(
                "l2_high_dim", iters=UPDATES, bandwidth=bandwidth, device="cpu", tuning_metric="auc", verbose=False,
                class_converter=ClassificationConverter("zero_one", 2),
            )  # fmt: skip
            held = (choose[site], chosen_by[:, None].float())
            model.fit(
                (fit[site], labels[:, None].float()), held, reg=RIDGE, center_grads=centred, verbose=False, early_stop_rfm=False
            )
            value = float(model.score(*held, ["auc"])["auc"])
            if value > best:
                best, scores = value, torch.as_tensor(np.asarray(model.predict(score[site]))[:, 0])
        assert scores is not None
        found.append(aurocs(scores, truth)[0])
    return np.array(found)


def beside(split: Split, pairs: int) -> Pairs:
    """Seconds of both, A B A B."""
    times = [(timed(lambda: ours(split)), timed(lambda: theirs(split))) for _ in range(pairs)]
    return Pairs(tuple(one for one, _ in times), tuple(other for _, other in times))


def run(size: Size) -> Results:
    subject = ss.load("smollm2")
    at = "resid:*" if size.full else "resid:20,resid:24"
    case = facts(size.data)
    captured = {"facts": ss.capture(subject, case.examples, at=at, positions=case.positions)}
    captured |= {pack: ss.capture(subject, ss.concept(pack), at=at, positions="last") for pack in PACKS[: size.of(len(PACKS), 1)]}
    rows = {name: Ordered.of(acts) for name, acts in captured.items()}
    times, table, differences = None, [], []
    for name, these in rows.items():
        n = len(these.labels)
        sizes = (FIT, HELD) if name == "facts" else (n * 6 // 10, n * 2 // 10)
        for seed in range(size.of(SPLITS, 1)):
            split = Split.of(these, seed, sizes)
            one, other = ours(split), theirs(split)
            if times is None:  # this was the warm-up
                times = beside(split, size.of(3, 1))
            differences.append(float((one - other).mean()))
            table.append((name, seed, sizes[0], float(one.mean()), float(other.mean()), differences[-1]))
    assert times is not None
    error = float(np.std(differences, ddof=1) / len(differences) ** 0.5) if len(differences) > 1 else 0.0
    mean = float(np.mean(differences))
    sites = len(rows["facts"].states)
    return Results(
        f"{sites} sites, {FIT} rows to fit and {HELD} to choose by (facts that others wrote; SmolLM2-135M-Instruct, "
        f"last token), six configurations, {UPDATES} updates; AUROC on further rows, of these and of {len(rows) - 1} packs.",
        (
            times.line("RFM at all sites / xRFM, the same configurations, early stopping off", 0.4),
            Line(
                "AUROC, ours − xRFM: mean over sites, splits and data",
                mean,
                mean - 2 * error,
                mean + 2 * error,
                len(differences),
                least=-0.003,
                range_of="± 2 standard errors over splits",
            ),
        ),
        (Table("Held-out AUROC, mean over sites", ("data", "split", "rows", "ours", "xRFM", "difference"), tuple(table)),),
    )


if __name__ == "__main__":
    main("rfm", run, __doc__ or "")
