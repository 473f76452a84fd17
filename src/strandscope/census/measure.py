"""What one network gives: its response and Jacobian at every site and context, reduced to figures as they come.

A network's gradients are never kept whole: contexts go through in portions, and of each site and context remain the trace and
participation ratio of the response F and of JᵀJ with the jackknife variance of their logarithms, and the F-draws of the context,
scaled to trace 1, in half precision (64 draws of 576 numbers: 74 kB). From those, when all contexts have been seen, come the
overlaps tr F̂ᵢF̂ⱼ of every pair, raw and in coordinates whitened by the activations' covariance; then they go too. Three
quantities need nothing else: what is averaged over contexts, what is pooled over any subset of them, and their jackknife.

The activations' covariance is that of all positions of these contexts but the first of each, where many networks park an outsized
state. The states whose own dimension is read are those at which the response is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..capture.record import stream
from ..capture.response import Responses, respond
from ..statistics.spectrum import participation
from ..subject.site import Site
from ..subject.subject import Subject
from .contexts import Contexts

if TYPE_CHECKING:
    from ..capture.tokens import Positions

Floats = NDArray[np.float64]
PORTION = 8  # contexts that go through the network before their draws are reduced
_ROOM = 256.0  # rows of trace 1 are held times this in half precision, so that small entries keep their digits
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Profile:
    """One site of one network: a figure per context, and per pair of contexts. Logarithms are natural.

    `distinct`: how many of a context's draws were not its commonest one. `overlap[i, j]` estimates tr F̂ᵢF̂ⱼ without bias (on the
    diagonal, 1/PR of context i), `states` are the contexts' states turned into at most as many dimensions as there are contexts.
    """

    width: int
    trace: Floats
    local: Floats
    local_variance: Floats
    whitened: Floats
    whitened_variance: Floats
    jacobian: Floats
    jacobian_variance: Floats
    distinct: Floats
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
    width: int  # of the final hidden state, where A lives
    entropy: Floats
    scale: Floats
    output: Floats
    sites: Mapping[str, Profile]
    seconds: float
    more: Mapping[str, Any] = field(default_factory=dict)  # results of laws that need the draws themselves, JSON-able


@dataclass
class _Site:
    """What is being gathered at a site; `rows` are the scaled draws of the contexts seen so far."""

    figures: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _PER_CONTEXT})
    rows: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)


_PER_CONTEXT = ("trace", "local", "local_variance", "jacobian", "jacobian_variance", "distinct")
OnDraws = Callable[[Site, Tensor], Mapping[str, Any]]


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
    on_draws: Mapping[Site, OnDraws] | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure one network at `sites`.

    Args:
        entropy: (contexts,) nats; the logits are scaled context by context until the output has this entropy. None leaves them.
        on_draws: at some sites, what else is to be made of the scaled draws (contexts, draws, width) before they go.

    Raises:
        InputError: the network has no gradient at a site. TrustError: its states or gradients are not finite.
    """
    started = time.monotonic()
    held = {site: _Site() for site in sites}
    entropies, scales, outputs = [], [], []
    for portion in _portions(len(contexts)):
        wanted = None if entropy is None else torch.as_tensor(entropy[portion])
        found = respond(
            subject, contexts.examples.subset(portion), list(sites), draws=draws, probes=probes, entropy=wanted, seed=seed
        )
        for site in sites:
            _gather(held[site], found, site)
        entropies.append(found.entropy)
        scales.append(found.scale)
        outputs.append(found.output_participation.log())
        if progress is not None:
            progress(int(portion[-1]) + 1, len(contexts))
    roots = dict(_roots(subject, contexts, sites))
    profiles, more = {}, {}
    for site in sites:
        rows = torch.stack(held[site].rows)
        if on_draws is not None and site in on_draws:
            more[str(site)] = dict(on_draws[site](site, rows.float() / _ROOM))
        profiles[str(site)] = _profile(held.pop(site), rows, roots.pop(site))
    return Measurement(
        name=name,
        kind=kind,
        seed=twin_seed,
        fingerprint=subject.fingerprint,
        draws=draws,
        probes=probes,
        width=subject.d,
        entropy=_joined(entropies),
        scale=_joined(scales),
        output=_joined(outputs),
        sites=profiles,
        seconds=time.monotonic() - started,
        more=more,
    )


