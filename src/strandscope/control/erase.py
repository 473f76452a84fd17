"""Least-squares erasure of a concept of k classes from states, in closed form (LEACE: Belrose et al. 2023), and for few rows.

    eraser = fit_eraser(states, labels, groups)      # rows in memory; the shrinkage is chosen
    eraser = Eraser.of(moments.result(), 0.0)        # of `ClassMoments` that were streamed, sharded and merged
    eraser.edit()                                    # h − W⁺ Π W (h − μ), of rank at most k − 1

With W = Σ^½⁺ and Π the orthogonal projection onto the columns of W Σxz (Σxz: covariance of states with the classes' indicators),
no linear predictor of the classes on the rows of the fit is better than a constant, and no other affine map that grants this
moves those rows less in mean square. That is shrinkage 0, and a theorem about the rows of the fit alone.

On fresh rows, what the best linear probe still reads depends on nothing but the span of the columns that are written along: it
uses those functionals that are 0 on them. LEACE writes along the differences of the class means, as they were estimated, whatever
covariance it reads with. A shrunk covariance in the place of Σ would therefore change nothing (`docs/log.md`), and n rows of two
classes of equal size leave it a squared separation of up to d′² = 4d/n, however strong the concept was.

So what is shrunk is Σxz. With shrinkage α the classes are replaced by their ridge prediction from the states, Σxz by
Σ Σ_α⁻¹ Σxz, Σ_α = (1 − α)Σ + α (tr Σ / d) I: differences of class means along directions of little variance, where they are
mostly noise, count for less. It helps as far as a concept lies where states vary much, and harms where it does not, which is why
it is chosen: for each α, an eraser is fitted without some groups, and a linear probe looks at these.

What it does not know: what any probe that is not linear reads, or a linear one on fresh rows, with which certainty. That takes
rows that nothing here has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..linalg import eigh, finite
from ..provenance import numpy_generator
from ..statistics.accumulators import ClassMoments
from ..statistics.accumulators.moments import ClassMoment
from ..statistics.resample import group_folds
from .hold import Erase

GRID = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99)  # shrinkages among which is chosen
FOLDS = 10  # at most so many erasers are fitted to choose; where there are more groups, several are left out at once
UNRELATED = 1e-8  # canonical correlation of states and classes that is rounding

Ints = NDArray[np.int64]
Codes = Sequence[int] | Ints | Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Eraser:
    """What takes the classes out of states.

    Attributes:
        read, write: (d, r) factors with readᵀ write = I; states lose write · readᵀ(h − mean). r is 0 where all class means agree.
        mean: (d,) of all rows, which stays.
        n: rows of the fit; `counts`: of each class.
        shrinkage: α of the module's docstring; `how` it came.
        leakage: for each shrinkage that was tried, the share of a linear discriminant's squared separation of the classes that
            is left in groups that the eraser has not seen. Much of it is the noise of their few rows, the same for all.
    """

    read: Tensor
    write: Tensor
    mean: Tensor
    n: int
    counts: tuple[int, ...]
    shrinkage: float
    how: Literal["given", "chosen by what a linear probe reads in groups left out"] = "given"
    leakage: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, moments: ClassMoment, shrinkage: float = 0.0) -> Eraser:
        """From the moments of each class.

        Raises:
            InputError: fewer than 2 classes, fewer than 2 rows in one, or a shrinkage that is not from 0 to 1.
        """
        _check_shrinkage(shrinkage)
        solved = _Solved.of(moments)
        read, write = solved.factors(shrinkage)
        return cls(read, write, solved.mean, sum(moments.counts), moments.counts, float(shrinkage))

    @property
    def rank(self) -> int:
        return self.read.shape[1]

    def edit(self) -> Erase:
        return Erase(self.read, self.write, self.mean)


def fit_eraser(states: Tensor, labels: Codes, groups: Codes | None = None, *, shrinkage: float | None = None) -> Eraser:
    """An eraser of the classes of `labels` (n,) from states (n, d).

    Args:
        groups: (n,) what would be drawn again if the rows were collected again (topics, templates); needed to choose.
        shrinkage: 0 (LEACE) to 1; None chooses it from `GRID` by what a linear probe still reads in groups left out in turn.

    Raises:
        InputError: states that are no finite rows, labels or groups that are not one whole number a row, one class alone, a class
            with fewer than 2 rows, or, to choose, one whose rows all lie in one group.
    """
    if states.ndim != 2:
        raise InputError(f"states: got shape {tuple(states.shape)}, wanted (rows, d); take one position of each row")
    finite(states, "states")
    names, codes = np.unique(_whole(labels, len(states), "labels"), return_inverse=True)
    if shrinkage is not None:
        _check_shrinkage(shrinkage)
        return Eraser.of(_moments(states, codes, len(names)).result(), shrinkage)
    if groups is None:
        raise InputError("groups: got none, wanted one a row to choose the shrinkage; name them, or give shrinkage= (0 is LEACE)")
    whole, parts, folds = _folds(states, codes, _whole(groups, len(states), "groups"))
    leakage = _leakage(states, folds, parts)
    best = GRID[int(np.argmin(leakage))]  # the least of equals
    table = tuple(zip(GRID, leakage.tolist(), strict=True))
    return replace(Eraser.of(whole.result(), best), how="chosen by what a linear probe reads in groups left out", leakage=table)


@dataclass(frozen=True, slots=True)
class _Solved:
    """Moments in the eigenbasis of the covariance of all rows."""

    mean: Tensor  # (d,)
    values: Tensor  # (d,) eigenvalues; 0 where they are rounding
    vectors: Tensor  # (d, d)
    across: Tensor  # (d, k) class means less the mean, times the root of the class's share, in the eigenbasis: Σxz, scaled
    rank: int

    @classmethod
    def of(cls, moments: ClassMoment) -> _Solved:
        counts = torch.tensor(moments.counts, dtype=torch.float64)
        if len(counts) < 2 or bool((counts < 2).any()):
            few = "one class alone" if len(counts) < 2 else f"classes of {', '.join(map(str, moments.counts))} rows"
            raise InputError(f"labels: got {few}, wanted at least 2 classes of at least 2 rows each; add rows")
        shares = counts / counts.sum()
        mean = shares @ moments.means
        apart = (moments.means - mean) * shares.sqrt()[:, None]
        within = torch.stack([part.scatter for part in moments.classes]).sum(0)
        values, vectors = eigh(within / counts.sum() + apart.T @ apart, "covariance")
        floor = len(values) * torch.finfo(torch.float64).eps * float(values[0])
        values = torch.where(values > floor, values, 0.0)
        across = vectors.T @ apart.T
        rank = int((torch.linalg.svdvals(_inverse(values.sqrt())[:, None] * across) > UNRELATED).sum())
        return cls(mean, values, vectors, across, rank)

    def factors(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """(d, rank) columns that read and that write."""
        root = self.values.sqrt()
        filtered = _inverse(self.shrunk(shrinkage)) * root  # Σ^−½ (Σ Σ_α⁻¹ Σxz), which for α = 0 is W Σxz
        whitened = torch.linalg.svd(filtered[:, None] * self.across, full_matrices=False).U[:, : self.rank]
        return self.vectors @ (_inverse(root)[:, None] * whitened), self.vectors @ (root[:, None] * whitened)

    def shrunk(self, shrinkage: float) -> Tensor:
        """Eigenvalues of (1 − α)Σ + α (tr Σ / d) I."""
        return (1 - shrinkage) * self.values + shrinkage * self.values.mean()


def _leakage(states: Tensor, folds: Ints, parts: list[ClassMoments]) -> NDArray[np.float64]:
    """Of each shrinkage in `GRID`: what a linear discriminant finds after erasure over what it finds before, in folds left out.

    The discriminant has the covariance of the rows of the fit, shrunk by Ledoit & Wolf, and the class means of the fold itself.
    """
    left, before = np.zeros(len(GRID)), 0.0
    for fold, own in enumerate(parts):
        others = ClassMoments(len(own.parts), own.d)
        for number, part in enumerate(parts):
            if number != fold:
                others.merge(part)
        solved = _Solved.of(others.result())
        kept = states.detach()[torch.as_tensor(folds != fold)].cpu().double()
        whiten = _inverse(solved.shrunk(_ledoit_wolf(kept, solved)).sqrt())[:, None] * solved.vectors.T
        held = own.result()
        shares = torch.tensor(held.counts, dtype=torch.float64) / sum(held.counts)
        apart = whiten @ ((held.means - shares @ held.means) * shares.sqrt()[:, None]).T
        before += float(apart.square().sum())
        for number, shrinkage in enumerate(GRID):
            gone = torch.linalg.qr(whiten @ solved.factors(shrinkage)[1]).Q
            left[number] += float((apart - gone @ (gone.T @ apart)).square().sum())
    return left / before if before else left


def _ledoit_wolf(rows: Tensor, solved: _Solved) -> float:
    """Shrinkage of the rows' covariance that is closest to the true one in mean square (Ledoit & Wolf 2004)."""
    n, d = rows.shape
    squared, level = float(solved.values.square().sum()), float(solved.values.mean())
    fourth = float((rows - solved.mean).square().sum(1).square().sum()) / n
    spread = squared - d * level**2
    return min(1.0, max(0.0, (fourth - squared) / n / spread)) if spread > 0 else 1.0


