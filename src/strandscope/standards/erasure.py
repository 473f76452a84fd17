"""Standards of erasure: what is left of a planted concept in unseen rows, and how many rows of the fit would leave nothing."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from ..strand import leakage
from ..strand.erase import Eraser, Metric, fit_eraser
from ..strand.leakage import Judging, closed_form, rows_needed
from .mutation import Mutation
from .standard import Bands, Draw, Outcome, case

LEACE = "Belrose et al. (2023), arXiv 2306.03819"
READS = Mutation("written along the columns that read", Eraser.__call__, "@ self.write.T", "@ self.read.T")
NOISE = Mutation(
    "a fold times itself, so that its noise counts", leakage.rows_needed, "chosen.sum() - chosen.trace()", "chosen.sum()"
)


def planted(draw: Draw, n: int, d: int, apart: float) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Normal states, their spread falling off, two classes apart along all coordinates alike; groups of ten rows."""
    labels = np.arange(n) % 2
    spread = torch.arange(1, d + 1, dtype=torch.float64) ** -0.5
    states = draw.normal(n, d) + apart / math.sqrt(d) * torch.as_tensor(labels)[:, None]
    return states * spread, labels, np.arange(n) // 10


def left(eraser: Eraser, d: int, apart: float) -> float:
    """d′² of the best of all linear probes after the erasure: it is 0 on what was written along."""
    true = np.full(d, apart / math.sqrt(d))
    written = np.linalg.qr(eraser.write.numpy() * (np.arange(1, d + 1) ** 0.5)[:, None])[0]
    return float(true @ true - np.square(written.T @ true).sum())


@case(
    "planted concept, erased to equivalence",
    "strand.leakage",
    "erased, and read before",
    Bands(error=0.0),
    (1, 2, 10),
    READS,
    source=LEACE,
    unit="of two probes that do not say so",
)
def equivalence(draw: Draw) -> Outcome:
    """A linear concept of AUROC .98 in 8 dimensions, LEACE from 20,000 rows, judged on 6,000 others by a linear probe and by
    nearest neighbours: the whole interval within .5 ± .05."""
    states, labels, _ = planted(draw, 20_000, 8, 3.0)
    eraser = fit_eraser(states, labels, shrinkages=())
    fresh, codes, groups = planted(draw, 6000, 8, 3.0)
    judging = Judging.of(codes, groups, None, 1, 2, draw.numpy)
    verdicts = [judging.leak(kind, fresh, eraser(fresh)).verdict for kind in ("linear", "k-NN")]
    return Outcome(sum(verdict != "erased" for verdict in verdicts))


@case(
    "rows that an erasure needs, LEACE",
    "strand.leakage.rows_needed",
    "d/(p(1 − p)) over d′² of .55",
    Bands(bias=0.1),
    (20, 60, 400),
    NOISE,
    source="closed form: LEACE of n rows leaves d′² = 4(d − 1)/n",
    unit="of the truth",
)
def needed(draw: Draw) -> Outcome:
    """LEACE from 1,000 rows of a strong concept in 20 dimensions; what is left, from 2,000 others in five folds."""
    states, labels, _ = planted(draw, 1000, 20, 4.0)
    eraser = fit_eraser(states, labels, shrinkages=())
    fresh, codes, groups = planted(draw, 2000, 20, 4.0)
    truth = float(closed_form(eraser))
    reading = rows_needed(eraser, Metric.of(states, labels), fresh, codes, groups % 5)
    return Outcome(reading.value if reading.value is not None else 0.0, truth, truth)


@case(
    "as many rows as an erasure needs",
    "strand.leakage.closed_form",
    "an AUROC of .55 for the best linear probe",
    Bands(bias=0.005),
    (10, 20, 100),
    Mutation("p for p(1 − p)", leakage.closed_form, "shares[0] * (1 - shares[0])", "shares[0]"),
    source="the plant's own class means and covariance; LEACE: " + LEACE,
    unit="AUROC",
)
def enough(draw: Draw) -> Outcome:
    """LEACE from as many rows as the law asks for, of a strong concept in 20 dimensions; the truth is worked out, not sampled."""
    few, labels, _ = planted(draw, 100, 20, 4.0)
    states, labels, _ = planted(draw, closed_form(fit_eraser(few, labels, shrinkages=())), 20, 4.0)
    rest = left(fit_eraser(states, labels, shrinkages=()), 20, 4.0)
    return Outcome(float(norm.cdf(math.sqrt(rest / 2))), 0.55)


STANDARDS = (equivalence, needed, enough)
