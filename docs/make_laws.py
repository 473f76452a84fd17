"""A page and a figure for each law, from its entry and its last run.

strandscope law run all --seeds 5 --jobs 2 --out laws.json
python docs/make_laws.py laws.json     takes the figures from a run, then writes what follows
python docs/make_laws.py               writes pages and figures from docs/laws/laws.json

Of the run the verdicts of every seed are kept, and the checks and figures of the first. Needs the extra [figures].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from strandscope.laws.catalogue.page import markdown
from strandscope.laws.catalogue.registry import ENTRIES
from strandscope.laws.figure import Figure, Series
from strandscope.report.page.law import law_figure

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "laws"
DATA = PAGES / "laws.json"


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.casefold()).strip("-")


def drawn(name: str, held: dict[str, Any], path: Path) -> None:
    """The picture of a run's figure."""
    parts = [{key: tuple(one) if isinstance(one, list) else one for key, one in part.items()} for part in held["series"]]
    law_figure(name, Figure(held["title"], held["x"], held["y"], tuple(Series(**part) for part in parts), held["scale"])).save(
        path
    )


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
            drawn(entry.name, ran[0]["figure"], picture)
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
