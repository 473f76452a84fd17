"""A page and a figure for each law, from its entry and its last run.

strandscope law run all --seeds 5 --jobs 2 --out laws.json
python docs/make_laws.py laws.json     takes the figures from a run, then writes what follows
python docs/make_laws.py               writes pages and figures from docs/laws/laws.json

Of the run the verdicts of every seed are kept, and the checks and figures of the first. Needs the extra [figures].
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from strandscope.laws.catalogue.page import markdown
from strandscope.laws.catalogue.registry import ENTRIES

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "laws"
DATA = PAGES / "laws.json"
LOOKS = {  # by kind: colour, line, marker
    "measured": ("#1b4f9c", "", "o"),
    "predicted": ("#111111", "-", ""),
    "control": ("#c8741a", "", "s"),
    "guide": ("#9a9a9a", "--", ""),
}
SHADES = ("#1b4f9c", "#2e8b57", "#8a2c6b", "#4aa3c7", "#6b6b1b")  # of several measured series


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.casefold()).strip("-")


def draw(figure: dict[str, Any], path: Path) -> None:
    """One pair of axes: what was predicted as lines, what was measured as points with their intervals."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "strandscope"  # the same data gives the same file
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    canvas, axes = pyplot.subplots(figsize=(6.4, 3.8))
    measured = 0
    for series in figure["series"]:
        colour, line, marker = LOOKS[series["kind"]]
        if series["kind"] == "measured":
            colour, measured = SHADES[measured % len(SHADES)], measured + 1
        if marker and len(series["x"]) > 60 and all(one <= two for one, two in pairwise(series["x"])):
            line, marker = "-", ""  # so many in order are a curve
        if not marker and len(series["x"]) == 1:
            marker = "D"  # a line of one point is none
        style = {"color": colour, "linestyle": line or "none", "marker": marker, "markersize": 3.5, "label": series["name"]}
        if series["low"] is None:
            axes.plot(series["x"], series["y"], linewidth=1.2, **style)
        else:
            reach = [[y - low for y, low in zip(series["y"], series["low"], strict=True)],
                     [high - y for y, high in zip(series["y"], series["high"], strict=True)]]  # fmt: skip
            axes.errorbar(series["x"], series["y"], reach, linewidth=0.9, capsize=2, **style)
    if figure["scale"] in ("log x", "log"):
        axes.set_xscale("log")
    if figure["scale"] in ("log y", "log"):
        axes.set_yscale("log")
    axes.set(xlabel=figure["x"], ylabel=figure["y"])
    axes.set_title(figure["title"], fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    canvas.tight_layout()
    canvas.savefig(path, metadata={"Date": None})
    pyplot.close(canvas)


def taken(run: dict[str, Any]) -> dict[str, Any]:
    """What the pages show, out of laws.json."""
    first = run["laws"][0]["seed"]
    for one in run["laws"]:
        one["details"] = {}
        if one["seed"] != first:
            one |= {"checks": [], "figure": None, "negative_control": one["negative_control"] | {"checks": []}}
    return run


def main() -> None:
    PAGES.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 1:
        run = taken(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
        DATA.write_text(json.dumps(run, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    kept = json.loads(DATA.read_text(encoding="utf-8"))
    index = ["# Laws", "", f"Last run of all: {kept['date'][:10]}, {len({one['seed'] for one in kept['laws']})} seeds.", ""]
    index += ["| law | formula | last run | negative control |", "|---|---|---|---|"]
    for entry in ENTRIES:
        ran = [one for one in kept["laws"] if one["name"] == entry.name]
        picture = PAGES / f"{slug(entry.name)}.svg"
        if ran and ran[0]["figure"] is not None:
            draw(ran[0]["figure"], picture)
        page = markdown(entry, ran, picture.name if picture.exists() else None)
        (PAGES / f"{slug(entry.name)}.md").write_text(page, encoding="utf-8")
        held = sum(one["verdict"] == "consistent" for one in ran)
        failed = sum(one["negative_control"]["verdict"] == "passed" for one in ran)
        formula = f"`{entry.law.formula}`".replace("|", "\\|")
        told = (f"consistent {held} of {len(ran)}", f"as stated {failed} of {len(ran)}")
        cells = (f"[{entry.name}]({slug(entry.name)}.md)", formula, *told)
        index.append("| " + " | ".join(cells) + " |")
    (PAGES / "README.md").write_text("\n".join([*index, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
