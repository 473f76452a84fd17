"""Strands that the network itself names: the directions along which its answer responds most, found without labels.

The gradients of log p(y), y drawn from the network's own answer, have the response metric F as their second moment. Pooled over
contexts it is F̂, the mean of F_i / tr F_i: a context whose answer is nearly certain moves little whatever is done to its state,
and would be outvoted in nats, but it says as well as any other which way its answer looks. One without any gradient is left out.

`response_strands` gives the top k eigenvectors of F̂ as a `Strand`. Its evidence is cross-fitted: the share of the response of one
half of the contexts (whole topics) that the directions found on the other half hold, k/d by chance. Its pattern is its basis: one
unit of such a strand is one unit of the state. What it does not know is what a direction means; `control.use.name` asks concepts.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from ..errors import InputError
from ..linalg import top_of_rows
from ..provenance import numpy_generator
from ..reading import Null, Reading
from .strand import Strand

LEVEL = 0.95
Ints = NDArray[np.int64]


class Recorded(Protocol):
    """What is needed of recorded gradients; `capture.response.Responses` has it."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def position(self) -> Any: ...
    @property
    def groups(self) -> Ints: ...
    def at(self, site: Any) -> Tensor:
        """Gradients (contexts, draws, d) at one site."""
        ...


def response_strands(responses: Recorded, site: Any, k: int = 10, name: str = "response") -> Strand:
    """The top k directions of the pooled response at a site, in the order of the share that each holds.

    Raises:
        InputError: k is not below the number of directions or of topics in a half, or no context has a gradient.
    """
    gradients, groups = normalised(responses.at(site), responses.groups)
    d = gradients.shape[-1]
    if not 1 <= k < d:
        raise InputError(f"k: got {k}, wanted 1 to {d - 1} directions of the {d} at {site}")
    found = top_of_rows(gradients.flatten(0, 1), k)
    share = found.values / found.trace
    return Strand(
        name=name,
        positive="",
        site=str(site),
        position=str(responses.position),
        basis=found.vectors.float(),
        pattern=found.vectors.float(),
        spectrum=share.float(),
        offset=torch.zeros(k),
        method="response metric",
        evidence=held_share(gradients, groups, k),
        fingerprint=responses.fingerprint,
        provenance={"contexts": len(gradients), "draws": gradients.shape[1], "spectrum": "share of the pooled response"},
    )


def normalised(gradients: Tensor, groups: Ints) -> tuple[Tensor, Ints]:
    """Gradients (contexts, draws, d) in float64 with Σ‖g‖² = 1 in each context, and the groups of those that have any."""
    if gradients.ndim != 3 or len(gradients) != len(groups):
        raise InputError(f"gradients: got {tuple(gradients.shape)} for {len(groups)} groups, wanted (contexts, draws, d)")
    wide = gradients.double()
    size = wide.square().sum((1, 2))
    kept = size > 0
    if not bool(kept.any()):
        raise InputError("gradients: got zeros alone; the answer does not depend on this site, so name another")
    return wide[kept] / size[kept, None, None].sqrt(), groups[kept.numpy()]


def along(gradients: Tensor, directions: Tensor) -> Tensor:
    """vᵀF_iv·d / tr F_i of each context and direction: (contexts, n), from normalised gradients and any directions (n, d).

    1 is what a direction at random has in the mean; over random directions its standard deviation is √(2/PR − 2/d), nearly, with
    the participation ratio PR of the metric.
    """
    unit = directions.double()
    unit = unit / unit.norm(dim=1, keepdim=True)
    return (gradients @ unit.T).square().sum(1) * gradients.shape[-1]


def halves(groups: Ints) -> NDArray[np.bool_]:
    """Which contexts are in the first half of the groups; the same for the same groups."""
    names = np.unique(groups)
    if len(names) < 4:
        raise InputError(f"contexts: got {len(names)} topics, wanted at least 4, two in each half; use more contexts")
    return np.isin(groups, numpy_generator(0, "halves of the contexts").permutation(names)[: len(names) // 2])


def inside(gradients: Tensor, groups: Ints, directions: Tensor, k: int) -> Tensor:
    """(n,) share of each direction (n, d) inside the top-k response subspace, the mean of those of two halves of the contexts."""
    first, unit = torch.as_tensor(halves(groups)), directions.double()
    unit = unit / unit.norm(dim=1, keepdim=True)
    bases = [top_of_rows(gradients[part].flatten(0, 1), k).vectors for part in (first, ~first)]
    return torch.stack([(unit @ basis).square().sum(1) for basis in bases]).mean(0)


def held_share(gradients: Tensor, groups: Ints, k: int) -> Reading:
    """The share of a context's response held by the top k directions of contexts of other topics."""
    first, values = torch.as_tensor(halves(groups)), torch.empty(len(gradients), dtype=torch.float64)
    for chosen, scored in ((first, ~first), (~first, first)):
        basis = top_of_rows(gradients[chosen].flatten(0, 1), k).vectors
        values[scored] = (gradients[scored] @ basis).square().sum((1, 2))
    mean, reach = _mean(values.numpy(), groups)
    chance = k / gradients.shape[-1]
    return Reading(
        mean,
        max(0.0, mean - reach),
        min(1.0, mean + reach),
        LEVEL,
        len(values),
        "share of the response",
        Null(chance, chance, chance, LEVEL, 0, None, f"{k} directions at random, in the mean"),
        f"top {k} directions of the pooled response, found on half of the topics and scored on the other; interval by topic",
    )


def _mean(values: NDArray[np.float64], groups: Ints) -> tuple[float, float]:
    """Mean and the half-width of its interval, clustered by group."""
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    sums = np.bincount(group, values - values.mean(), count)
    error = float(np.sqrt(count / (count - 1) * (sums @ sums))) / len(values)
    return float(values.mean()), float(student.ppf(0.5 + LEVEL / 2, count - 1)) * error
