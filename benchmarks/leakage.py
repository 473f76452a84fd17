"""What a linear probe reads on fresh rows after plain LEACE, less what it reads after the chosen eraser.

SmolLM2, six packs, the last token's states at three blocks where nothing about the eraser was ever fixed (that was on 6, 9, 12,
14, 15, 20, 24 and 27). Half of a pack's topics make both erasers, probes are cross-fitted over topics of the other half, and then
the halves change places; four partings. The statistic is the difference of two AUROCs on the same rows, the mean over partings,
halves, three probes, three blocks and six packs with equal weights. Blocks, partings, probes, statistic and intervals were fixed
in this file before its first full run, and nothing was changed after it.

The interval is over topics within packs, as rows that are judged: the mean's dyadic cluster-robust variance, times two for the
noise of the probes' fits, given the erasers. Two others stand beside it, in which the erasers are drawn too: from the difference
between a parting's two halves, which share no topic of the fit, and over the six packs.

Planted: normal states whose concept lies in the leading tenth of their coordinates, or in all alike, an eraser from 120 rows each
draw; what the best of all linear probes reads is worked out, not sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

import strandscope as ss
from common import Line, Results, Size, Table, main
from strandscope.provenance import numpy_generator, torch_generator
from strandscope.statistics.detect import compare, dyadic_covariance
from strandscope.strand.erase import Eraser, fit_eraser
from strandscope.strand.leakage import NOISE, Judging, parted
from strandscope.strand.linear import Method, Training, fit_scores
from strandscope.strand.rows import Ordered

Floats = NDArray[np.float64]
PACKS = ("harm", "truth", "sentiment", "certainty", "formality", "spanish")
BLOCKS = (11, 18, 22)
TRIED = (9,)  # for a trial, so that none looks at the others
PARTINGS = (11, 12, 13, 14)  # seeds
LINEAR = (Method("shrunk LDA"), Method("ridge", 1.0))
PROBES = ("logistic", *(method.family for method in LINEAR))
ROWS, D, APART, DRAWS = 120, 200, 4.0, 100  # planted


@dataclass(frozen=True, slots=True)
class Pack:
    """Differences of AUROCs (partings, halves, blocks, probes), what LEACE left, and sums over pairs of topics.

    Attributes:
        spread: (probes, topics, topics) centred differences of concordance, the mean over partings, halves and blocks.
        counts: (topics, topics) pairs compared; both are in units of all pairs.
        further: shrinkages that were chosen beside LEACE's, the mean over erasers.
    """

    differences: Floats
    left: Floats
    spread: Floats
    counts: Floats
    further: float

    def variance(self, probes: slice) -> tuple[float, int]:
        """Of the mean difference of these probes, and its degrees of freedom."""
        mean = self.spread[probes].mean(0)
        return (1 + NOISE) * dyadic_covariance(mean, mean, self.counts)[0], len(mean) - 1

    def opposite(self) -> float:
        """Variance of the mean difference, from halves that share no topic of the fit."""
        halves = self.differences.mean((2, 3))
        return float(np.square(halves[:, 0] - halves[:, 1]).mean()) / 4


def probe_scores(judging: Judging, states: torch.Tensor) -> Floats:
    """(probes, rows) cross-fitted scores."""
    labels = torch.as_tensor(judging.columns[0])
    linear = np.zeros((len(LINEAR), len(labels)))
    for fold in np.unique(judging.folds):
        held = torch.as_tensor(judging.folds == fold)
        training = Training.of(states[~held])
        _, found = fit_scores(training, states[held], LINEAR, labels[~held].double()[:, None], [])
        linear[:, held.numpy()] = found[..., 0].numpy()
    return np.concatenate([judging.scores("linear", states, judging.columns[:1])[None, :, 0, 0].numpy(), linear])


def halves(rows: Ordered, seed: int) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Which half, rows of the eraser and rows that are judged; each half is both in turn."""
    first = parted(rows.labels, rows.groups, seed, rows.key)
    for number, mine in enumerate((first, ~first)):
        yield number, np.flatnonzero(mine), np.flatnonzero(~mine)