def _folds(states: Tensor, codes: Ints, groups: Ints) -> tuple[ClassMoments, list[ClassMoments], Ints]:
    """Moments of all rows and of each fold of groups, and the rows' folds."""
    classes = int(codes.max()) + 1
    folds = _split(codes, groups, classes)
    whole = ClassMoments(classes, states.shape[1])
    parts = []
    for fold in range(int(folds.max()) + 1):
        rows = folds == fold
        parts.append(_moments(states[torch.as_tensor(rows)], codes[rows], classes))
        whole.merge(parts[-1])
    return whole, parts, folds


def _split(codes: Ints, groups: Ints, classes: int) -> Ints:
    """As many folds as there can be, up to `FOLDS`, that hold every class and leave two rows of every class out."""
    fewest = min(len(np.unique(groups[codes == code])) for code in range(classes))
    for count in range(min(fewest, FOLDS), 1, -1):
        try:
            folds = group_folds(codes, groups, count, numpy_generator(0, "folds of an eraser"))
        except InputError:  # a fold would lack a class
            continue
        if all((np.bincount(codes[folds != fold], minlength=classes) >= 2).all() for fold in range(count)):
            return folds
    raise InputError(
        f"groups: got {len(np.unique(groups))} that cannot be parted so that all classes are on both sides, "
        "wanted at least 2 groups that hold each class; add groups, or give shrinkage="
    )


def _moments(states: Tensor, codes: Ints, classes: int) -> ClassMoments:
    moments = ClassMoments(classes, states.shape[1])
    moments.update(states, torch.as_tensor(codes))
    return moments


def _inverse(values: Tensor) -> Tensor:
    """1/values, and 0 of 0."""
    return torch.where(values > 0, 1 / values.clamp_min(1e-300), 0.0)


def _whole(codes: Codes, rows: int, name: str) -> Ints:
    given = codes.cpu().numpy() if isinstance(codes, Tensor) else np.asarray(codes)
    if given.shape != (rows,) or given.dtype.kind not in "iub":
        raise InputError(f"{name}: got shape {given.shape} of {given.dtype}, wanted {rows} whole numbers, one a row of states")
    return given.astype(np.int64)


def _check_shrinkage(shrinkage: float) -> None:
    if not 0 <= shrinkage <= 1:
        raise InputError(f"shrinkage: got {shrinkage}, wanted 0 (LEACE) to 1; leave it out to have it chosen")
