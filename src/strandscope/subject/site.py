"""A place in a network where a state can be read and written, as text: it parses, prints and round-trips.

    resid:12                       output of block 12 (0-based), the residual stream after it
    attn:12  mlp:12                output of the token mixer or of the channel mixer of block 12
    embed                          output of the input embedding
    module:model.layers.3.mlp.up_proj     output of any module; the prefix may be left out when the path holds a dot

A pattern names several: `resid:*`, `resid:8-20` (both ends included), `resid:*,mlp:*`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError

Kind = Literal["embed", "resid", "attn", "mlp", "module"]
_BLOCK = re.compile(r"(resid|attn|mlp):(\d+)")
_RANGE = re.compile(r"(resid|attn|mlp):(\*|(\d+)-(\d+))")
_PATH = re.compile(r"\w+(\.\w+)*")  # a part may be a number: the entries of lists and sequences are


@dataclass(frozen=True, slots=True)
class Site:
    kind: Kind
    index: int = -1
    path: str = ""

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        if isinstance(text, Site):
            return text
        if text == "embed":
            return cls("embed")
        if match := _BLOCK.fullmatch(text):
            return cls(match[1], int(match[2]))  # type: ignore[arg-type]
        path = text.removeprefix("module:")
        if _PATH.fullmatch(path) and (path != text or "." in path):
            return cls("module", path=path)
        raise InputError(
            f"site {text!r} is not understood; write resid:12, attn:12, mlp:12, embed, or a module path such as module:model.norm"
        )

    def __str__(self) -> str:
        if self.kind == "embed":
            return "embed"
        return f"module:{self.path}" if self.kind == "module" else f"{self.kind}:{self.index}"


def parse_pattern(pattern: str, blocks: int) -> list[Site]:
    """Every site that a pattern names in a network of so many blocks, in the order written."""
    sites: list[Site] = []
    for part in pattern.split(","):
        part = part.strip()
        if match := _RANGE.fullmatch(part):
            if not blocks:
                raise InputError(f"site pattern {part!r}: no blocks were found in this network; name modules, as in module:fc1")
            first, last = (0, blocks - 1) if match[2] == "*" else (int(match[3]), int(match[4]))
            if first > last or last >= blocks:
                raise InputError(f"site pattern {part!r}: this network has blocks 0 to {blocks - 1}; write a range inside them")
            sites += [Site(match[1], index) for index in range(first, last + 1)]  # type: ignore[arg-type]
        else:
            sites.append(Site.parse(part))
    return list(dict.fromkeys(sites))
