"""The response metric itself: F = JᵀAJ over the whole vocabulary, context by context, as the reference for what is sampled.

J comes from as many cotangents as the output has coordinates (576 in SmolLM2), pulled back together; A from every token but those
that together make up less than a hundredth of the dtype's rounding of its trace. Nothing is kept between contexts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from .readout import Readout, entropy_of, temper
from .taking import tapes
from .tape import At

if TYPE_CHECKING:
    from ..subject.site import Site
    from ..subject.subject import Subject
    from .examples import Examples

_WIDEST = 8192  # coordinates of the output: J takes so many backward rows


@dataclass(frozen=True, slots=True, eq=False)
class Exact:
    """One context: `metrics[site]` is F (d, d), nats per unit²; `jacobians[site]` is J (D, d) where asked for.

    `output` is A (D, D) at the output, `p` (V) the distribution (empty in a regression), both of the logits times `scale`.
    """

    row: int
    metrics: Mapping[Site, Tensor]
    jacobians: Mapping[Site, Tensor]
    states: Mapping[Site, Tensor]
    output: Tensor
    p: Tensor
    entropy: float
    scale: float


def exact(
    subject: Subject,
    examples: Examples,
    at: str | Sequence[str | Site],
    *,
    jacobians: bool = False,
    entropy: Tensor | None = None,
    position: At = "last",
    noise: float | None = None,
) -> Iterator[Exact]:
    """The exact metric of each row at the sites `at`, in the order of `examples`. Arguments as for `respond`.

    Raises:
        InputError: as for `respond`; or the output is too wide for J.
    """
    sites = subject.sites(at)
    targets = None if entropy is None else torch.as_tensor(entropy).double().tolist()
    if targets is not None and (noise is not None or len(targets) != len(examples)):
        raise InputError(f"entropy: wanted one figure in nats for each of {len(examples)} contexts, and none for a regression")
    return _exact(subject, examples, sites, jacobians, targets, position, noise)


def _exact(
    subject: Subject,
    examples: Examples,
    sites: Sequence[Site],
    jacobians: bool,
    targets: list[float] | None,
    position: At,
    noise: float | None,
) -> Iterator[Exact]:
    for tape in tapes(subject, examples, sites, position, noise):
        readout = tape.readout
        _check_width(subject, readout)
        scale = 1.0 if targets is None else temper(readout.logits, targets[tape.row], f"row {tape.name}")
        rows = tape.pull(torch.eye(readout.width, dtype=readout.output.dtype, device=readout.output.device))
        factor, _ = readout.factor(scale, negligible=torch.finfo(readout.wide).eps / 100)
        metric = (factor.mT @ factor).to(readout.output.device)
        yield Exact(
            tape.row,
            {site: _symmetric(rows[site].mT @ metric @ rows[site]).cpu() for site in sites},
            {site: part.cpu() for site, part in rows.items()} if jacobians else {},
            tape.states,
            metric.cpu(),
            torch.empty(0) if noise is not None else readout.distribution(scale).cpu(),
            float("nan") if noise is not None else entropy_of(readout.logits, scale),
            scale,
        )


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2


def _check_width(subject: Subject, readout: Readout) -> None:
    if readout.width > _WIDEST:
        held = readout.width**2 * 4
        raise InputError(
            f"{subject.name}: its output has {readout.width} coordinates, so A alone takes {held:.3g} bytes and J as many "
            "backward rows; use respond, which samples"
        )
