"""The response of a network's answer to its states: gradients of log p(y), y drawn from the network's own answer, at many sites.

For a state h of a context, `F = E_{y~p}[∇_h log p(y) ∇_h log p(y)ᵀ] = JᵀAJ` (nats per unit²) is the Fisher information of the
answer about the state. `respond` gives K gradients whose second moment is F, at every site asked for from one backward pass (see
`taking.py`); `probes` rows Jᵀu, u ~ N(0, I), whose second moment is JᵀJ; and the participation ratio of A in closed form. What is
made of them (traces, dimensions, intervals) is in `statistics`. `exact` gives F itself.

Draws come from a stream named by the seed and the row, so they depend neither on the other rows and their order, nor on the sites
asked for, and the first of many are those of few. Where `entropy` is given, the logits of each context are multiplied by the β at
which their entropy is that figure, and p, A and the gradients of log p are those of the scaled answer: how twins are matched.

A regression (`noise=` σ) answers y ~ N(f, σ²I): gradients are Jᵀε/σ and F is JᵀJ/σ². Its answer has no entropy in nats.

Gradients are computed in the dtype of the network and kept in fp32 or better: load it in float32, for bfloat16's rounding reaches
every draw alike and nothing here corrects it. Memory: what is kept, contexts · (draws + probes) · Σ d · 4 bytes, and what one
context's pass holds; `stream` keeps nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from ..provenance import torch_generator
from ..subject.attach import edited
from .exact import Exact as Exact
from .exact import exact as exact
from .readout import entropy_of, output_participation, temper
from .responses import Response as Response
from .responses import Responses as Responses
from .taking import tapes
from .tape import At, Tape

if TYPE_CHECKING:
    from ..subject.site import Site
    from ..subject.subject import Subject
    from .examples import Examples

Progress = Callable[[int, int], None]
_FEWEST = 8  # draws: with fewer, the pairs say next to nothing of a dimension
_SHARE = 0.8  # of the machine's memory that may be asked for


def respond(
    subject: Subject,
    examples: Examples,
    at: str | Sequence[str | Site] = "resid:*",
    *,
    draws: int = 64,
    probes: int = 0,
    entropy: Tensor | None = None,
    output: bool = False,
    position: At = "last",
    noise: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Responses:
    """The response of each row at the sites `at`.

    Args:
        at: a pattern such as "resid:*", or a list of sites.
        draws: gradients of log p(y) for each context; at least 8.
        probes: rows Jᵀu for each context.
        entropy: (contexts) nats to which the answer of each is scaled; None leaves it as it is.
        output: whether the participation ratio of A is computed.
        position: whose state; see `tapes`.
        noise: σ of a regression.
        progress: called with (contexts done, contexts in all).

    Raises:
        InputError: a site without gradient, a row that does not fit, an entropy out of reach, or more than the memory holds.
        TrustError: NaN or infinite states, answers or gradients.
    """
    sites = subject.sites(at)
    _check_memory(subject, len(examples), draws + probes, sites)
    under = edited(subject.module)
    taken: list[Response] = []
    for response in stream(
        subject,
        examples,
        at,
        draws=draws,
        probes=probes,
        entropy=entropy,
        output=output,
        position=position,
        noise=noise,
        seed=seed,
    ):
        taken.append(_here(response))
        if progress is not None:
            progress(len(taken), len(examples))

    def stacked(kind: str) -> dict[Site, Tensor]:
        return {site: torch.stack([getattr(one, kind)[site] for one in taken]) for site in sites}

    return Responses(
        gradients=stacked("gradients"),
        probes=stacked("probes") if probes else {},
        states=stacked("states"),
        entropy=torch.tensor([one.entropy for one in taken], dtype=torch.float64),
        scale=torch.tensor([one.scale for one in taken], dtype=torch.float64),
        output_participation=torch.tensor([one.output[0] for one in taken if output], dtype=torch.float64),
        output_error=torch.tensor([one.output[1] for one in taken if output], dtype=torch.float64),
        examples=examples,
        fingerprint=subject.fingerprint,
        position=position,
        seed=seed,
        noise=noise,
        edited=under,
    )


def stream(
    subject: Subject,
    examples: Examples,
    at: str | Sequence[str | Site] = "resid:*",
    *,
    draws: int = 64,
    probes: int = 0,
    entropy: Tensor | None = None,
    output: bool = False,
    position: At = "last",
    noise: float | None = None,
    steps: bool = False,
    seed: int = 0,
) -> Iterator[Response]:
    """Each context's response in the order of `examples`; only one is ever held, its gradients on the device of the network's
    output. Arguments as for `respond`.

    Args:
        steps: also as many probes of the Jacobian from each site to the next one named; sites are then named in order of depth.
    """
    if draws < _FEWEST:
        raise InputError(f"draws: got {draws}, wanted at least {_FEWEST} for each context, such as 64")
    if probes < 0:
        raise InputError(f"probes: got {probes}, wanted 0 or more")
    targets = _targets(entropy, len(examples), noise)
    return _stream(subject, examples, subject.sites(at), draws, probes, targets, output, position, noise, steps, seed)


def _stream(
    subject: Subject,
    examples: Examples,
    sites: Sequence[Site],
    draws: int,
    probes: int,
    targets: list[float] | None,
    output: bool,
    position: At,
    noise: float | None,
    steps: bool,
    seed: int,
) -> Iterator[Response]:
    for tape in tapes(subject, examples, sites, position, noise):
        readout, row = tape.readout, examples.row_digests[tape.row]
        scale = 1.0 if targets is None else temper(readout.logits, targets[tape.row], f"row {tape.name}")
        parts = [readout.draws(draws, scale, seed, row)]
        if probes:
            parts.append(readout.probes(probes, seed, row))
        pulled = tape.pull(torch.cat(parts))
        yield Response(
            tape.row,
            {site: rows[:draws] for site, rows in pulled.items()},
            {site: rows[draws:] for site, rows in pulled.items() if probes},
            tape.states,
            entropy_of(readout.logits, scale) if noise is None else float("nan"),
            scale,
            output_participation(*readout.factor(scale)) if output else (float("nan"), float("nan")),
            readout.width,
            _steps(tape, sites, probes, seed, row) if steps else {},
        )


def _here(response: Response) -> Response:
    """The same in the machine's own memory."""
    moved = {kind: {site: rows.cpu() for site, rows in getattr(response, kind).items()} for kind in ("gradients", "probes")}
    return replace(response, **moved)


