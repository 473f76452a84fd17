"""Made-up labelled states in the form that `find` takes, so that it can be run where no network is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..provenance import digest

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Row:
    id: str
    input: Tensor


@dataclass(frozen=True)
class _Examples:
    """Rows of two classes that are nothing but their number, label and group."""

    labels: Ints
    groups: Ints
    name: str = "made up"
    classes: tuple[str, ...] = ("no", "yes")
    positive: str | None = "yes"
    kind: str = "tensor"

    @property
    def rows(self) -> tuple[_Row, ...]:
        return tuple(_Row(str(number), torch.tensor([float(number)])) for number in range(len(self.labels)))

    @property
    def pairs(self) -> Ints:
        return np.arange(len(self.labels))

    @property
    def row_digests(self) -> tuple[str, ...]:
        return tuple(digest(number, int(label)) for number, label in enumerate(self.labels))

    @property
    def digest(self) -> str:
        return digest(self.labels.tolist(), self.groups.tolist())

    def require(self, min_per_class: int = 10, folds: int = 5) -> None:
        """What is made up here is made large enough."""


@dataclass(frozen=True)
class Made:
    """States at sites with labels and groups; `strand.rows.States` says what each part is."""

    states: dict[str, Tensor]
    examples: Any
    positions: str = "last"
    fingerprint: str = "made up"
    edited: bool = False

    @classmethod
    def of(cls, states: dict[str, Tensor], labels: Ints, groups: Ints) -> Made:
        return cls(states, _Examples(labels, groups))

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.states)

    @property
    def rows(self) -> Tensor:
        return torch.arange(len(self.labels))

    @property
    def labels(self) -> Ints:
        return self.examples.labels

    @property
    def groups(self) -> Ints:
        return self.examples.groups

    @property
    def texts(self) -> tuple[str, ...]:
        return ("",) * len(self.labels)

    @property
    def template(self) -> dict[str, Any]:
        return {}

    def at(self, site: Any) -> Tensor:
        return self.states[str(site)]
