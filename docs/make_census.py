"""The one figure and the small table of the README, from a census of the embedded model.

python docs/make_census.py census/census.json   takes the figures from a census, then writes what follows
python docs/make_census.py                      writes figure and table from docs/figures/alignment-excess.json

The data of the figure is kept beside it, so that either can be checked against the other. Needs the extra [figures].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from strandscope.report.draw import drawing

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "figures" / "alignment-excess.json"
FIGURE = DATA.with_suffix(".svg")
README = ROOT / "README.md"
BEGIN, END = "<!-- census: begin -->", "<!-- census: end -->"
KINDS = ("random", "scrambled")
ROWS = 7  # sites in the table
COLOURS = {"trained": "#1b4f9c", "random": "#9a9a9a", "scrambled": "#c8741a"}
_SHORT = {"fewer than the twin": "fewer", "as the twin": "as", "more than the twin": "more", "cannot tell": "?"}


def taken(census: dict[str, Any]) -> dict[str, Any]:
    """What the figure and the table show, out of census.json."""
    sites = []
    for site in census["sites"]:
        held = {one["id"]: one for one in site["quantities"]}
        entry: dict[str, Any] = {"site": site["site"], "contexts": site["contexts"]}
        for name in ("excess", "local", "contraction"):
            quantity = held[name]
            entry[name] = {"trained": _figures(quantity["reading"])}
            for one in quantity["against"]:
                entry[name][one["kind"]] = _figures(one["reading"]) | {"verdict": one["verdict"], "ratio": _figures(one["ratio"])}
        sites.append(entry)
    about = {
        name: census[name] for name in ("subject", "fingerprint", "contexts", "draws", "probes", "twins", "level", "date", "seed")
    }
    return about | {"strandscope": census["versions"]["strandscope"], "sites": sites}


def _figures(reading: dict[str, Any]) -> dict[str, Any]:
    return {name: None if reading[name] is None else float(f"{reading[name]:.4g}") for name in ("value", "low", "high")}


def figure(data: dict[str, Any]) -> None:
    """Alignment excess by site: the trained network with its interval, its twins beside it."""
    with drawing() as matplotlib:
        canvas = matplotlib.figure.Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = canvas.subplots()
        places = range(len(data["sites"]))
        for name in ("random", "scrambled", "trained"):
            points = [site["excess"].get(name) for site in data["sites"]]
            if any(point is None or point["value"] is None for point in points):
                points = [
                    point if point and point["value"] is not None else dict.fromkeys(("value", "low", "high"), float("nan"))
                    for point in points
                ]
            value, low, high = ([point[key] for point in points] for key in ("value", "low", "high"))
            axes.fill_between(places, low, high, color=COLOURS[name], alpha=0.22, linewidth=0)
            axes.plot(
                places,
                value,
                color=COLOURS[name],
                marker="o" if name == "trained" else None,
                markersize=3.5,
                label=_label(name, data),
            )
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(list(places)[:: max(1, len(data["sites"]) // 10)])
        axes.set_xticklabels([data["sites"][place]["site"].removeprefix("resid:") for place in axes.get_xticks()])
        axes.set_xlabel("output of block")
        axes.set_ylabel("alignment excess")
        axes.legend(loc="upper left")
        canvas.savefig(FIGURE, metadata={"Date": None})


def _label(name: str, data: dict[str, Any]) -> str:
    return "trained" if name == "trained" else f"{data['twins']} {'random' if name == 'random' else 'scrambled'} twins"


def table(data: dict[str, Any]) -> str:
    """A few sites, evenly spread: excess of the network and of its twins, with the verdicts."""
    sites = data["sites"]
    chosen = [sites[round(number * (len(sites) - 1) / (ROWS - 1))] for number in range(ROWS)] if len(sites) > ROWS else sites
    head = "| site | alignment excess | random twins | scrambled twins | against them |\n|---|---|---|---|---|"
    rows = [
        f"| {site['site']} | {_shown(excess['trained'])} | {_shown(excess.get('random'))} | {_shown(excess.get('scrambled'))} | "
        f"{' / '.join(_SHORT.get(excess[kind]['verdict'], excess[kind]['verdict']) for kind in KINDS if kind in excess)} |"
        for site in chosen
        for excess in (site["excess"],)
    ]
    return "\n".join([head, *rows])


def _shown(point: dict[str, Any] | None) -> str:
    if point is None or point["value"] is None:
        return "not measured"
    return f"{point['value']:.2f} [{point['low']:.2f}, {point['high']:.2f}]"


def into_readme(text: str) -> bool:
    """Put the table between its markers; False where the README has none."""
    page = README.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return False
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return True


if __name__ == "__main__":
    if len(sys.argv) > 1:
        made = taken(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
        DATA.parent.mkdir(exist_ok=True)
        DATA.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    held = json.loads(DATA.read_text(encoding="utf-8"))
    figure(held)
    if not into_readme(table(held)):
        sys.stdout.write(table(held) + "\n")
