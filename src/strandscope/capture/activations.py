"""States in memory, each labelled with its row, its position and its token; saved as one safetensors file.

States are stored in the dtype the network computed them in. `rows[i]` is the index in `examples` of state i; `labels`, `groups`,
`ids` and `texts` are given state by state, so that they line up with `at(site)` whatever the positions are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor

from .. import io
from ..errors import InputError
from ..provenance import versions
from ..subject.site import Site
from .examples import Example, Examples

if TYPE_CHECKING:
    from .tokens import Positions

_SCHEMA = "strandscope.activations/1"


@dataclass(frozen=True, eq=False)
class Activations:
    """States at sites: `states[site]` is (n, d), and so is every column n long.

    `position` is the state's place among its row's tokens and `token` the token there, both -1 for a mean; `pieces` gives the
    text of each token id that occurs. `fingerprint` is the network's, `template` how the examples became tokens; `edited`
    says that the states were captured while edits were attached to the network, so they are not its own.
    """

    states: Mapping[Site, Tensor]
    examples: Examples
    positions: Positions
    rows: Tensor
    position: Tensor
    token: Tensor
    pieces: Mapping[int, str]
    fingerprint: str
    template: Mapping[str, str]
    edited: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        at = self.sites[0] if len(self.sites) == 1 else f"{len(self.sites)} sites ({self.sites[0]} to {self.sites[-1]})"
        return (
            f"{len(self)} states at {at}, positions {self.positions}, of {self.examples.name} in network {self.fingerprint[:12]}"
            f"{' under edits' if self.edited else ''}"
        )

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.states)

    def at(self, site: str | Site) -> Tensor:
        """The states (n, d) at one site."""
        wanted = Site.parse(site)
        if wanted not in self.states:
            raise InputError(f"site {wanted}: was not captured; there are {', '.join(map(str, self.sites))}")
        return self.states[wanted]

    @cached_property
    def labels(self) -> np.ndarray:
        return self.examples.labels[self.rows.numpy()]

    @cached_property
    def groups(self) -> np.ndarray:
        return self.examples.groups[self.rows.numpy()]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.examples.rows[row].id for row in self.rows.tolist())

    @cached_property
    def texts(self) -> tuple[str, ...]:
        texts = self.examples.texts()
        return tuple(texts[row] for row in self.rows.tolist())

    @cached_property
    def token_texts(self) -> tuple[str, ...]:
        """The text of each state's token; empty where there is none."""
        return tuple(self.pieces.get(token, "") for token in self.token.tolist())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file with everything in it, the examples included."""
        tensors = {f"state:{site}": state for site, state in self.states.items()}
        tensors |= {"rows": self.rows, "position": self.position, "token": self.token}
        examples, inputs = _examples_out(self.examples)
        manifest = {
            "schema": _SCHEMA,
            "sites": [str(site) for site in self.sites],
            "positions": self.positions,
            "pieces": {str(token): text for token, text in self.pieces.items()},
            "fingerprint": self.fingerprint,
            "template": dict(self.template),
            "edited": self.edited,
            "examples": examples,
            "digest": self.examples.digest,
            "versions": versions(),
        }
        io.save_tensors(path, tensors | inputs, manifest)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Activations:
        """Read what `save` wrote.

        Raises:
            InputError: the file holds no activations, or not the examples it says.
        """
        tensors, manifest = io.load_tensors(path)
        if manifest.get("schema") != _SCHEMA:
            raise InputError(
                f"{path}: a {manifest.get('schema', 'file of another kind')}, wanted {_SCHEMA}; name a file of activations"
            )
        examples = _examples_in(manifest["examples"], tensors)
        if examples.digest != manifest["digest"]:
            raise InputError(f"{path}: its examples are not those that were captured; capture again")
        positions = manifest["positions"]
        return cls(
            {Site.parse(site): tensors[f"state:{site}"] for site in manifest["sites"]},
            examples,
            cast("Positions", positions if isinstance(positions, str) else tuple(positions)),
            tensors["rows"],
            tensors["position"],
            tensors["token"],
            {int(token): text for token, text in manifest["pieces"].items()},
            manifest["fingerprint"],
            manifest["template"],
            manifest.get("edited", False),
        )


def _examples_out(examples: Examples) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A set of examples as JSON, and the inputs that are tensors."""
    inputs = {f"input:{number}": row.input for number, row in enumerate(examples.rows) if isinstance(row.input, Tensor)}
    rows = []
    for row in examples.rows:
        value = None if isinstance(row.input, Tensor) else row.input
        rows.append([value, row.label, row.group, row.id, row.pair, _plain(row)])
    about = {
        "kind": examples.kind,
        "classes": list(examples.classes),
        "name": examples.name,
        "order": examples.order,
        "rows": rows,
    }
    return about, inputs


def _plain(row: Example) -> dict[str, Any]:
    try:
        json.dumps(dict(row.extra), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"row {row.id}: an extra key cannot be saved as JSON ({error}); keep strings and numbers in rows"
        ) from None
    return dict(row.extra)


def _examples_in(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Examples:
    rows = []
    for number, (value, label, group, name, pair, extra) in enumerate(about["rows"]):
        content = tensors[f"input:{number}"] if value is None else value if isinstance(value, str) else tuple(value)
        rows.append(Example(content, label, group, name, pair, extra))
    return Examples(tuple(rows), tuple(about["classes"]), about["kind"], about["name"], about["order"])
