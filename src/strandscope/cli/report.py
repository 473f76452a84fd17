"""`strandscope report`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from .progress import note


@click.command(short_help="Write the page of an audit again, or its figures as pictures.")
@click.argument("audit", metavar="AUDIT")
@click.option("--out", metavar="FILE", help="Where the page is written.  [default: report.html beside the report]")
@click.option("--figures", metavar="DIR", help="Write every figure there as a picture, and the page only where --out is given.")
@click.option("--format", "kind", type=click.Choice(["svg", "png"]), default="svg", show_default=True, help="Of the pictures.")
def report(audit: str, out: str | None, figures: str | None, kind: str) -> None:
    """Read the report of AUDIT, an audit's folder or its report.json, and write report.html as this version draws it.

    Nothing is measured. Pictures are drawn by matplotlib, the extra [figures].

    \b
    Examples:
      strandscope report audit
      strandscope report audit/report.json --figures pictures --format png
    """
    from ..report.finding import Report

    read = Report.load(audit)
    if figures is not None:
        folder = Path(figures)
        folder.mkdir(parents=True, exist_ok=True)
        names = _names(list(read.figures))
        for figure in read.figures.values():
            figure.save(folder / f"{names[figure.id]}.{kind}")
        note(f"{len(names)} pictures are in {folder}")
    if figures is None or out is not None:
        from ..io import write_text
        from ..report.page.html import html

        beside = Path(audit) if Path(audit).is_dir() else Path(audit).parent
        target = Path(out) if out is not None else beside / "report.html"
        write_text(target, html(read))
        note(f"the page is {target}")


def _names(ids: list[str]) -> dict[str, str]:
    """A file name for each id, all different."""
    made: dict[str, str] = {}
    for one in ids:
        name = plain = re.sub(r"[^\w-]+", "-", one)
        number = 2
        while name in made.values():
            name, number = f"{plain}-{number}", number + 1
        made[one] = name
    return made