def _portions(count: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, PORTION):
        yield np.arange(start, min(start + PORTION, count))


def _joined(parts: list[Tensor]) -> Floats:
    return torch.cat([part.double().cpu() for part in parts]).numpy()


def _gather(held: _Site, found: Responses, site: Site) -> None:
    gradients, states = found.gradients[site], found.states[site]
    for number in range(len(gradients)):
        rows = gradients[number].double()
        response, jacobian = participation(rows), participation(found.probes[site][number])
        figures = (
            response.trace,
            response.log,
            response.variance,
            jacobian.log,
            jacobian.variance,
            distinct(rows),
        )
        for name, figure in zip(_PER_CONTEXT, figures, strict=True):
            held.figures[name].append(float(figure))
        scale = math.sqrt(response.trace) if response.trace > 0 else 1.0
        held.rows.append((rows / scale * _ROOM).half())
        held.states.append(states[number].double())


def distinct(rows: Tensor) -> int:
    """How many of these draws (K, d) are not the commonest one. Draws of one token are equal but for rounding."""
    near = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") <= 1e-4 * rows.norm(dim=1).max()
    return len(rows) - int(near.sum(1).max())


def _roots(subject: Subject, contexts: Contexts, sites: Sequence[Site]) -> Iterator[tuple[Site, Tensor]]:
    """Per site the symmetric root of the activations' covariance (width, width), of trace `width`."""
    positions: Positions = (1, None) if contexts.lengths is not None else "all"
    counts, sums, squares = 0, {}, {}
    for batch in stream(subject, contexts.examples, list(sites), positions):
        counts += len(batch.rows)
        for site, states in batch.states.items():
            wide = states.double()
            sums[site] = sums.get(site, 0) + wide.sum(0)
            squares[site] = squares.get(site, 0) + wide.T @ wide
    for site in sites:
        mean = sums[site] / counts
        covariance = squares.pop(site) / counts - mean[:, None] * mean
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp_min(0)
        yield site, (vectors * (values * len(values) / values.sum()).sqrt()) @ vectors.T


def _profile(held: _Site, rows: Tensor, root: Tensor) -> Profile:
    wide = rows.float() / _ROOM
    turned = wide @ root.float()
    white = [participation(part) for part in turned]
    overlap, overlap_whitened = overlaps(wide), overlaps(turned)
    figures = {name: np.array(values) for name, values in held.figures.items()}
    np.fill_diagonal(overlap, np.exp(-figures["local"]))
    whitened = np.array([one.log for one in white])
    np.fill_diagonal(overlap_whitened, np.exp(-whitened))
    return Profile(
        width=rows.shape[-1],
        whitened=whitened,
        whitened_variance=np.array([one.variance for one in white]),
        overlap=overlap,
        overlap_whitened=overlap_whitened,
        states=_turned(torch.stack(held.states)),
        **figures,
    )


def overlaps(rows: Tensor) -> Floats:
    """tr F̂ᵢF̂ⱼ of every pair of contexts, from their draws (contexts, draws, width); the diagonal is left to the caller."""
    contexts, draws, _ = rows.shape
    traces = rows.square().sum(-1).mean(-1).double()
    flat, made = rows.flatten(0, 1), torch.empty(contexts, contexts, dtype=torch.float64)
    for number in range(contexts):
        products = (rows[number] @ flat.T).square_()
        made[number] = products.sum(0).view(contexts, draws).sum(1).double() / draws**2
    return (made / (traces[:, None] * traces)).numpy()


def _turned(states: Tensor) -> Floats:
    """The same states, distances and covariances in at most as many coordinates as there are states."""
    centred = states - states.mean(0)
    if centred.shape[1] <= len(centred):
        return centred.numpy()
    return torch.linalg.qr(centred.T).R.T.contiguous().numpy()
