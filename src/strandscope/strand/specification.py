"""How far an answer depends on how it was asked: one concept at one site, under every choice that an RFM makes.

The literature ships seven recursive feature machines and compares none of them. A specification curve fits a base, the base
with one choice changed at a time, and the seven as published, to the same rows; and reads for each the cross-fitted AUROC of
its predictions, and the angle between the directions it finds and a reference. Where the angles are small the direction is the
data's; where they are not, it is the choice's.

Whatever is chosen (the site, a bandwidth or ridge from a grid) is chosen inside training groups. Angles are of refits on all
rows, at the site that all rows choose; their intervals delete a fold of whole groups from both, the specification's fit and the
reference's (jackknife).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from ..errors import InputError
from ..linalg import principal_angles
from ..provenance import numpy_generator
from ..reading import Reading
from ..statistics.detect import area
from ..statistics.resample import group_folds
from .kernels import Kernel
from .linear import Method, Training
from .nested import INNER_FOLDS, choose, targets
from .rfm import RFM, fit
from .rfm_spec import PRESETS, RFMSpec
from .rows import Ordered, States, check_captured

Ints = NDArray[np.int64]
Report = Callable[[int, int], None]
CHOOSER = Method("ridge", 1.0)  # chooses the site, inside training groups
MEANS = Method("difference of means")
DEGREES = "degrees"
NOISE = 1.0  # of the scores' variance within a class, taken to come from the fits: wider than the truth, never narrower


@dataclass(frozen=True, slots=True)
class Specified:
    """One specification: what it says, cross-fitted; how far its directions lie from the reference's; how its solve went."""

    name: str
    spec: RFMSpec
    auroc: Reading
    angle: Reading
    directions: Tensor | None  # (d, rank) orthonormal; None where it was not solved
    outcome: str


@dataclass(frozen=True, slots=True)
class SpecificationCurve:
    """All specifications at one site; `among` (choices, choices) holds largest principal angles, NaN beside one not solved."""

    site: str
    reference: str
    rank: int
    rows: tuple[Specified, ...]
    among: Tensor

    def __str__(self) -> str:
        solved = [row for row in self.rows if row.auroc.value is not None and row.angle.value is not None]
        head = f"{len(self.rows)} specifications at {self.site}"
        if not solved:
            return f"{head}: none was solved"
        aurocs = [row.auroc.value for row in solved if row.auroc.value is not None]
        angles = [row.angle.value for row in solved if row.angle.value is not None]
        pairs = self.among[torch.triu(torch.ones_like(self.among), 1).bool()]
        median = float(pairs.nanmedian())
        failed = f", {len(self.rows) - len(solved)} not solved" if len(solved) < len(self.rows) else ""
        spread = f"AUROC {min(aurocs):.3f} to {max(aurocs):.3f}, {min(angles):.0f}° to {max(angles):.0f}° from {self.reference}"
        return f"{head}: {spread}, median of pairs {median:.0f}°{failed}"


def variations(distance: float) -> dict[str, RFMSpec]:
    """The base, the base with one choice changed, and the published seven.

    Args:
        distance: root mean squared distance between rows, the unit of a given bandwidth.
    """
    base = RFMSpec()
    changed: dict[str, dict[str, object]] = {
        "kernel gaussian": {"kernel": Kernel("gaussian")},
        "kernel quadratic": {"kernel": Kernel("quadratic")},
        "kernel linear": {"kernel": Kernel("linear")},
        "kernel l1, diagonal": {"kernel": Kernel("laplace", 1.0), "diagonal": True},
        **{f"bandwidth {times:g}": {"bandwidth": times * distance} for times in (0.3, 1.0, 10.0)},
        **{f"ridge {ridge:g}": {"ridge": ridge} for ridge in (1e-3, 1e-1, 10.0)},
        "unit rows": {"unit_rows": True},
        "gradients centred": {"centre_gradients": True},
        "power 0.5": {"power": 0.5},
        **{f"iterations {count}": {"iterations": count} for count in (1, 8)},
        "normalise max": {"normalise": "max"},
        "diagonal": {"diagonal": True},
    }
    own = {"base": base, **{name: replace(base, **fields) for name, fields in changed.items()}}  # type: ignore[arg-type]
    return own | {f"published: {name}": spec for name, spec in PRESETS.items()}