def _steps(tape: Tape, sites: Sequence[Site], probes: int, seed: int, row: str) -> dict[Site, Tensor]:
    """Rows of the Jacobian from each site to the next, each from probes of its own."""
    made = {}
    for earlier, later in pairwise(sites):
        generator = torch_generator(seed, "response steps", str(later), row)
        cotangents = torch.randn(probes, tape.live[later].shape[-1], generator=generator)
        made[earlier] = tape.between(earlier, later, cotangents)
    return made


def _targets(entropy: Tensor | None, contexts: int, noise: float | None) -> list[float] | None:
    if entropy is None:
        return None
    if noise is not None:
        raise InputError("entropy: a regression has none to be scaled to; leave it out where noise is given")
    given = torch.as_tensor(entropy)
    if given.shape != (contexts,):
        raise InputError(f"entropy: got shape {tuple(given.shape)}, wanted one figure in nats for each of {contexts} contexts")
    return given.double().tolist()


def _check_memory(subject: Subject, contexts: int, rows: int, sites: Sequence[Site]) -> None:
    """Refuse what the machine's memory (all of it, not what happens to be free) would not hold."""
    try:
        held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # a system that does not tell
        return
    size = max(4, subject.dtype.itemsize)
    wanted = 2 * contexts * rows * size * sum(subject.port(site).width for site in sites)  # once as they come, once stacked
    if wanted > _SHARE * held:
        raise InputError(
            f"draws: {contexts} contexts with {rows} gradients at {len(sites)} sites take {wanted:.3g} bytes, and the machine "
            f"has {held:.3g}; ask for fewer contexts, draws or sites, or use stream, which keeps one context"
        )
