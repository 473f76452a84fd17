"""From states to coordinates on strands, and from coordinates to one score a concept: the piece of code that batches, streams and
live passes share.

A channel is one strand as a monitor reads it. Its coordinate is (basisᵀh − offset)/(scale/2), so that −1 and +1 are the means of
the classes it was found on. A concept's score is the mean of its channels' coordinates; which sites are its channels was chosen
by `find`, by cross-validation inside training groups. All channels of a site are read by one matrix product a token, in fp32, so
that batches of different shapes agree to its rounding; everything after it is float64, added up in a fixed order, and exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..strand.find import Found
from ..strand.strand import Strand
from .rows import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Channel:
    """One strand of rank 1: its coordinate of a state h is h · direction − bias.

    Attributes:
        concept: the strand's name; channels of one concept are averaged.
        direction: (d,) its basis over half its scale, fp32; `bias`: its offset over half its scale.
        about: what the strand says of itself (positive, position, method, template), for the manifest.
    """

    concept: str
    site: str
    direction: Tensor
    bias: float
    about: Mapping[str, Any]

    @classmethod
    def of(cls, strand: Strand) -> Channel:
        """Raises InputError for a strand that gives no single score, or whose classes do not lie apart."""
        classes = strand.provenance.get("classes", ())
        if strand.rank != 1 or len(classes) > 2:
            raise InputError(
                f"strand {strand.name!r}: tells {len(classes) or 'several'} classes apart with rank {strand.rank}, wanted one "
                "direction with one end; find one class against the rest"
            )
        half = float(strand.scale[0]) / 2
        if not half > 0:
            raise InputError(
                f"strand {strand.name!r} at {strand.site}: its classes lie {2 * half:g} apart along it, wanted more than 0; "
                "find it again, or mend its sign"
            )
        about = {name: getattr(strand, name) for name in ("positive", "position", "method", "template")}
        return cls(strand.name, strand.site, strand.basis[:, 0].float() / half, float(strand.offset[0]) / half, about)

    @property
    def name(self) -> str:
        """What drifted, where it does: strand and site."""
        return f"{self.concept} at {self.site}"


def strands_of(given: Found | Strand | Sequence[Found | Strand]) -> tuple[Strand, ...]:
    """Every strand that a monitor is to read, those of a `Found` being the sites that it averages.

    Raises:
        InputError: none, two of one concept at one site, or strands of different networks.
    """
    parts = [given] if isinstance(given, Found | Strand) else list(given)
    strands = tuple(strand for part in parts for strand in (part.strands if isinstance(part, Found) else (part,)))
    if not strands:
        raise InputError("strands: got none, wanted a Found, a Strand or a list of them; ss.find makes one")
    places = [(strand.name, strand.site) for strand in strands]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise InputError(f"strands: {twice[0]!r} at {twice[1]} is there twice; name every concept and site once")
    networks = {strand.fingerprint: strand.name for strand in strands}
    if len(networks) > 1:
        said = ", ".join(f"{name!r} in {network[:12]}" for network, name in networks.items())
        raise InputError(f"strands: were found in different networks ({said}); find them in one")
    return strands


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels in the order of their sites, ready to be read."""

    rows: tuple[Channel, ...]

    @classmethod
    def of(cls, channels: Sequence[Channel]) -> Channels:
        order = list(dict.fromkeys(channel.site for channel in channels))
        return cls(tuple(sorted(channels, key=lambda channel: order.index(channel.site))))

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(channel.site for channel in self.rows))

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(channel.concept for channel in self.rows))

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(channel.name for channel in self.rows)

    @cached_property
    def matrices(self) -> dict[str, Tensor]:
        """(d, channels there) for each site, fp32."""
        return {site: torch.stack([channel.direction for channel in self.rows if channel.site == site], 1) for site in self.sites}

    @cached_property
    def biases(self) -> Floats:
        return np.array([channel.bias for channel in self.rows])

    @cached_property
    def _members(self) -> list[np.ndarray]:
        return [np.array([i for i, row in enumerate(self.rows) if row.concept == name]) for name in self.concepts]

    def products(self, states: Mapping[str, Tensor]) -> Floats:
        """(tokens, channels) directions times states (tokens, d) at every site, float64 of fp32 products.

        Raises:
            InputError: a site is missing, or its states have another width.
        """
        read = []
        for site, matrix in self.matrices.items():
            if site not in states:
                raise InputError(f"states: none at {site}, wanted them at {', '.join(self.sites)}")
            here = states[site]
            if here.dim() != 2 or here.shape[1] != len(matrix):
                raise InputError(f"states at {site}: got shape {tuple(here.shape)}, wanted (tokens, {len(matrix)})")
            read.append(torch.mm(here.float().cpu(), matrix))
        return torch.cat(read, 1).double().numpy()

    def scores(self, products: Floats) -> Floats:
        """(tokens, concepts + channels): the scores of the concepts, then the coordinates that they are means of."""
        coordinates = products - self.biases
        means = [np.add.accumulate(coordinates[:, members], axis=1)[:, -1] / len(members) for members in self._members]
        return np.concatenate([np.stack(means, axis=1), coordinates], axis=1)
