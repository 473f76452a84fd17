"""How many directions a labelled quantity depends on: a non-iterated, cross-fitted AGOP against a null that is refitted.

An iterated RFM cannot say: each update multiplies by M on both sides, and where the ridge binds its spectrum ends at rank one
whatever the truth. So the kernel here keeps M = I. Folds of whole groups are left out in turn; a kernel ridge machine is fitted
to the others, its bandwidth and ridge chosen by closed-form leave-one-out among them, and its gradients are taken at the rows
left out. Their mean outer product, times the R² there (a machine that predicts nothing has gradients too), has eigenvalues
λ_1 ≥ λ_2 ≥ …, none of which is 0 in a finite sample. So they are tested in turn:

    λ_1    against the whole procedure under permuted labels: exact.
    λ_k    against the whole procedure on labels that depend on k − 1 directions alone: ĝ of the coordinates along them (placed
           by an RFM of two updates), fitted by kernel ridge, plus its cross-fitted residuals, permuted (of groups with several
           rows: of random sign by group, the wild cluster bootstrap). Permuted labels would not do: a strong first direction
           leaks into the gradients along the others. This null is estimated, so that its level holds as n grows.

The dimension is the number of eigenvalues that pass before the first that does not, so that it exceeds the truth in at most 5 %
of cases. Hence its interval is one-sided: a test can show a direction, no test can show that there is none.

What it does not know: a direction that matters too little for this n; and the second direction of a rule is not always the
second eigenvector (Game of Life): the count is of the span, and a weak direction beside strong ones is tested last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..provenance import numpy_generator
from ..reading import Null, Reading
from ..statistics.resample import group_folds, permuted_labels
from .kernels import Kernel
from .relevant_fit import Machine, reduced
from .rfm_rows import check_states, row_digests, targets

Ints = NDArray[np.int64]
ALPHA = 0.05
UNIT = "directions"


@dataclass(frozen=True, slots=True)
class Relevant:
    """The directions a quantity depends on.

    Attributes:
        dimension: the count with its one-sided interval.
        p_values: of λ_1, λ_2, … as far as they were tested; `bounds`: what each exceeds in 5 % of the refits under its null.
        eigenvalues: (r,) of the cross-fitted AGOP times R², greatest first.
        directions: (d, k) of those counted, orthonormal in the coordinates that the kernel saw: states divided by `scale` (d,).
    """

    dimension: Reading
    p_values: tuple[float, ...]
    bounds: tuple[float, ...]
    eigenvalues: Tensor
    directions: Tensor
    scale: Tensor

    def __str__(self) -> str:
        tested = ", ".join(
            f"λ{k + 1} {value:.3g} (5 % of refits above {bound:.3g}, p = {p:.2g})"
            for k, (value, bound, p) in enumerate(zip(self.eigenvalues.tolist(), self.bounds, self.p_values, strict=False))
        )
        return f"{self.dimension}; {tested}"


def relevant_dimension(states: Tensor, labels: Tensor | NDArray, groups: Ints | None = None, **choices: object) -> Reading:
    """The reading of `relevant_directions`."""
    return relevant_directions(states, labels, groups, **choices).dimension  # type: ignore[arg-type]


def relevant_directions(
    states: Tensor,
    labels: Tensor | NDArray,
    groups: Ints | None = None,
    *,
    most: int = 8,
    kernel: Kernel | None = None,
    standardise: bool = True,
    folds: int = 5,
    permutations: int = 199,
    seed: int = 0,
) -> Relevant:
    """Count the directions of states (n, d) on which labels depend.

    Args:
        labels: whole numbers are classes, floats targets (`rfm.fit`).
        groups: codes of rows that are not independent; None where every row is its own.
        most: eigenvalues tested at most.
        kernel: Gaussian where None; a radial one.
        standardise: divide each coordinate by its standard deviation first.
    """
    kernel = kernel or Kernel("gaussian")
    check_states(states)
    if states.ndim != 2 or not kernel.radial or not kernel.turns:
        raise InputError(
            f"states: got shape {tuple(states.shape)} and kernel {kernel}, wanted (rows, d) and a radial kernel, p = 2"
        )
    if permutations < round(1 / ALPHA) - 1 or most < 1:
        raise InputError(f"permutations, most: got {permutations} and {most}, wanted at least {round(1 / ALPHA) - 1} and 1")
    order = np.array(sorted(range(len(states)), key=row_digests(states).__getitem__), dtype=np.int64)
    points, basis, scale = _coordinates(states[torch.as_tensor(order)].double(), standardise)
    wanted = targets(labels, len(states))[0].to(points)[torch.as_tensor(order)]
    codes = np.arange(len(states)) if groups is None else np.unique(np.asarray(groups)[order], return_inverse=True)[1]
    generator = numpy_generator(seed, "relevant")
    machine = Machine.of(kernel, points, group_folds(np.zeros(len(order), dtype=np.int64), codes, folds, generator))
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(machine.agop(wanted[:, None])[0]))
    p_values, bounds = [], []
    for step in range(min(most, len(values))):
        draws = _draws(machine, step, wanted, codes, permutations, generator)
        null = torch.linalg.eigvalsh(machine.agop(draws))[:, -1 - step]
        p_values.append((1 + int((null >= values[step] * (1 - 1e-9)).sum())) / (permutations + 1))
        bounds.append(float(null.quantile(1 - ALPHA)))
        if p_values[-1] > ALPHA:
            break
    count = sum(p <= ALPHA for p in p_values)
    found = vectors[:, :count] if basis is None else basis @ vectors[:, :count]
    reading = _reading(count, p_values[0], states, most, folds, permutations, kernel, standardise)
    return Relevant(reading, tuple(p_values), tuple(bounds), values, found, scale)


def _reading(
    count: int, p: float, states: Tensor, most: int, folds: int, permutations: int, kernel: Kernel, standardise: bool
) -> Reading:
    n, d = states.shape
    coordinates = "standardised" if standardise else "raw"
    method = (
        f"eigenvalues of the AGOP of a {kernel} ridge machine at M = I, times its R², cross-fitted over {folds} folds of groups, "
        f"{coordinates} coordinates, tested in turn against {permutations} refits, at most {most}; one-sided interval"
    )
    null = Null(0.0, 0.0, 0.0, 1 - ALPHA, permutations, p, "the same procedure under permuted labels")
    return Reading(float(count), float(count), float(max(d, count)), 1 - ALPHA, n, UNIT, null, method)


def _coordinates(states: Tensor, standardise: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Centred (n, r), the basis (d, r) of the rows' span where n < d, and what each coordinate was divided by."""
    rows = states - states.mean(0)
    spread = rows.square().mean(0).sqrt()
    if not bool((spread > 0).any()):
        raise InputError("states: every row is the same; choose another site or position")
    scale = torch.where(spread > 1e-9 * spread.max(), spread, 1.0) if standardise else torch.ones_like(spread)
    rows = rows / scale
    if rows.shape[0] >= rows.shape[1]:
        return rows, None, scale
    basis = torch.linalg.qr(rows.T).Q
    return rows @ basis, basis, scale


def _draws(machine: Machine, k: int, wanted: Tensor, groups: Ints, draws: int, generator: np.random.Generator) -> Tensor:
    """(n, draws, outputs): labels that depend on k directions alone, on nothing where k = 0."""
    if k == 0:
        values, codes = torch.unique(wanted, dim=0, return_inverse=True)
        return values[torch.as_tensor(permuted_labels(codes.cpu().numpy(), groups, draws, generator).T.copy())]
    fitted, residual = reduced(machine, wanted, k)
    n = len(wanted)
    if len(np.unique(groups)) == n:
        order = torch.as_tensor(np.argsort(generator.random((n, draws)), axis=0))
        return fitted[:, None] + residual[order]
    signs = torch.as_tensor(generator.choice([-1.0, 1.0], size=(int(groups.max()) + 1, draws))[groups]).to(fitted)
    return fitted[:, None] + signs[..., None] * residual[:, None]
