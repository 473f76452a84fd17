"""The figure of context and counting in the README, from a study of the embedded model.

python docs/make_context.py context/context.json   takes the figures from a study, then draws what follows
python docs/make_context.py                        draws docs/figures/context.svg from docs/figures/context.json

The data of the figure is kept beside it, so that either can be checked against the other. Needs the extra [figures].
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from strandscope.report.draw import drawing

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "figures" / "context.json"
FIGURE = DATA.with_suffix(".svg")
COLOURS = {"standard library": "#1b4f9c", "own sources": "#c8741a", "own passages": "#3d8b5f"}
NAMES = {"standard library": "Python's library", "own sources": "Strandscope's sources", "own passages": "short prose"}


def figure(data: dict[str, Any]) -> None:
    """Left: loss against context, network and counts, on text that it has probably read. Right: gain of each doubling."""
    with drawing() as matplotlib:
        canvas = matplotlib.figure.Figure(figsize=(9.2, 3.6), layout="constrained")
        left, right = canvas.subplots(1, 2, width_ratios=(1.25, 1))
        for curve in data["curves"]:
            colour, name = COLOURS.get(curve["name"], "#555555"), NAMES.get(curve["name"], curve["name"])
            k = [point["k"] for point in curve["points"]]
            _line(left, k, [point["loss"] for point in curve["points"]], colour, name)
            counted = [row for row in curve["counting"] if row["order"] and row["order"] > 1]
            _line(left, [row["order"] - 1 for row in counted], [row["loss"] for row in counted], colour, None, ":")
            gains = [(point["k"], point["gain"]) for point in curve["points"] if point["gain"]["value"] is not None]
            gains = [(at, gain) for at, gain in gains if at >= 4]
            _bars(right, [at for at, _ in gains], [gain for _, gain in gains], colour)
        left.plot([], [], color="#555555", linestyle=":", label="counted, n − 1 tokens")
        left.set_ylabel("loss (nats per token)")
        left.legend()
        right.axhline(0, color="black", linewidth=0.8)
        right.set_ylabel("gain of the doubling (nats)")
        longest = max(point["k"] for curve in data["curves"] for point in curve["points"])
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xticks([2**power for power in range(0 if axes is left else 2, longest.bit_length())])
            axes.tick_params(labelsize=8)
            axes.set_xlabel("context (tokens)")
        canvas.savefig(FIGURE, metadata={"Date": None})


def _line(axes: Any, x: list[int], found: list[dict[str, Any]], colour: str, name: str | None, style: str = "-") -> None:
    value, low, high = ([one[end] for one in found] for end in ("value", "low", "high"))
    if style == "-":
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, value, color=colour, linestyle=style, marker="o", markersize=3, label=name)


def _bars(axes: Any, x: list[int], found: list[dict[str, Any]], colour: str) -> None:
    value = [one["value"] for one in found]
    ends = [[one["value"] - one["low"] for one in found], [one["high"] - one["value"] for one in found]]
    shift = {"#1b4f9c": 0.94, "#c8741a": 1.0, "#3d8b5f": 1.06}.get(colour, 1.0)  # so that intervals do not hide each other
    axes.errorbar([at * shift for at in x], value, yerr=ends, color=colour, marker="o", markersize=3, linewidth=1, capsize=2)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        DATA.parent.mkdir(exist_ok=True)
        shutil.copyfile(sys.argv[1], DATA)
    figure(json.loads(DATA.read_text(encoding="utf-8")))
