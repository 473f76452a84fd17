"""Draw a run folder: python examples/training/draw.py runs/mlp docs/figures/runs/mlp.svg

Three pairs of axes over the steps: the loss and the accuracy on rows that were not trained on, the share of the response along
the last record's leading directions, the relevant dimension. The data goes beside the picture, as JSON; given such a file in the
place of a run, the picture is drawn from it. Needs the extra [figures].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from strandscope.reading import Reading
from strandscope.recorder.run import Run, read_run

COLOURS = ("#1b4f9c", "#2e8b57", "#8a2c6b", "#c8741a", "#4aa3c7", "#6b6b1b")
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
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "strandscope"  # the same data gives the same file
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    canvas, (top, middle, bottom) = pyplot.subplots(3, 1, figsize=(7.2, 7.4), sharex=True)
    top.plot(*np.array(held["loss"]).T, color="#444444", linewidth=1)
    top.set(yscale="log", ylabel="training loss (nats)")
    right = top.twinx()
    step, value, low, high = np.array(held["accuracy"]).T
    right.plot(step, value, color=COLOURS[3], marker=".", linewidth=1)
    right.fill_between(step, low, high, color=COLOURS[3], alpha=0.2, linewidth=0)
    right.set_ylim(0, 1.02)
    right.set_ylabel("held-out accuracy", color=COLOURS[3])
    for first, _ in held["spikes"]:
        top.axvline(first, color="#b03030", linewidth=0.8, linestyle=":")
    for number, (site, one) in enumerate(held["sites"].items()):
        colour = COLOURS[number % len(COLOURS)]
        for axes, name in ((middle, "alignment"), (bottom, "dimension")):
            if one[name]:
                step, value, low, high = np.array(one[name]).T
                axes.plot(step, value, color=colour, marker=".", linewidth=1, label=site)
                axes.fill_between(step, low, high, color=colour, alpha=0.15, linewidth=0)
        if one["emergence"] is not None:
            when, low, high = one["emergence"]
            height = -0.06 - 0.05 * number
            middle.plot([low, high], [height, height], color=colour, linewidth=1.2, clip_on=False)
            middle.plot([when], [height], color=colour, marker="|", markersize=7, clip_on=False)
    middle.set_ylim(-0.1 - 0.05 * len(held["sites"]), 1)
    middle.set_yticks([0, 0.25, 0.5, 0.75, 1])
    if any(one["emergence"] is not None for one in held["sites"].values()):
        middle.text(0.0, 1.02, "below: steps of emergence, 95 %", transform=middle.transAxes, fontsize=7, color="#555555")
    middle.set(ylabel="share along the\nlast features")
    bottom.set(ylabel="relevant dimension", xlabel="step")
    bottom.set_ylim(0)
    handles, names = middle.get_legend_handles_labels()
    canvas.legend(handles, names, frameon=False, fontsize=8, loc="lower center", ncols=2)
    for axes in (top, middle, bottom, right):
        axes.spines[["top"]].set_visible(False)
    for axes in (middle, bottom):
        axes.spines[["right"]].set_visible(False)
    said = f"{held['records']} records in {held['overhead']:.1%} of the training time ({held['budget']:.0%} allowed)"
    top.set_title(f"{held['model']}, {held['parameters']:,} weights: {said}", fontsize=9)
    canvas.tight_layout(rect=(0, 0.03 + 0.025 * (len(names) // 2), 1, 1))
    canvas.savefig(path, metadata={"Date": None})
    pyplot.close(canvas)


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    held = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else data(read_run(source))
    target.with_suffix(".json").write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    draw(held, target)


if __name__ == "__main__":
    main()
