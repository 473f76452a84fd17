"""Least-squares erasure of a concept of k classes from states, in closed form (LEACE: Belrose et al. 2023), and for few rows.

    eraser = fit_eraser(states, labels, groups)      # rows in memory; the shrinkages are chosen
    eraser = Eraser.of(moments.result())             # of `ClassMoments` that were streamed, sharded and merged
    eraser(states)                                   # h − W⁺ Π W (h − μ)

With W = Σ^½⁺ and Π the orthogonal projection onto the columns of W Σxz (Σxz: covariance of states with the classes' indicators),
no linear predictor of the classes on the rows of the fit is better than a constant, and no other affine map that grants this
moves those rows less in mean square. That is shrinkage 0, of rank at most k − 1, and a theorem about the rows of the fit alone.

On fresh rows, what the best linear probe still reads depends on nothing but the span of the columns that are written along: it
uses those functionals that are 0 on them. LEACE writes along the differences of the class means, as they were estimated, whatever
covariance it reads with. A shrunk covariance in the place of Σ would therefore change nothing (`docs/log.md`), and n rows of two
classes of equal size leave it a squared separation of up to d′² = 4d/n, however strong the concept was.

So more columns may be written along: for each further shrinkage α the classes are replaced by their ridge prediction from the
states, Σxz by Σ Σ_α⁻¹ Σxz, Σ_α = (1 − α)Σ + α (tr Σ / d) I. Differences of class means along directions of little variance, where
they are mostly noise, count for less in them, and the true difference lies closer to the span of several than to any one. LEACE's
own columns are always among them: what it grants on the rows of the fit stays granted, and on any rows at all the best linear
probe reads at most what LEACE leaves it. The price is that more is moved. So which shrinkages, if any, is chosen by how far the
class means of groups that were left out lie from the span; what lowers that by little is not worth its price.

What it does not know: what any probe that is not linear reads, or a linear one on fresh rows, with which certainty. That takes
rows that nothing here has seen: `leakage`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, TrustError
from ..io import load_as, made_from, save_tensors
from ..linalg import eigh, finite
from ..provenance import numpy_generator
from ..statistics.accumulators import ClassMoments
from ..statistics.accumulators.moments import ClassMoment
from ..statistics.resample import group_folds

SCHEMA = "strandscope/eraser/1"
SAID = ("n", "counts", "shrinkages", "how", "leakage", "name", "site", "position", "classes", "fingerprint", "provenance")
SPANS = ((), (0.5,), (0.9,), (0.97,), (0.5, 0.9), (0.7, 0.97))  # shrinkages among which is chosen, fewer before more
WORTH = 0.006  # share of what LEACE leaves by which each further shrinkage must lower it
FOLDS = 6  # of groups at most; to choose, an eraser is fitted without each two of them
UNRELATED = 1e-8  # canonical correlation of states and classes that is rounding
SAME = 1e-6  # sine of the angle to columns that are there, below which one more adds nothing

Ints = NDArray[np.int64]
Codes = Sequence[int] | Ints | Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Eraser:
    """What takes the classes out of states.

    Attributes:
        read, write: (d, r) factors with readᵀ write = I; states lose write · readᵀ(h − mean). r is 0 where all class means agree,
            and at most k − 1 for LEACE and as many for each further shrinkage.
        mean: (d,) of all rows, which stays.
        n: rows of the fit; `counts`: of each class.
        shrinkages: α of the module's docstring, () where it is plain LEACE; `how` they came.
        leakage: for each choice of them that was tried, the estimated share of the classes' squared separation that is left in
            rows that the eraser has not seen.
        site: where the states are from, as text, `position` which token's, and `fingerprint` of which network; "" of none.
    """

    read: Tensor
    write: Tensor
    mean: Tensor
    n: int
    counts: tuple[int, ...]
    shrinkages: tuple[float, ...]
    how: Literal["given", "chosen by what a linear probe reads in groups left out"] = "given"
    leakage: tuple[tuple[tuple[float, ...], float], ...] = ()
    name: str = ""
    site: str = ""
    position: str = ""
    classes: tuple[str, ...] = ()
    fingerprint: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, moments: ClassMoment, shrinkages: Sequence[float] = ()) -> Eraser:
        """From the moments of each class; plain LEACE, or with the columns of further shrinkages.

        Raises:
            InputError: fewer than 2 classes, fewer than 2 rows in one, or a shrinkage that is not from 0 to 1.
        """
        _check_shrinkages(shrinkages)
        solved = _Solved.of(moments)
        read, write = solved.factors(shrinkages)
        return cls(read, write, solved.mean, sum(moments.counts), moments.counts, tuple(map(float, shrinkages)))

    @property
    def rank(self) -> int:
        return self.read.shape[1]

    def __call__(self, states: Tensor) -> Tensor:
        """States (…, d) without the classes, computed in float64."""
        held = states.double()
        return (held - ((held - self.mean) @ self.read) @ self.write.T).to(states.dtype)

    def check(self, fingerprint: str, *, force: bool = False) -> None:
        """Raise TrustError if this eraser is of another network, unless forced."""
        if fingerprint != self.fingerprint and not force:
            raise TrustError(
                f"eraser {self.name!r} was fitted in the network {self.fingerprint[:12]}, this one is {fingerprint[:12]}; "
                "fit it again here, or force it (force=True) and say so"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """One safetensors file, its manifest in the header."""
        tensors = {"read": self.read, "write": self.write, "mean": self.mean}
        save_tensors(path, tensors, {"schema": SCHEMA, **{name: getattr(self, name) for name in SAID}})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Eraser:
        tensors, manifest = load_as(path, SCHEMA, "an eraser")
        with made_from(path, "the eraser"):
            said: dict[str, Any] = {key: manifest[key] for key in SAID}
            said |= {key: tuple(said[key]) for key in ("counts", "shrinkages", "classes")}
            said["leakage"] = tuple((tuple(span), float(left)) for span, left in said["leakage"])
            made = cls(tensors["read"], tensors["write"], tensors["mean"], **said)
            shapes = {"read": made.read.shape, "write": made.write.shape, "mean": (*made.mean.shape, made.rank)}
        if len({tuple(shape) for shape in shapes.values()}) != 1:
            raise InputError(f"{Path(path).name}: its tensors do not fit each other; save the eraser again with this version")
        return made


def fit_eraser(
    states: Tensor, labels: Codes, groups: Codes | None = None, *, shrinkages: Sequence[float] | None = None
) -> Eraser:
    """An eraser of the classes of `labels` (n,) from states (n, d).

    Args:
        groups: (n,) what would be drawn again if the rows were collected again (topics, templates); needed to choose.
        shrinkages: () is LEACE; None chooses from `SPANS` by what a linear probe still reads in groups left out in turn.

    Raises:
        InputError: states that are no finite rows, labels or groups that are not one whole number a row, one class alone, a class
            with fewer than 2 rows, or, to choose, one whose rows all lie in one group.
    """
    if states.ndim != 2:
        raise InputError(f"states: got shape {tuple(states.shape)}, wanted (rows, d); take one position of each row")
    finite(states, "states")
    names, codes = np.unique(_whole(labels, len(states), "labels"), return_inverse=True)
    if shrinkages is not None:
        _check_shrinkages(shrinkages)
        return Eraser.of(_moments(states, codes, len(names)).result(), shrinkages)
    if groups is None:
        raise InputError(
            "groups: got none, wanted one a row to choose the shrinkages; name them, or give shrinkages= (() is LEACE)"
        )
    whole, parts, folds = _folds(states, codes, _whole(groups, len(states), "groups"))
    leakage = _leakage(states, folds, parts)
    price = leakage + WORTH * leakage[0] * np.array([len(span) for span in SPANS])
    best = SPANS[int(np.argmin(price))] if leakage[0] > 0 else ()  # the first of equals; LEACE where it leaves nothing that shows
    table = tuple(zip(SPANS, leakage.tolist(), strict=True))
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

    def factors(self, shrinkages: Sequence[float]) -> tuple[Tensor, Tensor]:
        """(d, r) columns that read and that write: those of shrinkage 0 and what each of `shrinkages` adds to their span."""
        root = self.values.sqrt()
        whitened = self._columns(0.0)
        for shrinkage in shrinkages:
            more = self._columns(shrinkage)
            for _ in range(2):  # twice is orthogonal to rounding
                more = more - whitened @ (whitened.T @ more)
            left, sines, _ = torch.linalg.svd(more, full_matrices=False)
            whitened = torch.cat([whitened, left[:, sines > SAME]], 1)
        return self.vectors @ (_inverse(root)[:, None] * whitened), self.vectors @ (root[:, None] * whitened)

    def _columns(self, shrinkage: float) -> Tensor:
        """(d, rank) orthonormal columns that span Σ^−½ (Σ Σ_α⁻¹ Σxz), which for α = 0 is W Σxz."""
        filtered = _inverse(self.shrunk(shrinkage)) * self.values.sqrt()
        return torch.linalg.svd(filtered[:, None] * self.across, full_matrices=False).U[:, : self.rank]

    def shrunk(self, shrinkage: float) -> Tensor:
        """Eigenvalues of (1 − α)Σ + α (tr Σ / d) I."""
        return (1 - shrinkage) * self.values + shrinkage * self.values.mean()


@dataclass(frozen=True, slots=True)
class Metric:
    """Inner products in units of the deviation of states within their classes: uᵀ C⁻¹ v, C shrunk by Ledoit & Wolf's share.

    C is the shrunk covariance of all rows less what the class means add to it, so that its inverse is that of the whole, known in
    its eigenbasis, and a correction of the rank of the classes.
    """

    root: Tensor  # (d, d)
    means: Tensor  # (d, k) what the class means add, in these coordinates
    inverse: Tensor  # (k, k)

    @classmethod
    def of(cls, states: Tensor, codes: Ints) -> Metric:
        rows = finite(states.detach().cpu(), "states")
        return _metric(rows, _Solved.of(_moments(rows, codes, int(codes.max()) + 1).result()))

    def product(self, one: Tensor, other: Tensor) -> Tensor:
        """(a, b) of columns (d, a) and (d, b)."""
        first, second = self.root @ one, self.root @ other
        return first.T @ second + (first.T @ self.means) @ self.inverse @ (self.means.T @ second)

    def left(self, one: Tensor, other: Tensor, gone: Tensor) -> Tensor:
        """(a, b) the same after the span of the columns `gone` (d, r) was erased."""
        within = self.product(gone, gone)
        return self.product(one, other) - self.product(one, gone) @ torch.linalg.pinv(within, hermitian=True) @ self.product(
            gone, other
        )


def _metric(rows: Tensor, solved: _Solved) -> Metric:
    share = _ledoit_wolf(rows, solved)
    root = _inverse(solved.shrunk(share).sqrt())[:, None] * solved.vectors.T
    means = (1 - share) ** 0.5 * (root @ (solved.vectors @ solved.across))
    values, vectors = eigh(torch.eye(means.shape[1], dtype=means.dtype) - means.T @ means, "classes")
    return Metric(root, means, (vectors / values.clamp_min(1e-9)) @ vectors.T)


def _leakage(states: Tensor, folds: Ints, parts: list[ClassMoments]) -> NDArray[np.float64]:
    """Of each of `SPANS`: the share of the classes' squared separation that is left in rows that the eraser has not seen.

    Two folds are left out at a time, and their class means, after erasure, multiplied with each other: what is noise in them is
    independent, so none of it is in the mean of the product.
    """
    left, before = np.zeros(len(SPANS)), 0.0
    held = [part.result() for part in parts]
    counts = torch.tensor([part.counts for part in held], dtype=torch.float64).sum(0)
    shares = counts / counts.sum()
    apart = [((part.means - shares @ part.means) * shares.sqrt()[:, None]).T for part in held]
    for one, other in itertools.combinations(range(len(parts)), 2):
        others = ClassMoments(len(shares), states.shape[1])
        for number, part in enumerate(parts):
            if number not in (one, other):
                others.merge(part)
        solved = _Solved.of(others.result())
        metric = _metric(states.detach()[torch.as_tensor(~np.isin(folds, (one, other)))].cpu().double(), solved)
        before += float(metric.product(apart[one], apart[other]).diagonal().sum())
        for number, span in enumerate(SPANS):
            left[number] += float(metric.left(apart[one], apart[other], solved.factors(span)[1]).diagonal().sum())
    return left / before if before > 0 else np.zeros(len(SPANS))


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
    """As many folds as there can be, up to `FOLDS`, that hold every class; any two left out leave two rows of each class."""
    fewest = min(len(np.unique(groups[codes == code])) for code in range(classes))
    total = np.bincount(codes, minlength=classes)
    for count in range(min(fewest, FOLDS), 2, -1):
        try:
            folds = group_folds(codes, groups, count, numpy_generator(0, "folds of an eraser"))
        except InputError:  # a fold would lack a class
            continue
        held = np.stack([np.bincount(codes[folds == fold], minlength=classes) for fold in range(count)])
        if (total - np.sort(held, axis=0)[-2:].sum(0) >= 2).all():
            return folds
    raise InputError(
        f"groups: got {len(np.unique(groups))} that cannot be parted into three with all classes in each, "
        "wanted at least 3 groups that hold each class; add groups, or give shrinkages="
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


def _check_shrinkages(shrinkages: Sequence[float]) -> None:
    if not all(0 <= shrinkage <= 1 for shrinkage in shrinkages):
        raise InputError(
            f"shrinkages: got {tuple(shrinkages)}, wanted each from 0 to 1, or () for LEACE; leave it out to have them chosen"
        )