def measured(rows: Ordered, seeds: tuple[int, ...]) -> Pack:
    topics, shape = int(rows.groups.max()) + 1, (len(seeds), 2, len(rows.states), len(PROBES))
    differences, left = np.zeros(shape), np.zeros(shape)
    spread, counts = np.zeros((len(PROBES), topics, topics)), np.zeros((topics, topics))
    further, cells = 0, math.prod(shape[:3])
    for parting, seed in enumerate(seeds):
        for half, ours, other in halves(rows, seed):
            labels, groups = rows.labels[other], rows.groups[other]
            draw = numpy_generator(seed, "folds of the probes", str(half), rows.key)
            judging = Judging.of(labels, groups, None, 0, 1, draw)
            here = np.ix_(*[np.unique(groups)] * 2)
            for block, states in enumerate(rows.states):
                plain = fit_eraser(states[ours], rows.labels[ours], shrinkages=())
                chosen = fit_eraser(states[ours], rows.labels[ours], rows.groups[ours])
                further += len(chosen.shrinkages)
                held = states[other]
                scores = [probe_scores(judging, eraser(held)) for eraser in (plain, chosen)]
                for probe, (one, two) in enumerate(zip(*scores, strict=True)):
                    after = [compare(these, labels, groups, judging.folds) for these in (one, two)]
                    difference = after[0].auroc - after[1].auroc
                    sums = after[0].concordance - after[1].concordance - difference * after[0].counts
                    spread[probe][here] += sums / after[0].pairs / cells
                    differences[parting, half, block, probe], left[parting, half, block, probe] = difference, after[0].auroc
                counts[here] += after[0].counts / after[0].pairs / cells
    return Pack(differences, left, spread, counts, further / cells)


def interval(value: float, variances: list[tuple[float, int]]) -> tuple[float, float]:
    """Of a mean of independent means, 95 %; degrees of freedom by Satterthwaite."""
    held = np.array([variance for variance, _ in variances]) / len(variances) ** 2
    if not held.any():
        return value, value
    free = held.sum() ** 2 / float((held**2 / np.array([freedom for _, freedom in variances])).sum())
    reach = float(student.ppf(0.975, free)) * math.sqrt(held.sum())
    return value - reach, value + reach


def best_reads(eraser: Eraser, scale: torch.Tensor, true: torch.Tensor) -> float:
    """AUROC of the best linear probe of states scale · (noise + label · true), which is 0 on what was written along."""
    written = torch.linalg.qr(eraser.write / scale[:, None]).Q
    rest = float(true @ true - (written.T @ true).square().sum())
    return float(norm.cdf(math.sqrt(max(rest, 0.0) / 2)))


def planted(coordinates: int, draws: int) -> tuple[Floats, Floats]:
    """(draws,) what the best linear probe reads after LEACE, and less that after the chosen eraser."""
    scale = torch.arange(1, D + 1, dtype=torch.float64) ** -0.5
    true = torch.zeros(D, dtype=torch.float64)
    true[:coordinates] = APART / math.sqrt(coordinates)
    labels, groups = np.arange(ROWS) % 2, np.arange(ROWS) // 10
    left, less = np.zeros(draws), np.zeros(draws)
    for draw in range(draws):
        noise = torch.randn(ROWS, D, generator=torch_generator(draw, "leakage, planted", str(coordinates)), dtype=torch.float64)
        states = (noise + torch.as_tensor(labels)[:, None] * true) * scale
        plain, chosen = fit_eraser(states, labels, shrinkages=()), fit_eraser(states, labels, groups)
        left[draw] = best_reads(plain, scale, true)
        less[draw] = left[draw] - best_reads(chosen, scale, true)
    return left, less


