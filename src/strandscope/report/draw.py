"""A figure's specification as a picture outside the page: SVG and PNG files, and SVG in a notebook. Drawn by matplotlib.

The same data give the same file. Every text stands in the picture as it is: no part of it is taken for mathematics or markup, and
invisible characters are written out. Colours and symbols are those of the page on a light ground.

Needs the extra [figures]; a notebook without it is told so under the figure's caption.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, MissingError
from ..io import atomic
from .text import visible

if TYPE_CHECKING:
    from .page.spec import Axis, Figure, Mark

COLOURS = {
    "first": "#0072b2", "second": "#c75700", "third": "#007f5f", "fourth": "#a8517f", "null": "#6b747d", "predicted": "#16191d",
    "control": "#c75700",
}  # fmt: skip
INK, SHADE, QUIET = "#16191d", "#dfe3e8", "#6b747d"
SYMBOLS = {"first": "o", "second": "s", "third": "^", "fourth": "D", "null": "x", "predicted": "o", "control": "*"}
DASHES: dict[str, Any] = {
    "first": "-", "second": (0, (6, 3)), "third": (0, (2, 3)), "fourth": (0, (8, 3, 2, 3)), "null": (0, (3, 3)), "predicted": "-",
    "control": (0, (4, 4)),
}  # fmt: skip
FEW_DECADES = 2.5  # of a logarithmic axis, below which 2 and 5 are named beside the powers of ten
CROWDED = 12  # categories, from which on their names are turned
LONGEST, LONGEST_NAME = 90, 40  # characters of a title, and of a name on an axis or in the legend
FORMATS = ("svg", "png")
MISSING = "pictures need matplotlib: pip install 'strandscope[figures]'"
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "strandscope",  # the same data give the same file
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.titlesize": 10,
}


@contextmanager
def drawing() -> Iterator[Any]:
    """`matplotlib`, with the settings of all our pictures for the length of the block; nothing of the user's is changed.

    Raises:
        MissingError: it is not installed.
    """
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise MissingError(MISSING) from error
    with matplotlib.rc_context(SETTINGS):
        yield matplotlib


def save(figure: Figure, path: str | Path) -> None:
    """Write a picture, whole or not at all; the name's ending says as what.

    Raises:
        InputError: an ending that is neither .svg nor .png. MissingError: no matplotlib.
    """
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InputError(f"path: got {str(path)!r}, wanted a name that ends in .svg or .png")
    content = _bytes(figure, kind)
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def svg(figure: Figure) -> str:
    """An SVG file as text. Raises MissingError without matplotlib."""
    return _bytes(figure, "svg").decode("utf-8")


def html(figure: Figure) -> str:
    """What a notebook shows: title, caption and the picture, without any script."""
    title, caption = (escape(visible(text)) for text in (figure.title, figure.caption))
    try:
        whole = svg(figure)
        drawn = whole[whole.index("<svg") :]
    except MissingError as error:
        drawn = f"<p><em>{escape(str(error))}</em></p>"
    return f"<figure><figcaption><strong>{title}</strong><br>{caption}</figcaption>{drawn}</figure>"


def _bytes(figure: Figure, kind: str) -> bytes:
    with drawing() as matplotlib:
        canvas = matplotlib.figure.Figure(figsize=(6.8, 4.0), layout="constrained")
        _draw(figure, canvas)
        about = {"Title": visible(figure.title), "Description": visible(figure.caption)}
        file = io.BytesIO()
        with warnings.catch_warnings():
            if kind == "svg":  # whose letters are the reader's
                warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
            canvas.savefig(file, format=kind, dpi=160, metadata=about | ({"Date": None} if kind == "svg" else {}))
    return file.getvalue()


def _draw(figure: Figure, canvas: Any) -> None:
    axes = canvas.subplots()
    logarithmic = figure.y.scale == "log" and any(value > 0 for value in _heights(figure))
    floor = _reach(figure)[0] if logarithmic else -math.inf
    for band in figure.bands:
        axes.axhspan(max(band.low, floor), band.high, color=SHADE, linewidth=0)
    for rule in figure.rules:
        across = axes.axhline if rule.axis == "y" else axes.axvline
        across(rule.at, color=QUIET, linewidth=1, linestyle=(0, (4, 4)))
    for number, mark in enumerate(figure.marks):
        _mark(axes, figure, mark, number, floor)
    _x(axes, figure)
    if logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(*_reach(figure))
        _plain_ticks(axes.yaxis)
    elif figure.y.low is not None and figure.y.high is not None:
        heights = _heights(figure)
        axes.set_ylim(min([figure.y.low, *heights]), max([figure.y.high, *heights]))
    axes.set_title(_word(figure.title), loc="left")
    axes.set_xlabel(_label(figure.x))
    axes.set_ylabel(_label(figure.y))
    axes.grid(axis="y", color=SHADE, linewidth=0.6)
    axes.set_axisbelow(True)
    if len(figure.marks) > 1 or figure.rules or figure.bands:
        _legend(canvas, figure)


def _mark(axes: Any, figure: Figure, mark: Mark, number: int, floor: float) -> None:
    several = figure.x.scale == "category" and len(figure.marks) > 1
    shift = (number - (len(figure.marks) - 1) / 2) * 0.12 if several else 0.0
    x = [place + shift for place in _places(figure.x, mark)]
    y = [math.nan if value is None or value < floor else value for value in mark.y]  # a logarithm has no place for 0
    if mark.low and mark.high:
        ends = [(at, low, high) for at, low, high in zip(x, mark.low, mark.high, strict=True) if low is not None]
        bars = [(at, max(low, floor), high) for at, low, high in ends if high is not None and high > floor]
        if bars:
            axes.vlines(*zip(*bars, strict=True), color=COLOURS[mark.role], linewidth=1.1, clip_on=False)
    lined = mark.shape == "line" or (figure.x.scale == "category" and figure.x.link == "site")
    axes.plot(
        x,
        y,
        color=COLOURS[mark.role],
        linewidth=1.3,
        linestyle=DASHES[mark.role] if lined else "none",
        marker=SYMBOLS[mark.role] if mark.shape == "points" else "",
        markersize=3.6,
        clip_on=False,  # a point may lie on the frame, and none lies beyond it
    )


def _places(axis: Axis, mark: Mark) -> list[float]:
    if axis.scale == "category":
        where = {name: float(place) for place, name in enumerate(axis.categories)}
        return [where[str(name)] for name in mark.x]
    return [float(value) for value in mark.x]


def _x(axes: Any, figure: Figure) -> None:
    axis = figure.x
    if axis.scale == "category":
        names = [_word(name, LONGEST_NAME) for name in axis.categories]
        turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if len(names) > CROWDED else {}
        axes.set_xticks(range(len(names)), names, **turned)
        axes.set_xlim(-0.6, len(names) - 0.4)
    elif axis.scale == "log":
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
    elif axis.low is not None and axis.high is not None:
        places = [place for mark in figure.marks for place in _places(axis, mark)]
        axes.set_xlim(min([axis.low, *places]), max([axis.high, *places]))


def _plain_ticks(axis: Any) -> None:
    from matplotlib import ticker

    low, high = axis.get_view_interval()
    if low > 0 and math.log10(high / low) < FEW_DECADES:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _plain(value)))
    axis.set_minor_formatter(ticker.NullFormatter())


def _plain(value: float) -> str:
    """1000, 0.02, 1e6, 1e-7."""
    return re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].replace('+', '')}{found[2]}", f"{value:g}")


def _legend(canvas: Any, figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[tuple[Any, str]] = []
    for mark in figure.marks:
        points = mark.shape == "points"
        shape: dict[str, Any] = (
            {"linestyle": "none", "marker": SYMBOLS[mark.role]} if points else {"linestyle": DASHES[mark.role]}
        )
        entries.append((Line2D([], [], color=COLOURS[mark.role], markersize=4, **shape), mark.name))
    entries += [(Line2D([], [], color=QUIET, linewidth=1, linestyle=(0, (4, 4))), rule.label) for rule in figure.rules]
    entries += [(Patch(color=SHADE), band.label) for band in figure.bands]
    handles, names = zip(*entries, strict=True)
    names = [_word(name, LONGEST_NAME) for name in names]
    canvas.legend(handles, names, loc="outside lower center", ncols=min(3, len(entries)))


def _label(axis: Axis) -> str:
    return _word(f"{axis.label} ({axis.unit})" if axis.unit else axis.label)


def _word(text: str, most: int = LONGEST) -> str:
    """On one line, as every text in the picture stands, and cut where it would leave no room for the picture."""
    seen = visible(text, lines=False)
    return seen if len(seen) <= most else f"{seen[: most - 1]}…"


def _heights(figure: Figure) -> list[float]:
    """Every y that has to have room: points and the ends of their intervals."""
    held = [value for mark in figure.marks for part in (mark.y, mark.low, mark.high) for value in part]
    return [value for value in held if value is not None]


def _reach(figure: Figure) -> tuple[float, float]:
    """The ends of a logarithmic y, where nothing may be 0."""
    rules = [rule.at for rule in figure.rules if rule.axis == "y"]
    above = [value for value in (*_heights(figure), *rules) if value > 0]
    return min(above) / 1.3, max(above) * 1.3
