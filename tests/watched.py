"""What tests of monitors share: strands in a tiny chat network, sequences for it, and our own reading of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pushing import opened, vector
from strandscope.capture.examples import Examples
from strandscope.capture.tokens import tokenise
from strandscope.monitor.monitor import Monitor
from strandscope.reading import Reading
from strandscope.strand.strand import Strand
from strandscope.subject.subject import Subject

LETTERS = list("abcdefgh ")


def strand(
    subject: Subject, name: str = "made up", site: str = "resid:1", seed: int = 1, scale: float = 1.3, low: float = 0.8
) -> Strand:
    """A direction at random; `low` is the lower end of its evidence."""
    basis = vector(seed)
    about = {"positive": "yes", "position": "last", "method": "by hand", "offset": torch.tensor([0.3])}
    evidence = Reading(0.9, low, 0.95, 0.95, 80, "AUROC", None, "given")
    made = {"pattern": scale * basis[:, None], "basis": basis[:, None], "spectrum": torch.ones(1)}
    template = {"format": "text"}
    return Strand(
        name=name,
        site=site,
        evidence=evidence,
        fingerprint=subject.fingerprint,
        template=template,
        **made,
        **about,  # type: ignore[arg-type]
    )


def three(subject: Subject) -> list[Strand]:
    """Two concepts, the first at two sites."""
    return [
        strand(subject, "first", "resid:1", 1),
        strand(subject, "second", "resid:2", 2, scale=0.9),
        strand(subject, "first", "resid:2", 3, scale=2.0),
    ]


def texts(rows: int, seed: int = 0, longest: int = 14, groups: int | None = None) -> Examples:
    """Random letters, four to `longest` of them."""
    draw = np.random.default_rng(seed)
    made = ["x" + "".join(draw.choice(LETTERS, size=int(draw.integers(2, longest)))) + "z" for _ in range(rows)]
    return Examples.from_rows(
        [{"text": f"{text}{i % 10}{i // 10}", "group": f"g{i % (groups or rows)}"} for i, text in enumerate(made)],
        f"texts {seed}",
    )


def states_of(subject: Subject, ids: Sequence[int]) -> dict[int, Tensor]:
    """Outputs (tokens, d) of every block, float64, of one row by itself, by hooks of our own."""
    found: dict[int, Tensor] = {}
    blocks = subject.module.get_submodule("model.layers")
    handles = [
        block.register_forward_hook(
            lambda _m, _a, output, number=number: found.update(
                {number: (output[0] if isinstance(output, tuple) else output)[0].double()}
            )
        )
        for number, block in enumerate(blocks.children())
    ]
    with torch.no_grad():
        subject.module(input_ids=torch.tensor([list(ids)]), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def own_scores(subject: Subject, strands: Sequence[Strand], concept: str, ids: Sequence[int]) -> NDArray[np.float64]:
    """(tokens,) mean over the concept's strands of (basis·h − offset)/(scale/2)."""
    states = states_of(subject, ids)
    read = [
        (states[int(one.site.partition(":")[2])] @ one.basis[:, 0].double() - float(one.offset[0])) / (float(one.scale[0]) / 2)
        for one in strands
        if one.name == concept
    ]
    return torch.stack(read).mean(0).numpy()


def together(scores: NDArray[np.float64], how: str) -> float:
    """Scores of tokens as one, written out."""
    if how == "last":
        return float(scores[-1])
    if how == "mean":
        return float(scores.mean())
    if how == "max":
        return float(scores.max())
    if how == "window(3)":
        means = [scores[at : at + 3].mean() for at in range(max(1, len(scores) - 2))]
        return float(max(means))
    assert how == "ema(0.5)"
    now, best = scores[0], scores[0]
    for score in scores[1:]:
        now = 0.5 * now + 0.5 * score
        best = max(best, now)
    return float(best)


def ids_of(subject: Subject, examples: Examples) -> tuple[tuple[int, ...], ...]:
    return tokenise(subject, examples).ids


def labelled(rows: int, seed: int, high: str = "yes", groups: int = 20) -> Examples:
    """Random letters; labels to be given by who uses them."""
    plain = texts(rows, seed)
    return Examples.from_rows(
        [{"text": row.input, "label": ["no", high][i % 2], "group": f"g{i % groups}"} for i, row in enumerate(plain.rows)], "held"
    )


def at(monitor: Monitor, *thresholds: float) -> Monitor:
    """The same monitor with thresholds of our own."""
    levels = np.array(thresholds) - monitor.threshold.value
    return replace(monitor, centres=levels, spreads=np.ones(len(levels)))


def open_tiny(folder: Path) -> Subject:
    return opened(folder)
