"""What `respond` gives: gradients, probes and states at sites, context by context, beside the answer's entropy and its metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..errors import InputError
from ..subject.site import Site

if TYPE_CHECKING:
    from .examples import Examples
    from .tape import At


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """One context: what `Responses` holds of it, without the leading axis.

    `steps[site]`, where asked for, are rows of the Jacobian from that site to the next of those named (probes, d).
    """

    row: int
    gradients: Mapping[Site, Tensor]
    probes: Mapping[Site, Tensor]
    states: Mapping[Site, Tensor]
    entropy: float
    scale: float
    output: tuple[float, float]
    width: int  # D, of the output at which A stands
    steps: Mapping[Site, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Responses:
    """Gradients at sites for each context, in the order of `examples`.

    `gradients[site]` (contexts, draws, d) and `probes[site]` (contexts, probes, d); `states[site]` (contexts, d) the states
    themselves. `entropy` (contexts) of the answer in nats, after scaling its logits by `scale` β; NaN in a regression.
    `output_participation` (contexts) is the participation ratio of A, `output_error` the share of it by which leaving out
    improbable tokens can have moved it; both are empty unless asked for.
    """

    gradients: Mapping[Site, Tensor]
    probes: Mapping[Site, Tensor]
    states: Mapping[Site, Tensor]
    entropy: Tensor
    scale: Tensor
    output_participation: Tensor
    output_error: Tensor
    examples: Examples
    fingerprint: str
    position: At
    seed: int
    noise: float | None = None
    edited: bool = False

    def __len__(self) -> int:
        return len(self.entropy)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.gradients)

    @property
    def draws(self) -> int:
        return next(iter(self.gradients.values())).shape[1]

    @property
    def groups(self) -> np.ndarray:
        return self.examples.groups

    def at(self, site: str | Site) -> Tensor:
        """Gradients (contexts, draws, d) at one site."""
        wanted = Site.parse(site)
        if wanted not in self.gradients:
            raise InputError(f"site {wanted}: was not asked for; there are {', '.join(map(str, self.sites))}")
        return self.gradients[wanted]
