"""The figure of a law's run in the page's specification, so that one hand draws all."""

from __future__ import annotations

from itertools import pairwise

from ...laws.figure import Figure as LawFigure
from ...laws.figure import Series
from .spec import Axis, Figure, Mark, Role, Rule

MANY = 60  # points of one series that lie in order: from so many on it is a curve
_MEASURED: tuple[Role, ...] = ("first", "second", "third", "fourth")
_ROLES: dict[str, Role] = {"predicted": "predicted", "control": "control", "guide": "null"}


def law_figure(name: str, figure: LawFigure) -> Figure:
    """What was predicted as lines, what was measured as points with their intervals."""
    scale = {axis: figure.scale in ("log", f"log {axis}") for axis in "xy"}
    measured = 0
    marks, rules = [], []
    for series in figure.series:
        if series.kind == "guide" and len(set(series.y)) == 1 and len(series.y) > 1:
            rules.append(Rule(axis="y", at=series.y[0], label=series.name))
            continue
        role = _ROLES.get(series.kind) or _MEASURED[measured % len(_MEASURED)]
        measured += series.kind == "measured"
        marks.append(_mark(series, role))
    return Figure(
        id="-".join(name.split()),
        title=figure.title,
        caption=f"The law “{name}”: what was predicted before, and what was measured.",
        x=Axis(label=figure.x, scale="log" if scale["x"] else "linear"),
        y=Axis(label=figure.y, scale="log" if scale["y"] else "linear"),
        marks=tuple(marks),
        rules=tuple(rules),
        python=f"strandscope.law({name!r}).run(seed=0).figure",
    )


def _mark(series: Series, role: Role) -> Mark:
    ordered = len(series.x) > 1 and all(one <= two for one, two in pairwise(series.x))
    line = ordered and (len(series.x) > MANY or series.kind in ("predicted", "guide"))
    return Mark(
        name=series.name,
        role=role,
        shape="line" if line else "points",
        x=series.x,
        y=series.y,
        low=series.low or (),
        high=series.high or (),
    )
