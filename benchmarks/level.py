"""Tests of a level: how often "detected" is said when nothing is there, and how often the AUROC interval holds the truth.

**False alarms.** `ss.find` itself, on made-up states with group effects at four sites (60 rows, 24 dimensions, 4 folds, 199
permutations) whose labels are shuffled. With 199 permutations p ≤ 0.05 is exactly the 10 best of 200 equally likely ranks, so
of 1,000 runs 50 are due, and at most 71 are within chance (99.9 %). With groups that mix labels, with groups of one label, and
with groups of declared pairs, whose two rows are alike and differ in label.

**Coverage.** States of row i in group g with label y ∈ {0, 1}, every part Gaussian and alike in all d directions:

    h = y (δ + v_g) + u_g + e,    u_g ~ N(0, b² I),  v_g ~ N(0, c² I),  e ~ N(0, I)

For each fold a direction w is fitted on the other folds, which share no group with it: a difference of means in 16
dimensions, or shrunk LDA in 64 or in 300. Given w (unit length), scores are Gaussian too: a positive row has mean δ·w more than a
negative one, and a pair of rows of different groups differs with variance 2 + 2b² + c², a pair of one group, whose u_g is
the same, with variance 2 + c². So the AUROC of this fold's own model on new groups is

    A_fold = (n_same Φ(δ·w / √(2 + c²)) + n_other Φ(δ·w / √(2 + 2b² + c²))) / (n_same + n_other),

n_same and n_other the numbers of compared pairs inside the fold; and the figure that `area` estimates is the mean of the
A_fold weighted by their pairs, because the fold's rows are independent of its w. The interval, made as `find` makes it,
must hold it in 93.5 to 96.5 % of 2,000 runs. δ is set so that the best direction's AUROC on pairs of different groups is
the one named; w, being fitted, reaches somewhat less.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta, norm

import strandscope as ss
from common import THREADS, Line, Results, Size, Table, main
from strandscope.provenance import numpy_generator
from strandscope.statistics.detect import area
from strandscope.statistics.resample import group_folds, relabelled
from strandscope.strand.linear import Method, Training, noise_shares
from strandscope.strand.nested import NOISE_DRAWS
from strandscope.subject.site import Site

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
R = TypeVar("R")

RUNS, ALLOWED = 1000, 71
ROWS, SITES, WIDTH, FOLDS, PERMUTATIONS = 60, 4, 24, 4, 199
NULLS = {"groups mix labels": 12, "groups of one label": 20, "pairs in groups": 10}  # how many groups hold the 60 rows

COVERAGE_RUNS, GROUPS, EACH = 2000, 24, 5  # rows of each class in a group
AREAS = (0.60, 0.75, 0.90, 0.97)
EFFECTS = ((0.0, 0.0), (0.7, 0.0), (1.0, 0.5))  # (b, c) in standard deviations of e
MEANS, LDA, WIDE = (Method("difference of means"), 16), (Method("shrunk LDA"), 64), (Method("shrunk LDA"), 300)  # with dimensions
SETTINGS = (
    *product(AREAS, EFFECTS, (MEANS,)),
    *product(AREAS, EFFECTS[1:2], (LDA,)),
    *product(AREAS[1:3], EFFECTS[1:2], (WIDE,)),  # more dimensions than rows, as in a network
)


@dataclass(frozen=True, slots=True)
class Covered:
    truth: float
    estimate: float
    low: float
    high: float

    @property
    def held(self) -> bool:
        return self.low <= self.truth <= self.high


def shuffled(kind: str, run: int) -> ss.Activations:
    """Made-up states with group effects, and labels that were shuffled."""
    generator = numpy_generator(run, "level", kind)
    groups = np.arange(ROWS) % NULLS[kind]
    pairs = np.arange(ROWS) // (2 * NULLS[kind]) * NULLS[kind] + groups  # two rows of one group each
    if kind == "groups mix labels":
        labels = np.zeros(ROWS, dtype=np.int64)
        for group in range(NULLS[kind]):
            rows = np.flatnonzero(groups == group)
            labels[generator.permutation(rows)[: len(rows) // 2 + group % 2]] = 1
    elif kind == "pairs in groups":
        labels = (np.arange(ROWS) // NULLS[kind] + generator.integers(2, size=ROWS)[pairs]) % 2
    else:
        labels = generator.permutation(np.arange(NULLS[kind]) % 2)[groups]
    common = generator.normal(size=(ROWS, WIDTH)) + generator.normal(size=(NULLS[kind], WIDTH))[groups]
    if kind == "pairs in groups":
        common += 2 * generator.normal(size=(ROWS, WIDTH))[pairs]
    states = {
        Site.parse(f"resid:{site}"): torch.as_tensor(common + generator.normal(size=(ROWS, WIDTH)), dtype=torch.float32)
        for site in range(SITES)
    }
    rows = [{"tensor": torch.tensor([float(i)]), "label": int(labels[i]), "group": f"g{groups[i]}"} for i in range(ROWS)]
    if kind == "pairs in groups":
        rows = [row | {"pair": f"p{pairs[i]}"} for i, row in enumerate(rows)]
    none = torch.full((ROWS,), -1)
    examples = ss.Examples.from_rows(rows, f"shuffled {run}")
    return ss.Activations(states, examples, "last", torch.arange(ROWS), none, none, {}, "made up", {})


def alarm(task: tuple[str, int]) -> bool:
    """Whether `find` says "detected"."""
    kind, run = task
    return ss.find(shuffled(kind, run), folds=FOLDS, permutations=PERMUTATIONS, seed=run).verdict == "detected"


def covered(task: tuple[int, int]) -> Covered:
    """One run of one planted setting."""
    setting, run = task
    best, (b, c), (method, dimensions) = SETTINGS[setting]
    generator = numpy_generator(run, "coverage", str(setting))
    groups = np.repeat(np.arange(GROUPS), 2 * EACH)
    labels = np.tile(np.repeat([1, 0], EACH), GROUPS)
    delta = np.zeros(dimensions)
    delta[0] = norm.ppf(best) * np.sqrt(2 + 2 * b**2 + c**2)
    shift, tilt = (scale * generator.normal(size=(GROUPS, dimensions))[groups] for scale in (b, c))
    states = labels[:, None] * (delta + tilt) + shift + generator.normal(size=(len(labels), dimensions))
    folds = group_folds(labels, groups, 5, generator)
    noise = relabelled(labels, groups, NOISE_DRAWS, generator)
    scores, shares, truth, pairs = np.zeros(len(labels)), [], 0.0, 0.0
    for fold in range(5):
        held = folds == fold
        training, new = Training.of(torch.as_tensor(states[~held])), torch.as_tensor(states[held])
        targets, fakes = (torch.as_tensor(rows[..., ~held], dtype=torch.float64) for rows in (labels[None], noise))
        direction = training.weights(method, targets.T)[:, 0].numpy()
        direction /= np.linalg.norm(direction)
        scores[held] = states[held] @ direction
        shares.append(float(noise_shares(training, new, labels[held], [method], targets.T, fakes.T)))
        here = len(np.unique(groups[held]))
        same, every = here * EACH**2, (here * EACH) ** 2
        gap = float(delta @ direction)
        near, far = norm.cdf(gap / np.sqrt(2 + c**2)), norm.cdf(gap / np.sqrt(2 + 2 * b**2 + c**2))
        truth += same * near + (every - same) * far
        pairs += every
    found = area(scores, labels, groups, folds, noise=float(np.mean(shares)))
    return Covered(float(truth / pairs), found.value, found.low, found.high)


def _alone() -> None:
    torch.set_num_threads(1)


def spread_out(work: Callable[[Any], R], tasks: Sequence[Any], name: str) -> Iterator[R]:
    """Results in order, over as many processes of one thread as there are cores to use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with get_context("spawn").Pool(min(THREADS, cores), _alone) as pool:
        for done, result in enumerate(pool.imap(work, tasks, chunksize=8), start=1):
            if done % max(1, len(tasks) // 20) == 0:
                print(f"{name}: {done} of {len(tasks)}", file=sys.stderr, flush=True)
            yield result


def share_interval(hits: int, runs: int) -> tuple[float, float]:
    """Clopper–Pearson, 95 %."""
    low = float(beta.ppf(0.025, hits, runs - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, runs - hits)) if hits < runs else 1.0
    return low, high


def _coverage_line(what: str, results: list[Covered]) -> Line:
    hits, runs = sum(result.held for result in results), len(results)
    low, high = share_interval(hits, runs)
    return Line(what, hits / runs, low, high, runs, least=0.935, most=0.965, range_of="95 %")


def _coverage_row(setting: int, results: list[Covered]) -> tuple[str, ...]:
    best, (b, c), (method, dimensions) = SETTINGS[setting]
    below = np.mean([result.truth < result.low for result in results])
    above = np.mean([result.truth > result.high for result in results])
    width = np.mean([result.high - result.low for result in results])
    means = (np.mean([result.truth for result in results]), np.mean([result.estimate for result in results]))
    held = np.mean([result.held for result in results])
    figures = (f"{means[0]:.3f}", f"{means[1]:.3f}", f"{held:.3f}", f"{below:.3f}", f"{above:.3f}", f"{width:.3f}")
    return (f"{method}, {dimensions}", f"{best:.2f}", f"{b:g}", f"{c:g}", *figures)


def run(size: Size) -> Results:
    runs, planted = size.of(RUNS, 4), size.of(COVERAGE_RUNS, 4)
    tasks = [(kind, number) for kind in NULLS for number in range(runs)]
    alarms = list(spread_out(alarm, tasks, "shuffled labels"))
    counts = {kind: sum(found for found, task in zip(alarms, tasks, strict=True) if task[0] == kind) for kind in NULLS}
    order = [(setting, number) for setting in range(len(SETTINGS)) for number in range(planted)]
    results = list(spread_out(covered, order, "planted"))
    by_setting = [results[i * planted : (i + 1) * planted] for i in range(len(SETTINGS))]
    columns = (
        "method, dimensions",
        "best AUROC",
        "b",
        "c",
        "true AUROC",
        "estimate",
        "coverage",
        "truth below",
        "truth above",
        "width",
    )
    return Results(
        f"{runs} runs of `find` with shuffled labels for each kind of group, judged at the 5 % level; "
        f"{planted} planted data sets for each of {len(SETTINGS)} settings: "
        f"{GROUPS} groups of {EACH} + {EACH} rows, five folds.",
        (
            *(
                Line(
                    f'"detected" with labels shuffled, {kind}', counts[kind], n=runs, unit="runs", most=ALLOWED, note=f"of {runs}"
                )
                for kind in NULLS
            ),
            _coverage_line("coverage of the 95 % interval, all settings", results),
            *(
                _coverage_line(
                    f"coverage, {method} in {dimensions} dimensions, AUROC {best:.2f}, group effect {b:g}, interaction {c:g}",
                    part,
                )
                for (best, (b, c), (method, dimensions)), part in zip(SETTINGS, by_setting, strict=True)
            ),
        ),
        (Table("Coverage by setting", columns, tuple(_coverage_row(i, part) for i, part in enumerate(by_setting))),),
    )


if __name__ == "__main__":
    main("level", run, __doc__ or "")
