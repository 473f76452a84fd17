"""Draw a run folder: python examples/training/draw.py runs/mlp docs/figures/runs/mlp.svg

Four panels over the steps: the loss (200 points, each the median of as many steps), the accuracy on rows that were not trained
on, the share of the response along the last record's leading directions beside that along random ones, the relevant dimension.
The data goes beside the picture, as JSON; given such a file in the place of a run, the picture is drawn from it. Needs the
extra [figures].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from strandscope.reading import Reading
from strandscope.recorder.run import Run, read_run
from strandscope.report.draw import drawing

COLOURS = ("#1b4f9c", "#2e8b57", "#8a2c6b", "#c8741a", "#4aa3c7", "#6b6b1b")
GREY = "#444444"
POINTS = 200  # of the loss, each the median of as many steps


def data(run: Run) -> dict[str, Any]:
    """What the figure shows, rounded to four digits."""
    steps, losses = (np.array(part, dtype=float) for part in zip(*run.losses, strict=True))
    parts = [part for part in np.array_split(np.arange(len(steps)), min(POINTS, len(steps))) if len(part)]
    sites = {}
    for site in run.sites:
        emerged = run.emergence(site)
        sites[site] = {
            "alignment": _points(run, run.alignment(site)),
            "dimension": _points(run, run.series(f"{site}/dimension")),
            "emergence": None if emerged.value is None else _figures(emerged),
            "chance": next((round(one.null.value, 4) for one in run.alignment(site) if one is not None and one.null), None),
        }
    return {
        "model": run.about["model"],
        "parameters": run.about["parameters"],
        "budget": run.about["budget"],
        "overhead": _figures(run.overhead)[0],
        "records": len(run.records),
        "loss": [[float(np.median(steps[part])), _round(float(np.median(losses[part])))] for part in parts],
        "accuracy": _points(run, run.series("accuracy")),
        "spikes": [[moved.spike.first, _round(moved.spike.height)] for moved in run.spikes()],
        "sites": sites,
    }


def _points(run: Run, readings: list[Reading | None]) -> list[list[float]]:
    """(step, value, low, high) where it was measured."""
    pairs = zip(run.steps, readings, strict=True)
    return [[step, *_figures(one)] for step, one in pairs if one is not None and one.value is not None]


def _figures(one: Reading) -> list[float]:
    return [_round(figure) for figure in (one.value, one.low, one.high) if figure is not None]


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def draw(held: dict[str, Any], path: Path) -> None:
    with drawing() as matplotlib:
        canvas = matplotlib.figure.Figure(figsize=(7.2, 8.4))
        panels = canvas.subplots(4, 1, sharex=True, height_ratios=(2, 2, 3, 3))
        loss, accuracy, share, dimension = panels
        loss.plot(*np.array(held["loss"]).T, color=GREY, linewidth=1)
        loss.set(yscale="log", ylabel="training loss\n(nats)")
        loss.yaxis.set_major_formatter("{x:g}")
        for first, _ in held["spikes"]:
            loss.axvline(first, color="#b03030", linewidth=0.8, linestyle=":")
        if held["spikes"]:
            loss.text(1.0, 1.02, "dotted: a spike begins", transform=loss.transAxes, fontsize=7, color="#b03030", ha="right")
        _line(accuracy, held["accuracy"], GREY)
        accuracy.set(ylabel="held-out\naccuracy", ylim=(0, 1.02))
        sites = held["sites"]
        for number, (site, one) in enumerate(sites.items()):
            colour = COLOURS[number % len(COLOURS)]
            _line(share, one["alignment"], colour, site)
            _line(dimension, one["dimension"], colour, site)
            if one["chance"] is not None:
                share.axhline(one["chance"], color=colour, linewidth=0.8, linestyle=":")
            if one["emergence"] is not None:
                when, low, high = one["emergence"]
                height = -0.06 - 0.05 * number
                share.plot([low, high], [height, height], color=colour, linewidth=1.2, clip_on=False)
                share.plot([when], [height], color=colour, marker="|", markersize=7, clip_on=False)
        share.set_ylim(-0.1 - 0.05 * len(sites), 1)
        share.set_yticks([0, 0.25, 0.5, 0.75, 1])
        notes = ["dotted: random directions"] if any(one["chance"] is not None for one in sites.values()) else []
        notes += ["below: steps of emergence, 95 %"] if any(one["emergence"] is not None for one in sites.values()) else []
        share.text(0.0, 1.02, "; ".join(notes), transform=share.transAxes, fontsize=7, color="#555555")
        share.set(ylabel="share along the\nlast features")
        dimension.set(ylabel="relevant dimension", xlabel="step")
        dimension.set_ylim(0)
        handles, names = share.get_legend_handles_labels()
        canvas.legend(handles, names, loc="lower center", ncols=2)
        said = f"{held['records']} records in {held['overhead']:.1%} of the training time ({held['budget']:.0%} allowed)"
        loss.set_title(f"{held['model']}, {held['parameters']:,} weights: {said}", fontsize=9, pad=12)
        canvas.tight_layout(rect=(0, 0.03 + 0.025 * (len(names) // 2), 1, 1))
        canvas.savefig(path, metadata={"Date": None})


def _line(axes: Any, points: list[list[float]], colour: str, name: str | None = None) -> None:
    """(step, value, low, high) as a line in a band."""
    if points:
        step, value, low, high = np.array(points).T
        axes.plot(step, value, color=colour, marker=".", linewidth=1, label=name)
        axes.fill_between(step, low, high, color=colour, alpha=0.15, linewidth=0)


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    held = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else data(read_run(source))
    target.with_suffix(".json").write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    draw(held, target)


if __name__ == "__main__":
    main()
