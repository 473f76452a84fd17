"""The window of use of a push: the least dose with an effect, and the greatest one within the budget of cost.

Over a grid of doses in nats, each with the moves of texts along the push and along random directions of the same nats, and what
the dose does to neutral passages. Both ends are chosen on one half: the least dose whose effect beyond random directions has an
interval above 0 on half of the topics, the greatest one whose perplexity, with the upper end of its interval, stays within the
budget on half of the kinds of passages, and so do all smaller ones. The readings are those of the other halves. There is a window
where the least dose is not above the greatest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..provenance import numpy_generator
from ..reading import Reading
from ..statistics.effect import beyond, move_reading
from .cost import as_factor
from .readers import UNIT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Verdict = Literal[
    "a window", "no window: the effect costs more than the budget", "no effect at any dose", "no dose within budget"
]

BUDGET = 1.5  # times the plain perplexity of neutral passages


@dataclass(frozen=True, slots=True)
class Point:
    """One dose: moves of scores (prompts,), those along random directions (directions, prompts), and the rise of the
    cross-entropy of passages (passages,) in nats per token."""

    nats: float
    moves: Floats
    others: Floats
    rises: Floats


@dataclass(frozen=True, slots=True)
class Step:
    """What a dose did on the rows that chose nothing."""

    nats: float
    beyond: Reading
    perplexity: Reading


@dataclass(frozen=True, slots=True)
class Window:
    """`least` and `greatest` in nats per next token, None where there is none; `curve` holds every dose's readings on the halves
    that did not choose, and `at_least`, `at_greatest` those of the two ends."""

    reader: str
    verdict: Verdict
    budget: float
    least: float | None
    greatest: float | None
    at_least: Step | None
    at_greatest: Step | None
    curve: tuple[Step, ...]


def window(
    points: Sequence[Point], topics: Ints, kinds: Ints, reader: str = "states", budget: float = BUDGET, seed: int = 0
) -> Window:
    """From points of rising doses, all of the same prompts (topics) and passages (kinds of writing).

    Raises:
        InputError: no points, doses that do not rise, or fewer than 4 topics or kinds.
    """
    doses = [point.nats for point in points]
    if not doses or doses != sorted(set(doses)):
        raise InputError(f"doses: got {doses}, wanted one or more that rise")
    if budget <= 1:
        raise InputError(f"budget: got {budget:g}, wanted a factor above 1 on the plain perplexity")
    choosing, chosen_by = half(topics, seed), half(kinds, seed)
    tried = [_step(point, topics, kinds, choosing, chosen_by) for point in points]
    curve = tuple(_step(point, topics, kinds, ~choosing, ~chosen_by) for point in points)
    with_effect = [n for n, step in enumerate(tried) if step.beyond.low is not None and step.beyond.low > 0]
    over = [n for n, step in enumerate(tried) if step.perplexity.high is None or step.perplexity.high > budget]
    least = with_effect[0] if with_effect else None
    greatest = (over[0] if over else len(points)) - 1
    verdict: Verdict = (
        "no effect at any dose"
        if least is None
        else "no dose within budget"
        if greatest < 0
        else "a window"
        if least <= greatest
        else "no window: the effect costs more than the budget"
    )
    return Window(
        reader,
        verdict,
        budget,
        None if least is None else doses[least],
        None if greatest < 0 else doses[greatest],
        None if least is None else curve[least],
        None if greatest < 0 else curve[greatest],
        curve,
    )


def half(groups: Ints, seed: int) -> NDArray[np.bool_]:
    """Which rows are in the half of the groups that chooses."""
    names = np.unique(groups)
    if len(names) < 4:
        raise InputError(f"groups: got {len(names)}, wanted at least 4, to choose on half and report on the other")
    chosen = numpy_generator(seed, "half that chooses").permutation(names)[: len(names) // 2]
    return np.isin(groups, chosen)


def _step(point: Point, topics: Ints, kinds: Ints, rows: NDArray[np.bool_], passages: NDArray[np.bool_]) -> Step:
    method = f"move at {point.nats:g} nats"
    found = beyond(point.moves[rows], point.others[:, rows], topics[rows], UNIT, method)
    how = f"cross-entropy of neutral passages at {point.nats:g} nats, edited less plain"
    rise = move_reading(point.rises[passages], kinds[passages], "nats per token", how)
    return Step(point.nats, found, as_factor(rise))
