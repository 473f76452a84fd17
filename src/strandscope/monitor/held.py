"""What a monitor's strand is found on, and what is kept for its threshold and its recall: three parts that share no group.

A strand that tells a concept from its own negatives need not tell it from everything else; what is far from both can score above
either. So a monitor's strand is found with a share of the benign sequences among its negatives, and the threshold stands on the
others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..capture.examples import Examples
from ..errors import InputError
from ..provenance import numpy_generator
from .rows import Bools, share_between

FITTED = 1 / 6  # of the benign groups
KEPT = 1 / 3  # of the concept's groups


@dataclass(frozen=True, slots=True)
class Parts:
    """Rows to find the strand on, benign ones among them; benign rows for the threshold; the concept's rows for recall."""

    found: Examples
    benign: Examples
    held: Examples


def parts(examples: Examples, benign: Examples, *, kept: float = KEPT, fitted: float = FITTED, seed: int = 0) -> Parts:
    """Divide a concept's rows and benign sequences by whole groups, drawn by the seed.

    Every concept that is divided with the same benign sequences and seed leaves the same ones for the threshold.

    Raises:
        InputError: a concept of more classes than two or of another kind of rows, or groups that would not hold both classes.
    """
    if len(examples.classes) != 2:
        raise InputError(f"{examples.name}: {len(examples.classes)} classes, wanted two; make one class against the rest")
    if examples.kind != benign.kind:
        raise InputError(f"{examples.name}: {examples.kind} rows, and the benign ones are {benign.kind}; give both alike")
    train, held = held_out(examples, kept, seed)
    chosen = drawn_groups(benign, fitted, seed)
    return Parts(beside(train, benign.subset(chosen)), benign.subset(~chosen), held)


def held_out(examples: Examples, share: float = KEPT, seed: int = 0) -> tuple[Examples, Examples]:
    """(rows to find on, rows kept): whole groups, drawn by the seed, about `share` of them kept.

    Raises:
        InputError: the kept groups, or those that are left, would not hold every class.
    """
    kept = drawn_groups(examples, share, seed)
    for part, what in ((kept, "kept"), (~kept, "left")):
        if examples.labelled and len(np.unique(examples.labels[part])) < len(examples.classes):
            raise InputError(
                f"{examples.name}: the groups that are {what} would not hold every class; spread the classes over more "
                "groups, or hold out another share"
            )
    return examples.subset(~kept), examples.subset(kept)


def drawn_groups(examples: Examples, share: float, seed: int) -> Bools:
    """(rows,) True in about `share` of the groups, at least one; drawn by name, so that the kind of rows does not matter."""
    share_between("share", share)
    names = sorted({row.group for row in examples.rows})
    order = numpy_generator(seed, "groups", *names).permutation(len(names))
    first = {names[place] for place in order[: max(1, round(share * len(names)))]}
    codes = examples.groups  # names that share an input are one group
    chosen = np.array([row.group in first for row in examples.rows])
    return np.isin(codes, np.unique(codes[chosen]))


def beside(examples: Examples, benign: Examples) -> Examples:
    """The concept's rows with benign ones among the negatives."""
    rows = [replace(row, group=f"{examples.name}:{row.group}") for row in examples.rows]
    rows += [replace(row, label=0, group=f"benign:{row.group}", id=f"benign:{row.id}") for row in benign.rows]
    return replace(examples, rows=tuple(rows))


def as_chats(examples: Examples) -> Examples:
    """Texts as what a user says; chats as they are."""
    if examples.kind != "text":
        return examples
    rows = tuple(replace(row, input=({"role": "user", "content": str(row.input)},)) for row in examples.rows)
    return replace(examples, rows=rows, kind="chat")
