"""Neural collapse: past zero training error, class means become a simplex and features their class means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from ...statistics.collapse import ClassSums, Collapse
from ..figure import Figure, Series
from ..law import Control, Law, LawResult
from .checks import bound, certain, geometric
from .entry import Trial, entry

Floats = NDArray[np.float64]

CLASSES, WIDTH, EACH = 4, 10, 50  # unconstrained features
UNEVEN = (95, 95, 5, 5)  # rows of the control's classes
DECAY_W, DECAY_H = 5e-3, 5e-3  # (λ/2)‖W‖² and (λ/2n)‖H‖² per row of the smallest mean
NETWORKS, ROWS, HIDDEN, EPOCHS, BATCH = 32, 300, (64, 64, 64), 1000, 30  # digits; sizes were set on seeds from 100 on
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
SHOWN = 4  # networks in the figure
SLOWER = 0.7  # of the epochs, after which steps shrink to nothing

COLLAPSE = Law(
    "neural collapse",
    "NC1 → 0, cos(μ_c − μ_G, μ_c′ − μ_G) → −1/(K − 1), NC4 → 0",
    {
        "NC1": "tr(Σ_W Σ_B⁺)/K, variability of features within classes (1)",
        "μ_c, μ_G": "mean of a class's features, and of all class means (feature)",
        "K": "classes (1)",
        "NC4": "share of rows where the classifier disagrees with the nearest class mean (1)",
    },
    "classes of equal size, more dimensions than classes, training with L2 decay past zero training error",
    tolerance=0.01,
)


def features(trial: Trial, counts: tuple[int, ...]) -> tuple[Collapse, float]:
    """Free features H and a classifier W, b minimise cross-entropy with decay from a random start; figures, and NC3.

    Every row of H is a parameter of its own: what a network would do that could put any row anywhere.
    """
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    n, k = len(labels), len(counts)
    random = trial.torch("features", *map(str, counts))
    start = torch.randn((n + k) * WIDTH + k, generator=random, dtype=torch.float64).numpy()

    def parts(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, w = point[: n * WIDTH].reshape(n, WIDTH), point[n * WIDTH : (n + k) * WIDTH].reshape(k, WIDTH)
        return h, w, point[(n + k) * WIDTH :]

    def value(point: Floats) -> tuple[float, Floats]:
        whole = torch.tensor(point, requires_grad=True)
        h, w, b = parts(whole)
        loss = cross_entropy(h @ w.T + b, labels) + DECAY_W / 2 * w.square().sum() + DECAY_H / (2 * n) * h.square().sum()
        (gradient,) = torch.autograd.grad(loss, whole)
        return float(loss.detach()), gradient.numpy()

    options = {"maxiter": 5000, "maxfun": 10_000, "ftol": 0.0, "gtol": 1e-10, "maxcor": 30}
    h, w, b = parts(torch.tensor(minimize(value, start, jac=True, method="L-BFGS-B", options=options).x))
    found = figures(h, labels, h @ w.T + b, k)
    return found, found.nc3(w)


def figures(rows: Tensor, labels: Tensor, logits: Tensor, classes: int) -> Collapse:
    """Two passes: class means first, so that NC4 has them."""
    first = ClassSums(classes, rows.shape[1])
    first.update(rows, labels)
    again = ClassSums(classes, rows.shape[1], centres=first.means)
    again.update(rows, labels, logits)
    return again.result()


@dataclass(frozen=True, slots=True)
class Epoch:
    """Of one network after so many epochs: training error (share) and the figures of its last hidden layer."""

    number: int
    error: float
    nc1: float
    angles: float
    nc4: float


def networks(trial: Trial, count: int = NETWORKS, rows: int = ROWS, epochs: int = EPOCHS, every: int = 10) -> list[list[Epoch]]:
    """Rectifier networks with three hidden layers, side by side, each on digits and from weights of its own, learn them by
    their squared error, with momentum and decay."""
    images, digits = load_digits(return_X_y=True)
    kept = np.stack([trial.numpy("digits", str(number)).permutation(len(images))[:rows] for number in range(count)])
    x, y = torch.as_tensor(images[kept] / 16, dtype=torch.float32), torch.as_tensor(digits[kept])
    wanted, random, sizes = one_hot(y, 10).float(), trial.torch("networks"), (x.shape[-1], *HIDDEN, 10)
    weights = [torch.randn(count, a, b, generator=random) * (2 / a) ** 0.5 for a, b in pairwise(sizes)]
    offsets = [torch.zeros(count, 1, b) for b in sizes[1:]]
    parameters = [part.requires_grad_() for part in (*weights, *offsets)]

    def forward(z: Tensor) -> tuple[Tensor, Tensor]:
        for weight, offset in zip(weights[:-1], offsets[:-1], strict=True):
            z = torch.baddbmm(offset, z, weight).relu()
        return z, torch.baddbmm(offsets[-1], z, weights[-1])

    descent = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    slower = torch.optim.lr_scheduler.LambdaLR(descent, lambda done: min(1.0, (1.01 - done / epochs) / (1.01 - SLOWER)))
    seen: list[list[Epoch]] = [[] for _ in range(count)]
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(rows, generator=random).split(BATCH):
            descent.zero_grad()
            (forward(x[:, batch])[1] - wanted[:, batch]).square().sum((0, 2)).mean().backward()
            descent.step()
        slower.step()
        if epoch % every == 0 or epoch < 2 * every:
            with torch.no_grad():
                h, logits = forward(x)
            for one, features_, labels, scores in zip(seen, h, y, logits, strict=True):
                found = figures(features_, labels, scores, 10)
                error = float((scores.argmax(1) != labels).double().mean())
                one.append(Epoch(epoch, error, found.nc1, found.angles, found.nc4 or 0.0))
    return seen


@entry(
    COLLAPSE,
    source="Papyan, Han & Donoho, PNAS 117:24652 (2020); unconstrained features: Mixon, Parshall & Pi (2020); squared "
    "error: Han, Papyan & Donoho (2022); the control: Fang, He, Long & Su, PNAS 118 (2021)",
    control="the same free features with classes of 95, 95, 5 and 5 rows: the angles of a simplex are violated",
    seconds=32,
)
def collapse(trial: Trial) -> LawResult:
    """Free features of four classes, fifty rows each, and their classifier minimise cross-entropy with decay: within classes
    nothing may be left, the class means must stand at cosines of −1/3, the classifier agree with the nearest of them and lie
    along them. In 32 networks that learn digits by their squared error, each on rows of its own, variability within classes must
    fall at least threefold, in the geometric mean, between the first epoch without a training error and the last."""
    even, aligned = features(trial, (EACH,) * CLASSES)
    uneven, _ = features(trial, UNEVEN)
    trained = networks(trial)
    fitted = [next((one for one in epochs if one.error == 0), epochs[-1]) for epochs in trained]
    falls = [one.nc1 / epochs[-1].nc1 for one, epochs in zip(fitted, trained, strict=True)]
    n, how = even.n, "free features at the minimum"
    checks = [
        bound("NC2: largest deviation of a cosine from −1/3", certain(even.angles, "1", how, n), (-math.inf, COLLAPSE.tolerance)),
        bound("NC1", certain(even.nc1, "1", how, n), (-math.inf, 1e-3)),
        bound("NC2: spread of norms", certain(even.norms, "share", how, n), (-math.inf, COLLAPSE.tolerance)),
        bound("NC3", certain(aligned, "1", how, n), (-math.inf, COLLAPSE.tolerance)),
        bound("NC4", certain(even.nc4 if even.nc4 is not None else 1.0, "share", how, n), (-math.inf, 0.0)),
        bound(
            "fall of NC1 after zero error, digits",
            geometric(np.log(falls), trial.level, "times", f"geometric mean of {NETWORKS} networks"),
            (3.0, math.inf),
        ),
    ]
    control = Control.of(
        f"free features with classes of {', '.join(map(str, UNEVEN))} rows",
        "violated",
        [bound("NC2: largest deviation of a cosine from −1/3", certain(uneven.angles, "1", how, uneven.n),
               (-math.inf, COLLAPSE.tolerance))],
    )  # fmt: skip
    shown = fitted[:SHOWN]
    figure = Figure.of(
        f"Neural collapse on digits, {SHOWN} of {NETWORKS} networks",
        "epoch (1)",
        "NC1 (1)",
        (
            *(
                Series.of(f"network {number + 1}", "measured", [one.number for one in epochs], [one.nc1 for one in epochs])
                for number, epochs in enumerate(trained[:SHOWN])
            ),
            Series.of("first epochs without an error", "guide", [one.number for one in shown], [one.nc1 for one in shown]),
        ),
        "log y",
    )
    last = [epochs[-1] for epochs in trained]
    details = {
        "digits": {
            "falls": falls,
            "zero_error_at": [one.number for one in fitted],
            "angles": [[one.angles for one in part] for part in (fitted, last)],
            "nc4": [[one.nc4 for one in part] for part in (fitted, last)],
        },
        "uneven": {"nc1": uneven.nc1, "norms": uneven.norms, "angles": uneven.angles},
    }
    where = f"free features of {CLASSES} classes in {WIDTH} dimensions; digits"
    return LawResult.of(COLLAPSE, where, checks, control, figure=figure, details=details)
