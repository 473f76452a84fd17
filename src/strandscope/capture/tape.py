"""A forward pass of one context, kept so that gradients of its answer can be pulled back to the states at many sites at once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError, TrustError
from ..subject.site import Site
from .readout import Readout

At = Literal["last", "mean"] | int


@dataclass(frozen=True, eq=False)
class Tape:
    """A context's pass. `states` (d) by site, in fp32 or better; `readout` is its answer; `live` the states in the graph."""

    row: int
    name: str
    states: Mapping[Site, Tensor]
    readout: Readout
    zeros: Mapping[Site, Tensor]
    live: Mapping[Site, Tensor]
    at_once: int  # gradients pulled together; 0: one after another

    def pull(self, cotangents: Tensor) -> dict[Site, Tensor]:
        """For each cotangent (K, D) at the output, the gradient with respect to the state at every site: (K, d), fp32 or better,
        on the output's device.

        Raises:
            InputError: the output does not depend on a site. TrustError: a gradient is NaN or infinite.
        """
        return self._pulled(self.readout.output, list(self.zeros), cotangents)

    def between(self, earlier: Site, later: Site, cotangents: Tensor) -> Tensor:
        """For each cotangent (K, d') at the state of a later site, the gradient with respect to that of an earlier one: (K, d).

        Raises:
            InputError: the later state does not depend on the earlier, or stands at several positions.
        """
        state = self.live[later]
        if state.numel() != state.shape[-1]:
            raise InputError(
                f"site {later}: its state stands at several positions, and a Jacobian is between two; name one position"
            )
        return self._pulled(state.flatten(), [earlier], cotangents)[earlier]

    def _pulled(self, output: Tensor, sites: Sequence[Site], cotangents: Tensor) -> dict[Site, Tensor]:
        inputs = [self.zeros[site] for site in sites]
        cotangents = cotangents.to(output.device, output.dtype)
        parts: list[tuple[Tensor | None, ...]] = []
        for part in cotangents.split(self.at_once or 1):
            given, batched = (part, True) if self.at_once else (part[0], False)
            with warnings.catch_warnings():  # told to those who would write batching rules: some operations run one by one
                warnings.filterwarnings("ignore", message=".*batching rule.*")
                found = torch.autograd.grad(output, inputs, given, retain_graph=True, is_grads_batched=batched, allow_unused=True)
            parts.append(tuple(None if grad is None else grad if batched else grad[None] for grad in found))
        return {site: self._joined(site, [part[number] for part in parts]) for number, site in enumerate(sites)}

    def _joined(self, site: Site, parts: Sequence[Tensor | None]) -> Tensor:
        wide = self.readout.wide
        found = [part.detach().to(self.readout.output.device, wide) for part in parts if part is not None]
        if len(found) < len(parts):
            raise InputError(
                f"site {site}: the answer has no gradient there (it stands beside or after what the answer is read from, or is "
                "cut off by detach); name a site before the head"
            )
        joined = torch.cat(found)
        if not bool(joined.isfinite().all()):
            raise TrustError(f"row {self.name}, site {site}: a gradient is NaN or infinite; load the network in float32")
        return joined
