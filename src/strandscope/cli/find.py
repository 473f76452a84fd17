"""`strandscope find`."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .progress import note, progress


@click.command(short_help="Find where and how one concept can be read.")
@options.model
@click.option("--concept", required=True, metavar="NAME|FILE", help="A pack's name or a .jsonl or .csv file.")
@click.option("--at", default="resid:*", show_default=True, metavar="SITES", help="resid:12, resid:8-20, attn:*, mlp:*, embed, …")
@click.option(
    "--position", type=click.Choice(["last", "mean"]), default="last", show_default=True, help="Which token of a row is read."
)
@click.option("--logistic", is_flag=True, help="Let logistic regression compete too (its permutations are refits, and slow).")
@click.option(
    "--rfm", is_flag=True, help="Let recursive feature machines compete too (their permutations are refits, and slower)."
)
@click.option(
    "--permutations", type=click.IntRange(min=0), default=200, show_default=True, help="At least 19; with 0 nothing is tested."
)
@options.seed
@click.option("--out", metavar="FILE", help="Save the best site's strand as FILE (.safetensors).")
@options.as_json
@options.opening
def find(
    model: str,
    concept: str,
    at: str,
    position: str,
    logistic: bool,
    rfm: bool,
    permutations: int,
    seed: int,
    out: str | None,
    as_json: bool,
    **opening: Any,
) -> None:
    """Where and how a concept can be read in MODEL: a line for each site, and the strand of the best one.

    \b
    Examples:
      strandscope find --concept harm --out harm.safetensors
      strandscope find smollm2 --concept mine.jsonl --at resid:8-20 --json
    """
    from ..io import check_writable
    from ..report.asked import checked

    (asked,) = checked([concept])
    if out is not None:
        if not out.endswith(".safetensors"):
            raise click.BadParameter(f"got {out!r}, wanted a file name that ends in .safetensors", param_hint="--out")
        check_writable(out)
    from ..strand.find import check_permutations
    from ..strand.find import find as search

    check_permutations(permutations)
    subject = options.open_subject(model, **opening)
    from ..capture.record import capture
    from ..report import entries
    from ..report.finding import as_json as plain

    with progress() as report:
        states = capture(subject, asked.examples, at, position, progress=lambda done, of: report("states", done, of))  # type: ignore[arg-type]
        found = search(states, logistic=logistic, rfm=rfm, permutations=permutations, seed=seed, progress=report)
    measured = entries.measured(found, asked)
    if as_json:
        made = plain(measured)
        options.write_json({"verdict": found.verdict, **made, "strand": made["strand"] | {"file": out}})
    else:
        _show(found, measured, str(asked.examples))
    if out is not None:
        found.best.save(out)
        note(f"saved {out}")


def _show(found: Any, measured: Any, rows: str) -> None:
    from ..report.text import curve_lines, visible

    click.echo(visible(rows))
    click.echo(visible(str(found)))
    for line in curve_lines(measured.curve):
        click.echo(line)
    click.echo(f"bag of words   {found.words}")
    click.echo(f"beyond words   {found.beyond_words}")
    click.echo(f"beyond length  {found.beyond_length}")
    click.echo(f"detectable     {found.detectable}")
    click.echo(f"needed for 15° {found.examples_needed}")
    click.echo(f"strand         {visible(str(found.best))}")
