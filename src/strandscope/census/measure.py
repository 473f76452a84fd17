"""What one network gives: its response and Jacobian at every site and context, reduced to figures as they come.

A network's gradients are never kept whole: contexts go through one after the other, and of each site and context remain the
trace and participation ratio of the response F and of JᵀJ with the variance of their logarithms, and the F-draws of the context,
scaled to trace 1, in half precision (64 draws of 576 numbers: 74 kB). From those, when all contexts have been seen, come the
overlaps tr F̂ᵢF̂ⱼ of every pair, raw and in coordinates whitened by the activations' covariance; then they go too. What is kept
is enough for any mean over contexts, for what is pooled over any subset of them, and for the jackknife of both.

The activations' covariance is that of all positions of these contexts but the first of each, where many networks park an outsized
state. The states whose own dimension is read are those at which the response is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..capture.record import stream as states_of
from ..capture.response import Response
from ..capture.response import stream as responses
from ..provenance import numpy_generator
from ..statistics.spectrum import overlap, participations
from ..strand import mixture
from ..strand.mixture import Coverage
from ..subject.site import Site
from ..subject.subject import Subject
from .contexts import LEAST, Contexts

if TYPE_CHECKING:
    from ..capture.tokens import Positions

Floats = NDArray[np.float64]
_ROOM = 256.0  # rows of trace 1 are held times this in half precision, so that small entries keep their digits
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Profile:
    """One site of one network: a figure per context, and per pair of contexts. Logarithms are natural, NaN where there is none.

    `step`: of the Jacobian from this site to the next, where sites are block outputs in order. `readable`: 1 where a context's
    draws say anything about its F (`statistics/participation`). `overlap[i, j]` is tr F̂ᵢF̂ⱼ, `inverse` is 1/PR of context i, both
    without bias. `states` are the contexts' states turned into at most as many dimensions as there are contexts.
    """

    width: int
    trace: Floats
    local: Floats
    local_variance: Floats
    whitened: Floats
    whitened_variance: Floats
    jacobian: Floats
    jacobian_variance: Floats
    step: Floats
    readable: Floats
    inverse: Floats
    inverse_whitened: Floats
    overlap: Floats
    overlap_whitened: Floats
    states: Floats


@dataclass(frozen=True, eq=False)
class Measurement:
    """One network: trained, or a twin. `output` is log PR of the output metric A, `scale` the β its logits were scaled by."""

    name: str
    kind: str
    seed: int
    fingerprint: str
    draws: int
    probes: int
    width: int  # D, of the output at which A stands
    entropy: Floats
    scale: Floats
    output: Floats
    sites: Mapping[str, Profile]
    seconds: float
    coverage: Mapping[str, Coverage] = field(default_factory=dict)  # by site, where the law of sharing is tested


@dataclass
class _Site:
    """What is being gathered at a site; `rows` are the scaled draws of the contexts seen so far."""

    figures: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _PER_CONTEXT})
    rows: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)


_PER_CONTEXT = ("trace", "local", "local_variance", "jacobian", "jacobian_variance", "step", "readable")


def measure(
    subject: Subject,
    contexts: Contexts,
    sites: Sequence[Site],
    *,
    draws: int,
    probes: int,
    seed: int,
    name: str = "trained",
    kind: str = "trained",
    twin_seed: int = 0,
    entropy: Floats | None = None,
    noise: float | None = None,
    shared: Sequence[Site] = (),
    progress: Progress | None = None,
) -> Measurement:
    """Measure one network at `sites`.

    Args:
        entropy: (contexts,) nats; the logits are scaled context by context until the output has this entropy. None leaves them.
        noise: σ of a regression, whose answer has no entropy.
        shared: the sites at which the coverage curve is made of the draws before they go.

    Raises:
        InputError: the network has no gradient at a site. TrustError: its states or gradients are not finite.
    """
    started = time.monotonic()
    held = {site: _Site() for site in sites}
    entropies, scales, outputs, width = [], [], [], 0
    wanted = None if entropy is None else torch.as_tensor(entropy)
    passes = responses(
        subject,
        contexts.examples,
        list(sites),
        draws=draws,
        probes=probes,
        entropy=wanted,
        output=True,
        noise=noise,
        steps=in_depth(sites) and contexts.lengths is not None,
        seed=seed,
    )
    for found in passes:
        _gather(held, found)
        entropies.append(found.entropy)
        scales.append(found.scale)
        outputs.append(math.log(found.output[0]))
        width = found.width
        if progress is not None:
            progress(found.row + 1, len(contexts))
    roots = dict(_roots(subject, contexts, sites))
    profiles, coverages = {}, {}
    for site in sites:
        rows = torch.stack(held[site].rows)
        if site in shared:
            found_here = _coverage(held[site], rows, contexts, numpy_generator(seed, "census coverage", str(site)))
            coverages |= {str(site): found_here} if found_here is not None else {}
        profiles[str(site)] = _profile(held.pop(site), rows, roots.pop(site))
    return Measurement(
        name=name,
        kind=kind,
        seed=twin_seed,
        fingerprint=subject.fingerprint,
        draws=draws,
        probes=probes,
        width=width,
        entropy=np.array(entropies),
        scale=np.array(scales),
        output=np.array(outputs),
        sites=profiles,
        seconds=time.monotonic() - started,
        coverage=coverages,
    )


def in_depth(sites: Sequence[Site]) -> bool:
    """Whether these are outputs of ever later blocks, so that there is a Jacobian from each to the next."""
    return all(site.kind == "resid" for site in sites) and all(one.index < other.index for one, other in pairwise(sites))


def _gather(held: Mapping[Site, _Site], found: Response) -> None:
    """Reduce one context at all sites, those of a width together: a GPU works through many small matrices as through one."""
    for sites in _alike(found.gradients):
        rows = torch.stack([found.gradients[site] for site in sites]).double()
        response = participations(rows).cpu()
        jacobian = participations(torch.stack([found.probes[site] for site in sites])).cpu()
        steps = _step_logs(found, sites)
        size = torch.where(response.trace > 0, response.trace, 1.0).sqrt()
        kept = (rows / size.to(rows)[:, None, None] * _ROOM).half().cpu()
        readable = response.readable()
        for number, site in enumerate(sites):
            figures = (
                response.trace[number],
                response.log[number],
                response.variance[number],
                jacobian.log[number],
                jacobian.variance[number],
                steps.get(site, math.nan),
                readable[number],
            )
            for name, figure in zip(_PER_CONTEXT, figures, strict=True):
                held[site].figures[name].append(float(figure))
            held[site].rows.append(kept[number])
            held[site].states.append(found.states[site].double())


def _alike(rows: Mapping[Site, Tensor]) -> list[list[Site]]:
    """The sites in lists of one width."""
    lists: dict[int, list[Site]] = {}
    for site, part in rows.items():
        lists.setdefault(part.shape[-1], []).append(site)
    return list(lists.values())


def _step_logs(found: Response, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """log PR of the Jacobian from each of these sites to the next, where it was probed."""
    probed = [site for site in sites if site in found.steps]
    if not probed:
        return {}
    return dict(zip(probed, participations(torch.stack([found.steps[site] for site in probed])).cpu().log, strict=True))


def _roots(subject: Subject, contexts: Contexts, sites: Sequence[Site]) -> Iterator[tuple[Site, Tensor]]:
    """Per site the symmetric root of the activations' covariance (width, width), of trace `width`, on the network's device."""
    positions: Positions = (1, None) if contexts.lengths is not None else "all"
    counts, sums, squares = 0, {}, {}
    for batch in states_of(subject, contexts.examples, list(sites), positions):
        counts += len(batch.rows)
        for site, states in batch.states.items():
            wide = states.to(subject.device).double()
            sums[site] = sums.get(site, 0) + wide.sum(0)
            squares[site] = squares.get(site, 0) + wide.T @ wide
    for site in sites:
        mean = sums[site] / counts
        covariance = squares.pop(site) / counts - mean[:, None] * mean
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp_min(0)
        yield site, (vectors * (values * len(values) / values.sum()).sqrt()) @ vectors.T


def _profile(held: _Site, rows: Tensor, root: Tensor) -> Profile:
    wide = rows.to(root.device).float() / _ROOM
    turned = wide @ root.float()
    white = participations(turned).cpu()
    inverse, overlap = _overlaps(wide)
    inverse_whitened, overlap_whitened = _overlaps(turned)
    return Profile(
        width=rows.shape[-1],
        whitened=white.log.numpy(),
        whitened_variance=white.variance.numpy(),
        inverse=inverse,
        inverse_whitened=inverse_whitened,
        overlap=overlap,
        overlap_whitened=overlap_whitened,
        states=_turned(torch.stack(held.states)),
        **{name: np.array(values) for name, values in held.figures.items()},
    )


def _coverage(held: _Site, rows: Tensor, contexts: Contexts, generator: np.random.Generator) -> Coverage | None:
    """The coverage curve of the contexts whose response says anything; None where they or their draws are too few for one."""
    kept = np.flatnonzero(np.array(held.figures["readable"]) > 0)
    groups = contexts.examples.groups[kept]
    narrow = rows.shape[1] < 2 * mixture.RANK or rows.shape[2] <= mixture.RANK * mixture.NEIGHBOURS
    if narrow or len(kept) < mixture.MINIMUM or len(np.unique(groups)) < LEAST:
        return None
    return mixture.coverage(rows[kept].float() / _ROOM, groups.tolist(), generator=generator)


def _overlaps(rows: Tensor) -> tuple[Floats, Floats]:
    """1/PR of every context and tr F̂ᵢF̂ⱼ of every pair; NaN for a context without a response."""
    some = rows.flatten(1).any(1).nonzero()[:, 0].cpu()
    inverse, pairs = np.full(len(rows), np.nan), np.full((len(rows), len(rows)), np.nan)
    if len(some) >= LEAST:
        found = overlap(rows[some])
        inverse[some.numpy()] = found.local.cpu().numpy()
        pairs[np.ix_(some.numpy(), some.numpy())] = found.matrix.cpu().numpy()
    return inverse, pairs


def _turned(states: Tensor) -> Floats:
    """The same states, distances and covariances in at most as many coordinates as there are states."""
    centred = states - states.mean(0)
    if centred.shape[1] <= len(centred):
        return centred.numpy()
    return torch.linalg.qr(centred.T).R.T.contiguous().numpy()
