"""Names for what the network uses: response directions beside the concepts that were found at the same site.

|cos| with a concept's pattern is compared with what directions at random have in as many dimensions, corrected for the number of
pairs looked at. A direction that no concept lies near is used and unnamed: by these concepts, which may be few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scipy.stats import beta

from ..errors import InputError
from ..laws.price import LEVEL
from ..reading import Null, Reading

if TYPE_CHECKING:
    from ..strand.strand import Strand

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Named:
    """A response direction and the concept strand nearest to it; the null of `cosine` is the largest of random directions'."""

    strand: str
    direction: int
    concept: str
    cosine: Reading
    verdict: Literal["used and named by a concept", "used, unnamed"]


def name(response: Strand, concepts: Sequence[Strand]) -> tuple[Named, ...]:
    """For each direction of a response strand, the concept whose pattern lies nearest, if nearer than chance in so many tries.

    The square of a random direction's cosine is Beta(½, (d − 1)/2) in d dimensions; p is corrected over directions and concepts
    (Šidák), so that all names together are wrong in at most 5 % of cases.

    Raises:
        InputError: there is no concept, or one at another site.
    """
    if not concepts:
        raise InputError("concepts: got none, wanted at least one strand at the same site")
    for concept in concepts:
        if concept.site != response.site or concept.fingerprint != response.fingerprint:
            raise InputError(f"strand {concept.name!r}: is not at {response.site} of the same network; find it there")
    d, k = response.basis.shape
    patterns = torch.stack([concept.pattern[:, 0].double() for concept in concepts])
    patterns = patterns / patterns.norm(dim=1, keepdim=True)
    cosines = (patterns @ response.basis.double()).abs().clamp_max(1.0).numpy()  # (concepts, k)
    tries = cosines.size
    chance = beta(0.5, (d - 1) / 2)
    named = []
    for number in range(k):
        best = int(cosines[:, number].argmax())
        value = float(cosines[best, number])
        p = float(-np.expm1(tries * np.log1p(-min(chance.sf(value**2), 1 - 1e-16))))
        low, middle, high = (float(np.sqrt(chance.ppf(q ** (1 / tries)))) for q in (0.025, 0.5, 0.975))
        null = Null(middle, low, high, LEVEL, 0, p, f"largest |cos| of {tries} pairs with directions at random, in closed form")
        reading = Reading(value, value, value, None, d, "|cos|", null, "with the pattern of the nearest concept strand")
        verdict = "used and named by a concept" if p <= ALPHA else "used, unnamed"
        named.append(Named(response.name, number, concepts[best].name, reading, verdict))
    return tuple(named)
