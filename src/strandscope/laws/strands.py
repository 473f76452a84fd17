"""Two laws of metrics in general position: free composition of output and Jacobian, and dimension down a stack of blocks.

For free (in general position, d large) matrices the moments m_k = tr(·)^k/d of a product obey m₂/m₁² − 1 = Σ (m₂/m₁² − 1), and
m₂/m₁² = d/PR. So, with F = JᵀAJ and D the width of the output that A stands at,

    free composition   D/PR_F − 1 = (D/PR_A − 1) + (D/PR_J − 1),   that is   1/PR_F = 1/PR_A + 1/PR_J − 1/D
    depth              d/PR_J(s) − 1 = Σ_{blocks b after s} (d/PR_b − 1) + (d/PR_J(end) − 1)

J(s) is the Jacobian from site s to the output, b's own that from the site before it to the site after it. Both are tested as the
ratio of the participation ratio measured to the one predicted, context by context; the geometric mean over contexts is judged,
its interval clustered by group (t with groups − 1 degrees of freedom); the median stands beside it. The prediction takes nothing
from the figure that it is tested on: PR_F comes from gradients, PR_J from other probes, PR_A in closed form.

Where nothing was learned the laws should hold; a trained network's ratio, its *alignment excess*, is the finding.

The negative control is planted at the same dimensions, draws and number of contexts: flat metrics (projectors) that lie inside
each other, for which the ratio is known in closed form. Its expected outcome follows from that figure; where even full alignment
would stay within tolerance, the control says so by expecting "consistent", and the law has no power there. In general position
the same plants must come out consistent (`details`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from ..errors import InputError
from ..reading import Reading
from ..statistics.paired import median
from ..statistics.spectrum import participations
from .law import Control, Law, LawResult, judge, reading_dict

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_PLANTED = 24  # contexts of a control
_RATIO = "measured/predicted"

FREE = Law(
    "free composition",
    "1/PR_F = 1/PR_A + 1/PR_J − 1/D",
    {
        "PR_F": "participation ratio of the response metric F = JᵀAJ (dimensions)",
        "PR_A": "of the output metric (dimensions)",
        "PR_J": "of JᵀJ, J from the state to the output (dimensions)",
        "D": "width of the output that A stands at (dimensions)",
    },
    "A and J in general position, D large",
    tolerance=0.1,
)
DEPTH = Law(
    "depth",
    "d/PR_J(s) − 1 = Σ_b (d/PR_b − 1) + d/PR_J(end) − 1",
    {
        "PR_J(s)": "participation ratio of JᵀJ, J from site s to the output (dimensions)",
        "PR_b": "of one block's own JᵀJ (dimensions)",
        "d": "width of the state (dimensions)",
    },
    "the blocks' Jacobians in general position to each other, d large",
    tolerance=0.25,
)


def free_log(output: Floats, jacobian: Floats, width: int) -> Floats:
    """log PR that free composition predicts, from log PR_A and log PR_J; NaN where the reciprocals add to nothing."""
    inverse = np.exp(-output) + np.exp(-jacobian) - 1 / width
    return -np.log(np.where(inverse > 0, inverse, np.nan))


def free_composition(
    response: Floats,
    jacobian: Floats,
    output: Floats,
    width: int,
    where: str,
    *,
    generator: np.random.Generator,
    groups: Sequence[object] | None = None,
    draws: int = 64,
    level: float = 0.95,
) -> LawResult:
    """The law of free composition on one network at one site.

    Args:
        response, jacobian, output: (contexts,) log PR of F, JᵀJ and A; contexts without one hold NaN and are left out.
        width: D.
        draws: gradients (and probes) of each context, for the control.
        groups: one for every context.
    """
    predicted = free_log(output, jacobian, width)
    kept, codes = _kept(np.stack([response, predicted]), groups)
    control, general = _free_control(
        float(np.median(output[kept])), float(np.median(jacobian[kept])), width, len(kept), draws, generator, level
    )
    return _result(FREE, where, response[kept], predicted[kept], codes, control, {"general_position": general}, level)


def depth(
    jacobians: Floats,
    blocks: Floats,
    width: int,
    where: Sequence[str],
    *,
    generator: np.random.Generator,
    groups: Sequence[object] | None = None,
    probes: int = 64,
    level: float = 0.95,
) -> LawResult:
    """The law of depth from the first of `where` to the output.

    Args:
        jacobians: (sites, contexts) log PR of JᵀJ from each site to the output, in order of depth.
        blocks: (sites − 1, contexts) log PR of the Jacobian from each site to the next.
        width: d.
        where: the sites' names.

    `details["blocks"]` has, for each step, the ratio of PR_J measured to that predicted from the next site and the block between
    (1 where the law holds), and what the block adds, d/PR_b − 1.
    """
    if jacobians.shape != (len(where), jacobians.shape[-1]) or blocks.shape != (len(where) - 1, jacobians.shape[-1]):
        raise InputError(f"jacobians, blocks: got shapes {jacobians.shape} and {blocks.shape}, wanted ({len(where)}, contexts) "
                         f"and ({len(where) - 1}, contexts) for {len(where)} sites")  # fmt: skip
    added = width * np.exp(-blocks) - 1
    total = added.sum(0) + width * np.exp(-jacobians[-1])
    predicted = math.log(width) - np.log(np.where(total > 0, total, np.nan))
    kept, codes = _kept(np.concatenate([jacobians, predicted[None]]), groups)
    steps = []
    for number in range(len(where) - 1):
        one = jacobians[number, kept] - free_log(blocks[number, kept], jacobians[number + 1, kept], width)
        mean = float(np.mean(added[number, kept]))
        steps.append(
            {"from": where[number], "to": where[number + 1], "adds": mean, "ratio": reading_dict(_mean(one, codes, level))}
        )
    typical = float(np.median(added[:, kept].mean(1)))
    control, general = _depth_control(typical, len(where) - 1, width, len(kept), probes, generator, level)
    details = {"blocks": steps, "general_position": general}
    place = f"{where[0]} to {where[-1]}"
    return _result(DEPTH, place, jacobians[0, kept], predicted[kept], codes, control, details, level)


def _kept(values: Floats, groups: Sequence[object] | None) -> tuple[Ints, Ints]:
    """Contexts that have every figure, and the codes of their groups."""
    kept = np.flatnonzero(np.isfinite(values).all(0))
    names = [str(group) for group in groups] if groups is not None else [str(k) for k in range(values.shape[1])]
    if len(names) != values.shape[1]:
        raise InputError(f"groups: got {len(names)}, wanted one for each of {values.shape[1]} contexts")
    codes = np.unique(names, return_inverse=True)[1][kept]
    if len(np.unique(codes)) < 4:
        raise InputError(
            f"contexts: {len(np.unique(codes))} groups of them can be read here, wanted at least 4; add texts or draws"
        )
    return kept, codes


def _result(
    law: Law,
    where: str,
    measured: Floats,
    predicted: Floats,
    groups: Ints,
    control: Control,
    details: dict[str, Any],
    level: float,
) -> LawResult:
    ratio = _mean(measured - predicted, groups, level)
    middle, low, high = (math.exp(figure) for figure in median(measured - predicted, groups, level))
    how = "median over contexts, interval clustered by group"
    centre = Reading(middle, low, high, level, len(measured), _RATIO, None, how)
    return LawResult(
        law,
        where,
        _mean(predicted, groups, level, "dimensions"),
        _mean(measured, groups, level, "dimensions"),
        ratio,
        judge(ratio, law),
        control,
        details={"median": reading_dict(centre), **details},
    )


def _mean(logs: Floats, groups: Ints, level: float, unit: str = _RATIO) -> Reading:
    """Geometric mean over contexts; interval clustered by group."""
    count, mean = len(np.unique(groups)), float(logs.mean())
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], logs - mean)
    reach = float(student.ppf(0.5 + level / 2, count - 1)) * math.sqrt(count / (count - 1) * float(sums @ sums)) / len(logs)
    how = f"geometric mean over contexts, t over {count} groups of them"
    return Reading(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), level, len(logs), unit, None, how)


# --- controls ---


def _free_control(
    output: float, jacobian: float, width: int, contexts: int, draws: int, generator: np.random.Generator, level: float
) -> tuple[Control, dict[str, Any]]:
    """Projectors A and JᵀJ of these log PR, one inside the other; and the same in general position."""
    a, j = (min(max(round(math.exp(log)), 1), width) for log in (output, jacobian))
    random = torch.Generator().manual_seed(int(generator.integers(2**62)))
    count = min(contexts, MOST_PLANTED)
    probes = _normal(random, count, draws, j)
    nested = _normal(random, count, draws, min(a, j))
    apart = torch.stack([_normal(random, draws, a) @ _frame(random, a, width)[:, :j] for _ in range(count)])
    found = [_planted(rows, probes, math.log(a), width, level) for rows in (nested, apart)]
    ratio = min(a, j) * (1 / a + 1 / j - 1 / width)
    what = f"projectors of rank {a} (A) and {j} (JᵀJ), one inside the other"
    return _control(what, ratio, found[0], FREE), _general(found[1], FREE)


def _planted(rows: Tensor, probes: Tensor, output: float, width: int, level: float) -> Reading:
    measured, jacobian = (participations(part).log.numpy() for part in (rows, probes))
    return _mean(measured - free_log(np.full(len(measured), output), jacobian, width), np.arange(len(measured)), level)


def _depth_control(
    added: float, blocks: int, width: int, contexts: int, probes: int, generator: np.random.Generator, level: float
) -> tuple[Control, dict[str, Any]]:
    """As many blocks, each keeping the same directions and dropping the rest; and each dropping directions of its own."""
    kept = min(max(round(width / (1 + added)), 1), width - 1)
    random = torch.Generator().manual_seed(int(generator.integers(2**62)))
    count = min(contexts, MOST_PLANTED)
    own = np.stack([participations(_normal(random, count, probes, kept)).log.numpy() for _ in range(blocks)])
    predicted = math.log(width) - np.log(1 + (width * np.exp(-own) - 1).sum(0))
    nested = participations(_normal(random, count, probes, kept)).log.numpy()
    rows = _normal(random, count, probes, width)
    for _ in range(blocks):
        frame = _frame(random, kept, width)
        rows = (rows @ frame.T) @ frame
    apart = participations(rows).log.numpy()
    found = [_mean(one - predicted, np.arange(count), level) for one in (nested, apart)]
    ratio = kept / width * (1 + blocks * (width / kept - 1))
    what = f"{blocks} blocks that all keep the same {kept} of {width} directions"
    return _control(what, ratio, found[0], DEPTH), _general(found[1], DEPTH)


def _control(what: str, ratio: float, found: Reading, law: Law) -> Control:
    low, high = law.band
    return Control(what, "consistent" if low <= ratio <= high else "violated", judge(found, law), found, ratio)


def _general(found: Reading, law: Law) -> dict[str, Any]:
    return {"expected": "consistent", "found": judge(found, law), "ratio": reading_dict(found)}


def _normal(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=random, dtype=torch.float64)


def _frame(random: torch.Generator, rows: int, width: int) -> Tensor:
    """Orthonormal rows in general position."""
    return torch.linalg.qr(_normal(random, width, rows))[0].T
