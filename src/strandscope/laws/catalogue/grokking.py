"""Grokking of modular addition by a kernel machine that learns features: structure first, then all sums at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import one_hot

from ...reading import Reading
from ...statistics.circulant import circulant_deviation, fourier_participation
from ...strand.rfm import iterates
from ...strand.rfm_spec import RFMSpec
from ..figure import Figure, Series
from ..law import Control, Law, LawResult
from .checks import bound, certain
from .entry import Trial, entry

P, SHARE, UPDATES = 61, 0.5, 30
FEW = 0.1  # of the table, for the control

GROKKING = Law(
    "grokking by features",
    "f_t fits for all t;  D(M_t) falls before accuracy rises;  accuracy → 1",
    {
        "f_t": "kernel machine after t updates of its metric M_t, on one-hot pairs (1)",
        "M_t": "square root of the centred AGOP of f_{t−1} (1)",
        "D": "circulant deviation of the first summand's block of M (share of variance)",
        "accuracy": "share of unseen sums a + b mod p that are right (1)",
    },
    "half of the table of a + b mod 61; Gaussian kernel without a ridge; a tenth of the table is outside",
    tolerance=0.2,
)


@dataclass(frozen=True, slots=True)
class Update:
    """The machine after `number` updates: error on what it was fitted to, accuracy on the rest, and of the first summand's block
    of M the circulant deviation and how many frequencies carry it."""

    number: int
    error: float
    accuracy: float
    deviation: float
    frequencies: float


def updates(trial: Trial, share: float, p: int = P, count: int = UPDATES) -> list[Update]:
    """A machine on a random `share` of the table, after one update of M and more."""
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    x, sums = one_hot(pairs, p).flatten(1).double(), pairs.sum(1) % p
    order = torch.randperm(p * p, generator=trial.torch("table", f"{share}"))
    seen, new = order.split([int(share * p * p), p * p - int(share * p * p)])
    wanted = one_hot(sums[seen], p).double()
    found = []
    for machine in iterates(RFMSpec.preset("grokking", iterations=count), x[seen], wanted, spectra=False):
        machine.require_solved()
        if machine.metric is not None:
            right = float((machine.predict(x[new]).argmax(-1) == sums[new]).double().mean())
            error = float((machine.predict(x[seen]) - wanted).square().mean())
            block = machine.metric.dense()[:p, :p]
            found.append(Update(machine.iteration, error, right, circulant_deviation(block), fourier_participation(block)))
    return found


@entry(
    GROKKING,
    source="Mallinar, Beaglehole, Zhu, Radhakrishnan, Pandit & Belkin (2024), arXiv 2407.20199",
    control="a tenth of the table: no transition, so that the final accuracy is violated",
    seconds=20,
)
def grokking(trial: Trial) -> LawResult:
    """A recursive feature machine sees half of the table of addition modulo 61. It fits what it saw exactly from the first step,
    and yet after one update it is wrong on nearly all other sums; updates of its metric alone bring it to nearly all right. The
    metric becomes circulant before anything shows in the accuracy: its deviation must have fallen by a fifth while the accuracy
    is still below twice chance. No network is in this, and no gradient descent."""
    machine, few = updates(trial, SHARE), updates(trial, FEW)
    table, chance = P * P, 1 / P
    early = [one for one in machine if one.accuracy < 2 * chance]
    fallen = _fallen(machine, early)
    unseen = table - int(SHARE * table)
    ends = bound("accuracy at the end", certain(machine[-1].accuracy, "share", "unseen sums", unseen), (0.99, math.inf))
    checks = [
        ends,
        bound("fall of circulant deviation before accuracy is twice chance", fallen, (GROKKING.tolerance, math.inf)),
        bound("accuracy after one update", certain(machine[0].accuracy, "share", "unseen sums", unseen), (-math.inf, 0.1)),
        bound("largest training error", certain(max(one.error for one in machine), "squared error", "all updates", UPDATES),
              (-math.inf, 1e-10)),
    ]  # fmt: skip
    last = certain(few[-1].accuracy, "share", "unseen sums", table - int(FEW * table))
    control = Control.of(
        f"{FEW:.0%} of the table seen", "violated", [bound("accuracy at the end, a tenth of the table", last, ends.band)]
    )
    figure = Figure.of(
        f"Addition modulo {P}: features before accuracy",
        "updates of the metric (1)",
        "accuracy, or circulant deviation (share)",
        (
            Series.of("accuracy on unseen sums", "measured", *_line(machine, "accuracy")),
            Series.of("circulant deviation", "measured", *_line(machine, "deviation")),
            Series.of(f"accuracy, {FEW:.0%} seen", "control", *_line(few, "accuracy")),
            Series.of("chance", "guide", [1, UPDATES], [chance, chance]),
        ),
    )
    details = {
        "accuracy": [one.accuracy for one in machine],
        "deviation": [one.deviation for one in machine],
        "frequencies": [machine[0].frequencies, machine[-1].frequencies],
        "few": {"accuracy": [one.accuracy for one in few], "deviation": [one.deviation for one in few]},
    }
    where = f"addition modulo {P}, {SHARE:.0%} of the table seen"
    return LawResult.of(GROKKING, where, checks, control, figure=figure, details=details)


def _fallen(machine: list[Update], early: list[Update]) -> Reading:
    """By which share the deviation fell while nothing showed; not measured where something showed from the first update on."""
    how = "from the first update"
    if not early:
        why = "the accuracy is above twice chance after the first update, so there is nothing before it"
        return Reading.not_measured(why, unit="share", method=how, n=len(machine))
    return certain(1 - early[-1].deviation / machine[0].deviation, "share", how, len(machine))


def _line(found: list[Update], what: str) -> tuple[list[int], list[float]]:
    return [one.number for one in found], [getattr(one, what) for one in found]