def specification_curve(
    acts: States,
    specs: Mapping[str, RFMSpec] | None = None,
    *,
    site: str | None = None,
    rank: int = 1,
    folds: int = 5,
    seed: int = 0,
    progress: Report | None = None,
) -> SpecificationCurve:
    """Fit every specification to states captured at one position a row.

    Args:
        specs: by name; None: `variations`. The first is the reference where `rank` is above 1; of one direction the reference is
            the difference of means.
        site: None: the best, chosen inside training groups for the AUROC and by all rows for the angles.
    """
    check_captured(acts)
    if not rank >= 1:
        raise InputError(f"rank: got {rank}, wanted 1 or more")
    acts.examples.require(min_per_class=10, folds=folds)
    data, classes = Ordered.of(acts), len(acts.examples.classes)
    if site is not None and site not in data.sites:
        raise InputError(f"site: got {site!r}, wanted one that was captured: {', '.join(data.sites[:6])}")
    everything = np.ones(len(data.labels), dtype=bool)
    outer = group_folds(data.labels, data.groups, folds, numpy_generator(seed, "folds", data.key))
    parts = [everything, *(outer != fold for fold in range(folds))]  # all rows first
    if site is None:
        places = [_best_site(data, part, classes, numpy_generator(seed, "site", data.key)) for part in parts]
    else:
        places = [data.sites.index(site)] * len(parts)
    states = data.states[places[0]]
    if specs is None:
        centred = states - states.mean(0)
        specs = variations(float((2 * centred.square().sum(1).mean()).sqrt()))
    by_means = rank == 1 and classes == 2
    reference = [_means(states[_index(part)], data.labels[part]) for part in parts] if by_means else None
    rows: list[Specified] = []
    for number, (name, spec) in enumerate(specs.items()):
        machines = [fit(spec, states[_index(part)], data.labels[part], spectra=False) for part in parts]
        bases = [_directions(machine, rank) for machine in machines]
        reference = reference or bases
        scored = [
            machine if place == places[0] else fit(spec, data.states[place][_index(part)], data.labels[part], spectra=False)
            for machine, part, place in zip(machines[1:], parts[1:], places[1:], strict=True)
        ]
        auroc = _auroc(data, outer, scored, places[1:], classes)
        outcome = next((m.outcomes[0] for m in [*machines, *scored] if m.outcomes[0] != "solved"), "solved")
        rows.append(Specified(name, spec, auroc, _angle(bases, reference, len(data.labels)), bases[0], outcome))
        if progress:
            progress(number + 1, len(specs))
    said = "the difference of means" if by_means else rows[0].name
    return SpecificationCurve(data.sites[places[0]], said, rank, tuple(rows), _among([row.directions for row in rows]))


def _index(part: NDArray[np.bool_]) -> Tensor:
    return torch.as_tensor(np.flatnonzero(part))


def _best_site(data: Ordered, part: NDArray[np.bool_], classes: int, generator: np.random.Generator) -> int:
    states = [rows[_index(part)] for rows in data.states]
    found = choose(states, data.labels[part], data.groups[part], classes, (CHOOSER,), INNER_FOLDS, generator)
    return found.sites[0]


def _means(states: Tensor, labels: Ints) -> Tensor:
    weights = Training.of(states).weights(MEANS, targets(labels[None], 2))
    return weights / weights.norm()


def _directions(machine: RFM, rank: int) -> Tensor | None:
    """(d, rank) top eigenvectors of M, of the AGOP while M = I."""
    matrix = machine.metric or machine.agop()
    if machine.outcomes[0] != "solved" or not matrix.finite():
        return None
    return matrix.top(rank)[1].double()


def _auroc(data: Ordered, outer: Ints, machines: list[RFM], places: list[int], classes: int) -> Reading:
    method = "cross-fitted AUROC of the machine's predictions; site, bandwidth and ridge chosen inside"
    if any(machine.outcomes[0] != "solved" for machine in machines):
        return Reading.not_measured("a fold was not solved", unit="AUROC", method=method, n=len(data.labels))
    scores = np.zeros((len(outer), 1 if classes == 2 else classes))
    for fold, (machine, place) in enumerate(zip(machines, places, strict=True)):
        held = outer == fold
        scores[held] = machine.predict(data.states[place][_index(held)]).double().numpy()
    found = area(scores[:, 0] if classes == 2 else scores, data.labels, data.groups, outer, noise=NOISE)
    return Reading(found.value, found.low, found.high, found.level, len(outer), "AUROC", None, method)


def _angle(bases: list[Tensor | None], reference: list[Tensor] | list[Tensor | None], n: int) -> Reading:
    """Largest principal angle on all rows (first), with its jackknife over the folds left out (the others)."""
    method = f"largest principal angle; jackknife over {len(bases) - 1} folds of whole groups"
    angles = [_between(one, other) for one, other in zip(bases, reference, strict=True)]
    kept = [angle for angle in angles if angle is not None]
    if len(kept) < len(angles):
        return Reading.not_measured("a fit was not solved", unit=DEGREES, method=method, n=n)
    folds = np.array(kept[1:])
    error = float(np.sqrt((len(folds) - 1) * np.mean((folds - folds.mean()) ** 2)))
    reach = float(student.ppf(0.975, len(folds) - 1)) * error
    return Reading(kept[0], max(0.0, kept[0] - reach), min(90.0, kept[0] + reach), 0.95, n, DEGREES, None, method)


def _between(one: Tensor | None, other: Tensor | None) -> float | None:
    """Degrees, at most 90."""
    if one is None or other is None:
        return None
    return min(90.0, float(torch.rad2deg(principal_angles(one.double(), other.double()).max())))


def _among(bases: list[Tensor | None]) -> Tensor:
    angles = [[_between(one, other) for other in bases] for one in bases]
    return torch.tensor([[float("nan") if angle is None else angle for angle in row] for row in angles], dtype=torch.float64)