def planted_line(what: str, coordinates: int, draws: int, least: float | None) -> Line:
    left, less = planted(coordinates, draws)
    value = float(less.mean())
    low, high = interval(value, [(float(less.var(ddof=1)) / draws, draws - 1)])
    note = f"LEACE leaves {left.mean():.3f}; low end {low:.4f}"
    return Line(
        f"planted in {what}: best linear probe", value, low, high, draws, least=least, range_of="95 % over draws", note=note
    )


def run(size: Size) -> Results:
    torch.set_num_threads(1)  # many small fits
    blocks = BLOCKS if size.full else TRIED
    subject = ss.load("smollm2")
    at = ",".join(f"resid:{block}" for block in blocks)
    packs = {}
    for name in PACKS[: size.of(6, 2)]:
        rows = Ordered.of(ss.capture(subject, ss.concept(name), at=at, positions="last"))
        packs[name] = measured(rows, PARTINGS[: size.of(4, 1)])
    held = list(packs.values())
    topics = sum(len(pack.counts) for pack in held)
    lines, every = [], slice(None)
    for what, probes in (("mean of three probes", every), *((name, slice(i, i + 1)) for i, name in enumerate(PROBES))):
        value = float(np.mean([pack.differences[..., probes].mean() for pack in held]))
        low, high = interval(value, [pack.variance(probes) for pack in held])
        note = (
            f"{value:.4f} [{low:.4f}, {high:.4f}]; LEACE leaves {np.mean([pack.left[..., probes].mean() for pack in held]):.3f}"
        )
        lines.append(
            Line(
                f"AUROC after LEACE − after the chosen, {what}", value, low, high, topics, range_of="95 % over topics", note=note
            )
        )
        if probes == every:
            lines.append(
                Line("lower end of that interval", low, n=topics, least=0.0, note=f"{low:.5f}; the statistic that counts")
            )
    means = np.array([pack.differences.mean() for pack in held])
    value = float(means.mean())
    reach = float(student.ppf(0.975, len(held) - 1)) * float(means.std(ddof=1)) / math.sqrt(len(held))
    ends = {
        "opposite halves, erasers drawn too": interval(value, [(pack.opposite(), 1) for pack in held]),
        "packs": (value - reach, value + reach),
    }
    lines += [
        Line(f"the same, interval by {what}", value, low, high, len(held), range_of="95 %", note=f"[{low:.4f}, {high:.4f}]")
        for what, (low, high) in ends.items()
    ]
    draws = size.of(DRAWS, 3)
    lines.append(planted_line("the leading tenth", D // 10, draws, 0.0))
    lines.append(planted_line("all alike", D, draws, None))
    by_pack, by_block = [], []
    for name, pack in packs.items():
        mean = float(pack.differences.mean())
        low, high = interval(mean, [pack.variance(every)])
        figures = [f"{pack.differences[..., probe].mean():.4f}" for probe in range(len(PROBES))]
        by_pack.append(
            (name, float(pack.left.mean()), f"{mean:.4f}", f"[{low:.4f}, {high:.4f}]", *figures, f"{pack.further:.2f}")
        )
        by_block.append((name, *(f"{figure:.4f}" for figure in pack.differences.mean((0, 1, 3)))))
    return Results(
        f"SmolLM2-135M-Instruct, last token, blocks {', '.join(map(str, blocks))}: AUROC of linear probes after LEACE, less "
        f"that after the chosen eraser, on topics that neither has seen; {len(PARTINGS)} partings. Blocks and statistic "
        "were fixed before the run.",
        tuple(lines),
        (
            Table(
                "By pack, mean over blocks and partings",
                ("pack", "LEACE leaves", "less", "95 % over topics", *PROBES, "further shrinkages"),
                tuple(by_pack),
            ),
            Table("By pack and block, mean of three probes", ("pack", *map(str, blocks)), tuple(by_block)),
        ),
        {
            "unit of the interval": "topics within packs, as rows that are judged, given the erasers",
            "seeds of partings": PARTINGS,
        },
    )


if __name__ == "__main__":
    main("leakage", run, __doc__ or "")
