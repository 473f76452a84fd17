"""What weights can express of edits, and how.

Write the state after block i as s_i = s_(i−1) + w_i, w_i what the block's mixers write. An affine edit F_i(h) = A_i h + c_i at
its output gives s_i = A_i (s_(i−1) + w_i) + c_i. If A_i changes nothing that A_(i−1) let through (A_i A_(i−1) = A_(i−1)), then

    s_i = s_(i−1) + A_i w_i + (c_i + A_i c_(i−1) − c_(i−1)),

so the edit is the same as A_i on what the block's weights write, and a bias on the last of them. An addition has A_i = 1. An
ablation satisfies the condition if it stands wherever the stream was written before: at its beginning and at every block up to
there. At one site alone it does not: it acts on a sum that no weight holds.

Inside a block the channel mixer reads what the token mixer has just written. Weights that lack a direction never write it; an
edit at the block's output lets the channel mixer see it once. The two are the same only if the edit also stands at the token
mixer's output, and so it must.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...errors import InputError
from ...io import staged
from ...linalg import finite
from ...strand.strand import orthonormal
from ...subject.attach import Scope
from ...subject.site import Site
from ...subject.trace import Trace
from ..hold import Erase
from .affine import Affine, Edit
from .writers import Writer, beginning, check_sum, mixers, passed, stream

if TYPE_CHECKING:
    from ...subject.subject import Subject


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a writer writes goes through `map`; the constant of `map` is its bias."""

    writer: Writer
    map: Affine

    def weights(self) -> dict[str, int]:
        """Full names of the weights that change, a bias that is yet to be made included, and the axis of the state in each."""
        axes = dict(self.writer.axes) if self.map.rank or self.writer.table else {}
        has_bias = self.writer.has_bias or (self.map.moves and not self.writer.table)
        return axes | ({self.writer.bias: 0} if has_bias else {})


def ablation(subject: Subject, directions: Tensor) -> dict[Site, list[tuple[Edit, Scope]]]:
    """Edits that keep the span of directions (d, k), or of one (d,), out of all that the network reads of its residual stream."""
    basis = orthonormal(finite(directions[:, None] if directions.ndim == 1 else directions, "directions"))
    edit = Erase(basis, basis, basis.new_zeros(len(basis)))
    return {site: [(edit, Scope())] for site in stream(subject)}


def changes(subject: Subject, edits: Mapping[Site, Sequence[tuple[Edit, Scope]]]) -> tuple[Change, ...]:
    """The writers to change so that the network computes what these edits make it compute.

    Raises:
        InputError: weights and biases cannot express them; the sentence says why.
    """
    maps = {site: Affine.of(given, subject.port(site).width, str(site)) for site, given in edits.items()}
    maps = {site: made for site, made in maps.items() if not made.plain}
    if not maps:
        raise InputError("edits: got none that changes a state, wanted at least one addition or ablation")
    seen = passed(subject)
    start, made = _beginning(subject, seen, maps)
    before = maps.get(start, Affine.none(subject.anatomy.widths[0])) if start else Affine.none(subject.anatomy.widths[0])
    for index in range(subject.blocks):
        here = maps.get(Site("resid", index), Affine.none(subject.anatomy.widths[index]))
        if not here.keeps(before):
            raise InputError(
                f"edits at resid:{index}: take out what was written before that block and not taken out there, which no weight "
                "holds; ablate at every site before it as well (`ablation` gives them), or steer with hooks"
            )
        bias = here.constant + here.linear(before.constant) - before.constant
        made += _block(subject, seen, index, maps, Affine(here.write, here.read, bias))
        before = here
    return tuple(made)


def _beginning(subject: Subject, seen: Trace, maps: Mapping[Site, Affine]) -> tuple[Site | None, list[Change]]:
    """Where the stream begins, if an edit stands there, and what it changes."""
    early = [site for site in maps if site.kind in ("embed", "module")]
    if not early:
        return None, []
    start, sources = beginning(subject, seen)
    other = next((site for site in early if site != start), None)
    if other is not None:
        raise InputError(
            f"edits at {other}: weights hold edits of {start}, resid:N, attn:N and mlp:N of this network; choose among them"
        )
    first, *others = sources
    whole = maps[start]
    linear = Affine(whole.write, whole.read, 0 * whole.constant)
    return start, [Change(first, whole), *(Change(source, linear) for source in others if linear.rank)]


def _block(subject: Subject, seen: Trace, index: int, maps: Mapping[Site, Affine], here: Affine) -> list[Change]:
    """What changes in a block whose writes go through the linear part of `here`, with its constant added at the end."""
    own = {site: maps[site] for site in (Site("attn", index), Site("mlp", index)) if site in maps}
    if here.plain and not own:
        return []
    if not here.plain:
        check_sum(subject, seen, index)
    writers = mixers(subject, seen, index)
    *earlier, last = writers
    none, made, end = Affine.none(len(here.constant)), [], here.constant
    for site in earlier:  # what they write is read inside the block as their own edit leaves it, so that is what they must write
        through = own.get(site, none)
        if not here.keeps(through):
            raise InputError(
                f"edits at resid:{index}: take out what {site} writes after the rest of the block has read it, and weights would "
                f"never write it; put the edit at {site} as well (`ablation` does), or steer with hooks"
            )
        end = end + here.linear(through.constant) - through.constant
        made.append(Change(writers[site], through))
    made.append(Change(writers[last], own.get(last, none).then(Affine(here.write, here.read, end))))
    return [change for change in made if not change.map.plain]


def said(subject: Subject, site: Site, given: Sequence[tuple[Edit, Scope]]) -> dict[str, Any]:
    """What the edits at a site do, for the note beside what was exported."""
    made = Affine.of(given, subject.port(site).width, str(site))
    kinds = [type(edit).__name__ for edit, _ in given]
    return {"site": str(site), "edits": kinds, "takes_out": made.rank, "adds": float(made.constant.norm())}


def check_new(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that holds something: files of two exports beside each other would be read as one."""
    place = Path(folder)
    if place.exists() and not (place.is_dir() and next(place.iterdir(), None) is None):
        raise InputError(f"{place}: is there already, wanted a new or an empty folder; choose another place, or remove it first")


@contextmanager
def new_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder`, whole or not at all.

    Raises:
        InputError: it holds something. MissingError: it cannot be made.
    """
    check_new(folder)
    with staged(folder) as temporary:
        yield temporary
