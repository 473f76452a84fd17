"""A page and a figure for each law, from its entry and its last run.

strandscope law run all --seeds 5 --jobs 2 --out docs/laws.json
python docs/make_laws.py docs/laws.json

Figures are drawn from the first seed's data. Needs the extra [figures].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from strandscope.laws.catalogue.page import markdown
from strandscope.laws.catalogue.registry import ENTRIES

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "laws"
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
        if marker and len(series["x"]) > 60:
            line, marker = "-", ""
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


def main() -> None:
    kept = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    PAGES.mkdir(parents=True, exist_ok=True)
    index = ["# Laws", f"Last run of all: {kept['date'][:10]}, {len({one['seed'] for one in kept['laws']})} seeds.", ""]
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
    (PAGES / "README.md").write_text("\n".join([*index[:2], "", *index[3:], ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
