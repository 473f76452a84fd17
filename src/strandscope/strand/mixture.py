"""The coverage curve: how much of a new context's response a library of other contexts' strands holds.

A context is K gradients at a site (rows); its response metric is F = E ggᵀ. A library context contributes its strand, the top
ten directions of all its draws. A held-out context is scored at equal information: half A of its draws chooses ten directions,
half B says what share of the response they hold, tr(VᵀF_B V)/tr F_B. What may be chosen is what differs:

    ceiling   its own: the top ten of half A in the whole space
    nearest   inside the span of the six library strands that hold most of half A, the best ten for half A
    random    the same with six strands at random (which is `nearest` where the library has six)
    pooled    the same inside the top sixty directions of the mean of the library's strands, each direction by its share
    chance    the same inside sixty directions at random
    unrelated nearest in a library of the same strands, each with its coordinates in another order and of other signs: what the
              choice among so many gives where nothing is shared

The curve is the mean over held-out contexts and random sub-libraries of each size. Contexts are dealt into blocks of whole
groups; none is scored with a library that holds a context of its own block.

An interval is for what libraries *of these contexts* hold of a new one: as for Good and Turing's missing mass, of which the
library's own share is the part that is asked for. (The mean over all libraries that could have been recorded varies less with
the contexts, by up to four times in variance, and no interval here is for it.) It deletes a block from both roles, as held out
and as library (jackknife, t with blocks − 1 degrees of freedom), because a context that lies oddly disturbs both. The luck of
sub-libraries is no property of contexts and the jackknife would count it three times over: the contexts' variance is what draws
of them have in common, and what the draws add is found by exchanging them, context by context (`Replicates.error`).

What it does not know: whether sixty draws found the strand (`ceiling` says how well half of them did), and anything outside the
ten directions; a library that holds every strand in parts, none in its nearest six, is measured as one that holds few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.stats import t as student
from torch import Tensor

from ..errors import InputError, TrustError
from ..provenance import numpy_generator
from ..reading import Reading
from ..statistics.paired import jackknife_variance
from .library import Library, held, libraries, strands_of, within

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RANK = 10  # directions of a strand
NEIGHBOURS = 6  # strands whose span may be used
BLOCKS = 20
REPEATS = 2  # random sub-libraries of each size for every held-out context
EXCHANGES = 32  # random choices of one draw for each context, for the variance of the draws
STEP = 2**0.5  # from one size to the next
MINIMUM = 2 * NEIGHBOURS  # contexts

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Replicates:
    """A statistic of a coverage curve, and what it would have been.

    Attributes:
        value: (…) with everything.
        without: (blocks, …) without each block, in either role.
        single: (draws, blocks, …) the same with one draw of sub-libraries instead of all.
        exchanged: (exchanges, …) with everything, each context scored with one draw of its own choosing.
    """

    value: Floats
    without: Floats
    single: Floats
    exchanged: Floats

    def map(self, of: Callable[[Floats], Floats]) -> Replicates:
        """The same of a function that works along all but the last axes of the statistic."""
        return Replicates(*(np.asarray(of(part)) for part in (self.value, self.without, self.single, self.exchanged)))

    def error(self) -> Floats:
        """(…) standard error: of contexts, from what draws of sub-libraries agree on, and of the draws.

        With D draws the jackknife of their mean is J + L/D and that of one is J + L, whence J, but never less than half of the
        first; exchanged draws vary by (D − 1)/D of one's variance, their mean by 1/D.
        """
        draws = len(self.single)
        mean = jackknife_variance(self.without)
        if draws == 1:
            return np.sqrt(mean)  # nothing tells one draw's luck from the contexts'
        common = (draws * mean - jackknife_variance(self.single.swapaxes(0, 1)).mean(0)) / (draws - 1)
        return np.sqrt(np.maximum(common, mean / 2) + self.exchanged.var(0) / (draws - 1))


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """Shares of held-out contexts' responses, by library size; see the module's docstring."""

    sizes: tuple[int, ...]
    blocks: Ints  # (contexts,)
    ceiling: Floats  # (contexts,)
    quarter: Floats  # (contexts,): its own directions again, from a quarter of the draws
    chance: Floats  # (contexts,)
    pooled: Mapping[int, Floats]  # (contexts,) by size, every other
    nearest: Floats  # (1 + blocks, contexts, repeats, sizes); row 0 with all, row 1 + b without block b, NaN for its own contexts
    unrelated: Floats  # (2, contexts, repeats, sizes), twice: the second is what a control finds
    rank: int
    neighbours: int

    @property
    def contexts(self) -> int:
        return len(self.ceiling)

    def replicates(self, statistic: Callable[[Ints, Floats], float | Floats]) -> Replicates:
        """`statistic(contexts, nearest of these)` with all, without each block, with one draw of sub-libraries, and exchanged."""
        every = np.arange(self.contexts)
        without = [every[self.blocks != block] for block in range(len(self.nearest) - 1)]
        draws = range(self.nearest.shape[2])

        def deleted(draw: slice) -> Floats:
            return np.array([statistic(kept, self.nearest[1 + b][kept][:, draw]) for b, kept in enumerate(without)])

        luck = numpy_generator(0, "exchanged sub-libraries")
        mixed = [self.nearest[0][every, luck.integers(0, len(draws), self.contexts)][:, None] for _ in range(EXCHANGES)]
        return Replicates(
            np.asarray(statistic(every, self.nearest[0])),
            deleted(slice(None)),
            np.array([deleted(slice(draw, draw + 1)) for draw in draws]),
            np.array([statistic(every, one) for one in mixed]),
        )

    def reading(self, statistic: Callable[[Ints, Floats], float], *, unit: str, method: str, level: float = 0.95) -> Reading:
        return self.read(self.replicates(statistic), unit=unit, method=method, level=level)

    def read(self, found: Replicates, *, unit: str, method: str, level: float = 0.95) -> Reading:
        """A reading of a figure from its replicates."""
        value, blocks = float(found.value), len(found.without)
        reach = float(found.error()) * float(student.ppf(0.5 + level / 2, blocks - 1))
        method = f"{method}; {blocks} blocks of contexts deleted from both roles (jackknife, t)"
        return Reading(value, value - reach, value + reach, level, self.contexts, unit, None, method)

    def curve(self, level: float = 0.95) -> dict[int, Reading]:
        """Share held by the nearest strands, by library size. The first size is that of random libraries of any size."""
        how = f"best {self.rank} directions in the span of the {self.neighbours} nearest strands, half of the draws each"
        return {
            size: self.reading(
                lambda _, near, k=k: float(near[..., k].mean()), unit="share of the response", method=how, level=level
            )
            for k, size in enumerate(self.sizes)
        }

    def missing(self, level: float = 0.95) -> dict[int, Reading]:
        """What the nearest strands lack of the ceiling, as a share of the ceiling, by library size."""
        return {
            size: self.reading(
                lambda kept, near, k=k: float(1 - near[..., k].mean() / self.ceiling[kept].mean()),
                unit="share of the ceiling",
                method="1 − share held by the nearest strands/share held by the context's own directions",
                level=level,
            )
            for k, size in enumerate(self.sizes)
        }

    def level_of(self, values: Floats, what: str, level: float = 0.95) -> Reading:
        """Mean over held-out contexts of what does not depend on the library (ceiling, chance), or whose library stays."""
        return self.reading(lambda kept, _: float(values[kept].mean()), unit="share of the response", method=what, level=level)

    def shared(self, level: float = 0.95, *, control: bool = False) -> Reading:
        """(nearest − unrelated)/(ceiling − unrelated) at the largest library: 0 where nothing is shared, 1 where all is.

        Args:
            control: read a second unrelated library in place of the recorded one; it should say 0.
        """

        def share(kept: Ints, near: Floats) -> float:
            floor = self.unrelated[0, kept, :, -1].mean()
            held = self.unrelated[1, kept, :, -1] if control else near[..., -1]
            return float((held.mean() - floor) / (self.ceiling[kept].mean() - floor))

        which = "a second unrelated library" if control else f"the nearest strands of {self.sizes[-1]} contexts"
        how = f"what {which} hold, from an unrelated library of as many (0) to the context's own directions (1)"
        return self.reading(share, unit="share of what there is to hold", method=how, level=level)


def library_sizes(largest: int, smallest: int = NEIGHBOURS) -> tuple[int, ...]:
    """From the smallest library to the largest in steps of about √2, both exactly."""
    steps = max(1, round(np.log(largest / smallest) / np.log(STEP)))
    return tuple(sorted({round(smallest * (largest / smallest) ** (k / steps)) for k in range(steps + 1)}))


def coverage(
    gradients: Tensor,
    groups: Sequence[object] | None = None,
    *,
    generator: np.random.Generator,
    sizes: Sequence[int] | None = None,
    rank: int = RANK,
    neighbours: int = NEIGHBOURS,
    blocks: int = BLOCKS,
    repeats: int = REPEATS,
    report: Report | None = None,
) -> Coverage:
    """The coverage curve of recorded gradients (contexts, draws, d).

    Args:
        groups: one for every context; contexts of a group never stand in each other's library. None: each its own.
        sizes: of libraries; default from six contexts to all that are left when two blocks are out, in steps of √2.
    """
    block = _dealt(gradients, groups, rank, neighbours, blocks, generator)
    context, draws, width = gradients.shape
    pool = context - 2 * int(np.bincount(block).max())
    wanted = tuple(sorted(sizes)) if sizes is not None else library_sizes(pool, neighbours)
    if wanted[0] < neighbours or wanted[-1] > pool:
        raise InputError(f"sizes: got {wanted[0]} to {wanted[-1]}, wanted {neighbours} to {pool}: {pool} of {context} contexts "
                         "are outside any two blocks; record more contexts or ask for fewer")  # fmt: skip
    strands, weights = strands_of(gradients, rank)
    recorded = [Library.of(library) for library in libraries(strands, generator)]
    halves = gradients[:, : draws - draws % 2].double().unflatten(1, (2, draws // 2))
    count = int(block.max()) + 1
    ceiling, quarter, chance = np.empty(context), np.empty(context), np.empty(context)
    nearest = np.full((1 + count, context, repeats, len(wanted)), np.nan)
    unrelated = np.empty((2, context, repeats, len(wanted)))
    random = torch.Generator().manual_seed(int(generator.integers(2**62)))
    for one in range(context):
        half = halves[one]
        total = half[1].square().sum()
        few = half[0, : len(half[0]) // 2]
        ceiling[one] = float(held(half[0] @ half[0].T, half[1] @ half[0].T, total, rank))
        quarter[one] = float(held(few @ few.T, half[1] @ few.T, total, rank))
        spread = torch.randn(rank * neighbours, width, generator=random, dtype=torch.float64)
        chance[one] = float(held(*within(half @ spread.T, spread @ spread.T), total, rank))
        orders = [order[block[order] != block[one]] for order in (generator.permutation(context) for _ in range(repeats))]
        for which, library in enumerate(recorded):
            without = range(-1, count if which == 0 else 0)  # −1: none is left out
            found = library.scores(half, [[order[block[order] != b] for order in orders] for b in without], wanted, neighbours)
            if which == 0:
                nearest[:, one] = found
            else:
                unrelated[which - 1, one] = found[0]
        nearest[1 + block[one], one] = np.nan  # it is not there to be scored
        if report:
            report(one + 1, context)
    pooled = _pooled(strands * weights.sqrt()[..., None], halves, block, wanted, neighbours, generator)
    return Coverage(wanted, block, ceiling, quarter, chance, pooled, nearest, unrelated, rank, neighbours)


def _dealt(
    gradients: Tensor, groups: Sequence[object] | None, rank: int, neighbours: int, blocks: int, generator: np.random.Generator
) -> Ints:
    """The block of every context: whole groups, blocks alike in size."""
    if gradients.ndim != 3:
        raise InputError(f"gradients: got shape {tuple(gradients.shape)}, wanted (contexts, draws, d)")
    contexts, draws, width = gradients.shape
    if contexts < MINIMUM or draws < 2 * rank or width <= rank * neighbours:
        raise InputError(f"gradients: got {contexts} contexts, {draws} draws, {width} dimensions, wanted at least {MINIMUM}, "
                         f"{2 * rank} and {rank * neighbours + 1} for strands of {rank} directions and spans of {neighbours}; "
                         "record more, or ask for a smaller rank")  # fmt: skip
    if not bool(torch.isfinite(gradients).all()):
        raise TrustError(f"gradients: context {int((~torch.isfinite(gradients)).flatten(1).any(1).nonzero()[0])} holds values "
                         "that are not finite; leave it out or find out why")  # fmt: skip
    if bool((gradients.flatten(1).abs().amax(1) == 0).any()):
        raise InputError("gradients: a context has no response at all (zeros); leave it out")
    if groups is not None and len(groups) != contexts:
        raise InputError(f"groups: got {len(groups)}, wanted one for each of {contexts} contexts")
    names = [str(group) for group in groups] if groups is not None else [str(k) for k in range(contexts)]
    _, group = np.unique(names, return_inverse=True)
    counts = np.bincount(group)
    blocks = min(blocks, len(counts))
    if blocks < 4:
        raise InputError(f"groups: got {len(counts)}, wanted at least 4, since a group's contexts are held out together")
    order = generator.permutation(len(counts))
    order = order[np.argsort(-counts[order], kind="stable")]
    filled, of_group = np.zeros(blocks), np.empty(len(counts), dtype=np.int64)
    for one in order:
        of_group[one] = int(filled.argmin())
        filled[of_group[one]] += counts[one]
    return of_group[group]


def _pooled(
    rows: Tensor, halves: Tensor, block: Ints, sizes: tuple[int, ...], neighbours: int, generator: np.random.Generator
) -> dict[int, Floats]:
    """Share held (contexts,) inside the top directions of a library's mean metric, by size; one library a block and size.

    rows (contexts, rank, d) are the strands' directions times the root of the share of the response that each holds.
    """
    rank, width = rows.shape[1:]
    span = rank * neighbours
    result = {size: np.empty(len(block)) for size in sizes[::-2][::-1]}  # every other size: each takes decompositions of its own
    eye = torch.eye(span, dtype=torch.float64)
    for one in range(int(block.max()) + 1):
        new = torch.as_tensor(np.flatnonzero(block == one))
        order = generator.permutation(np.flatnonzero(block != one))
        for size, shares in result.items():
            drawn = rows[torch.as_tensor(order[:size])].flatten(0, 1)
            top = eigh((drawn.T @ drawn).numpy(), subset_by_index=[width - span, width - 1])[1]
            part = within(halves[new] @ torch.as_tensor(top), eye.expand(len(new), -1, -1))
            shares[new.numpy()] = held(*part, halves[new, 1].square().sum((1, 2)), rank).numpy()
    return result
