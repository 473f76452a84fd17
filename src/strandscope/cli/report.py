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
@click.option("--format", "kind", type=click.Choice(["svg", "png"]), help="Of the pictures.  [default: svg]")
def report(audit: str, out: str | None, figures: str | None, kind: str | None) -> None:
    """Read the report of AUDIT, an audit's folder or its report.json, and write report.html as this version draws it.

    Nothing is measured. Pictures are drawn by matplotlib, the extra [figures].

    \b
    Examples:
      strandscope report audit
      strandscope report audit/report.json --figures pictures --format png
    """
    if kind is not None and figures is None:
        raise click.BadParameter("goes with --figures; name the folder where the pictures are to be", param_hint="--format")
    from ..report.finding import Report

    read = Report.load(audit)
    if figures is not None:
        drawn = read.figures
        names = _names(list(drawn))
        for one, figure in drawn.items():
            figure.save(Path(figures) / f"{names[one]}.{kind or 'svg'}")
        note(f"{len(names)} pictures are in {figures}")
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
