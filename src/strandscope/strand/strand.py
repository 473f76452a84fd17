"""The artefact: a subspace of one network's state space at one site, with its evidence and where it came from.

One safetensors file, its JSON manifest in the header. `basis` is what a state is read with; `pattern` is what the concept
writes there (the difference of class means), and what an edit adds. They differ wherever the states' covariance is not round
(Haufe et al. 2014).
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, TrustError
from ..io import load_as, made_from, save_tensors
from ..reading import Null, Reading
from .describe import Description, Network, describe

SCHEMA = "strandscope/strand/1"
SAID = ("name", "positive", "site", "position", "method", "fingerprint", "template", "provenance")  # in the manifest as they are
HELD = ("basis", "pattern", "spectrum", "offset")  # the tensors


@dataclass(frozen=True, slots=True)
class Shown:
    """A row with its cross-fitted score, kept so that a strand can say what it means."""

    id: str
    input: Any  # text, or a list of messages
    label: str
    score: float  # in standard deviations of the cross-fitted scores; the boundary is 0
    why: str  # "highest", "lowest" or "nearest the boundary"


@dataclass(frozen=True, slots=True)
class Strand:
    """A rank-k subspace at a site.

    Attributes:
        site: where, as text; `position`: which token was read ("last", "mean", …).
        basis: (d, k) orthonormal columns; `pattern`: (d, k), what one unit of the concept adds to a state, in the state's units.
        spectrum: (k,) separation of the classes along each column, in within-class standard deviations.
        offset: (k,) coordinates of the boundary, so that coordinate − offset > 0 reads as the positive class.
        evidence: the nested, cross-fitted AUROC of the procedure that found it (best single site).
        fingerprint: of the network it was found in; it is refused on another.
    """

    name: str
    positive: str
    site: str
    position: str
    basis: Tensor
    pattern: Tensor
    spectrum: Tensor
    offset: Tensor
    method: str
    evidence: Reading
    fingerprint: str
    template: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    shown: tuple[Shown, ...] = ()

    def __post_init__(self) -> None:
        d, k = self.basis.shape
        shapes = {"pattern": (d, k), "spectrum": (k,), "offset": (k,)}
        for name, wanted in shapes.items():
            if tuple(getattr(self, name).shape) != wanted:
                raise ValueError(f"{name} of shape {tuple(getattr(self, name).shape)}, wanted {wanted} beside basis ({d}, {k})")

    @property
    def rank(self) -> int:
        return self.basis.shape[1]

    @property
    def scale(self) -> Tensor:
        """(k,) length of the pattern along the basis: the classes' distance there, in the state's units."""
        return (self.basis * self.pattern).sum(0)

    def coordinates(self, states: Tensor) -> Tensor:
        """(…, k) coordinates of states (…, d), positive where the positive class is read."""
        return states.to(self.basis.dtype) @ self.basis - self.offset

    def direction(self) -> Tensor:
        """(d,) what moves a state from the negative class towards the positive one: the only column of its pattern.

        Raises:
            InputError: the strand tells more than two classes apart, so there is no one way.
        """
        classes = self.provenance.get("classes", ())
        if self.rank > 1 or len(classes) > 2:
            told = ", ".join(classes) or self.positive
            raise InputError(
                f"strand {self.name!r}: tells {told} apart and has no one direction to push along; "
                "find one class against the rest"
            )
        return self.pattern[:, 0]

    def check(self, fingerprint: str, *, force: bool = False) -> None:
        """Raise TrustError if this strand is from another network, unless forced."""
        if fingerprint != self.fingerprint and not force:
            raise TrustError(
                f"strand {self.name!r} was found in the network {self.fingerprint[:12]}, this one is {fingerprint[:12]}; "
                "find it again here, or force it (force=True, --force) and have the report say so"
            )

    def describe(self, subject: Network, *, seed: int = 0, force: bool = False) -> Description:
        """What the strand means in this network: its held-out examples by token, and the vocabulary it promotes."""
        self.check(subject.fingerprint, force=force)
        return describe(self, subject, seed)

    def save(self, path: str | os.PathLike[str]) -> None:
        manifest = {
            "schema": SCHEMA,
            **{name: getattr(self, name) for name in SAID},
            "boundary": "output",
            "rank": self.rank,
            "scale": self.scale.tolist(),
            "evidence": asdict(self.evidence),
            "shown": [asdict(row) for row in self.shown],
        }
        tensors = {name: getattr(self, name) for name in HELD}
        save_tensors(path, tensors, manifest)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Strand:
        tensors, manifest = load_as(path, SCHEMA, "a strand")
        with made_from(path, "the strand"):
            evidence = dict(manifest["evidence"])
            evidence["null"] = Null(**evidence["null"]) if evidence["null"] else None
            said: dict[str, Any] = {key: manifest[key] for key in SAID}
            held: dict[str, Any] = {key: tensors[key] for key in HELD}
            return cls(
                **said,
                **held,
                evidence=Reading(**evidence),
                shown=tuple(Shown(**row) for row in manifest["shown"]),
            )

    def __str__(self) -> str:
        where = f"{self.name} at {self.site} ({self.position}), rank {self.rank}, {self.method}"
        return f"{where}: {self.evidence}, n = {self.evidence.n}"

    def _repr_html_(self) -> str:
        from html import escape

        rows = {
            "site": f"{self.site}, position {self.position}",
            "reads as": self.positive,
            "rank": str(self.rank),
            "method": self.method,
            "evidence": str(self.evidence),
            "n": str(self.evidence.n),
            "network": self.fingerprint[:12],
        }
        body = "".join(f"<tr><th style='text-align:left'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows.items())
        return f"<table><caption>strand {escape(self.name)}</caption><tbody>{body}</tbody></table>"


def orthonormal(directions: Tensor) -> Tensor:
    """(d, k) orthonormal columns spanning `directions` (d, m), k their rank; of one direction its own unit vector, sign kept."""
    if directions.shape[1] == 1:
        norm = directions.norm()
        if not bool(norm > 0):
            raise InputError(
                "directions: got a zero vector; the classes have the same mean, so look whether the same rows are in both"
            )
        return directions / norm
    left, values, _ = torch.linalg.svd(directions, full_matrices=False)
    return left[:, values > values[0] * 1e-8]
