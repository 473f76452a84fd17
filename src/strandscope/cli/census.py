"""`strandscope census`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from . import options
from .progress import note, progress


@click.command(short_help="Count the directions a network's output answers to, beside twins that learned nothing.")
@options.model
@click.option("--texts", metavar="FILE", help="A .jsonl, .csv or .txt file (a text a line); the project's passages otherwise.")
@click.option("--contexts", type=click.IntRange(min=8), metavar="N", help="At most so many texts.  [default: 100]")
@click.option(
    "--sites", default="resid:*", show_default=True, metavar="SITES", help="resid:12, resid:8-20, attn:*, mlp:*, embed, …"
)
@click.option("--draws", type=click.IntRange(min=16), metavar="K", help="Of the response, at a context.  [default: 64]")
@click.option("--probes", type=click.IntRange(min=16), metavar="K", help="Of the Jacobian, at a context.  [default: 64]")
@click.option("--seeds", type=click.IntRange(min=1), metavar="S", help="Twins of each kind, random and scrambled.  [default: 3]")
@click.option("--whole", is_flag=True, help="Measure at each text's end; otherwise each is cut at a place drawn for it.")
@click.option("--quick", is_flag=True, help="24 contexts, at most 7 sites and one twin of each kind, unless said otherwise.")
@click.option("--out", default="census", show_default=True, metavar="DIR", help="Where census.json and census.md are written.")
@options.seed
@options.as_json
@options.opening_in("float32")
def census(
    model: str,
    texts: str | None,
    contexts: int | None,
    sites: str,
    draws: int | None,
    probes: int | None,
    seeds: int | None,
    whole: bool,
    quick: bool,
    out: str,
    seed: int,
    as_json: bool,
    **opening: Any,
) -> None:
    """How many directions MODEL's output answers to at every site, and whether that is fewer, as many or more than in twins of
    its shape that learned nothing.

    Writes census.json and census.md to --out and prints a table. Interrupted and started again with the same --out, it goes
    on where it was.

    \b
    Examples:
      strandscope census smollm2
      strandscope census smollm2 --quick --out census-quick
      strandscope census ./my-model --texts mine.txt --sites resid:8-20 --seeds 5
    """
    from ..io import check_writable

    check_writable(Path(out) / "census.json")
    from ..census.contexts import read_texts

    rows = None if texts is None else read_texts(texts)  # so that a bad file is told before the model is opened
    del rows
    subject = options.open_subject(model, **opening)
    from ..census.census import census as run
    from ..report.census import as_json as plain
    from ..report.census import census_entry, write
    from ..report.census_page import lines

    with progress() as report:
        done = run(
            subject,
            texts,
            contexts=contexts,
            at=sites,
            draws=draws,
            probes=probes,
            seeds=seeds,
            cut=not whole,
            quick=quick,
            seed=seed,
            out=out,
            progress=report,
        )
    settings = {
        "--texts": texts,
        "--contexts": contexts,
        "--sites": sites,
        "--draws": draws,
        "--probes": probes,
        "--seeds": seeds,
    }
    entry = census_entry(done, _command(model, settings, whole, quick, out, seed, opening))
    write(entry, out)
    if as_json:
        options.write_json(plain(entry))
    else:
        click.echo("\n".join(lines(entry)))
    note(f"\ncensus.json and census.md are in {out}")


def _command(model: str, settings: dict[str, Any], whole: bool, quick: bool, out: str, seed: int, opening: dict[str, Any]) -> str:
    """The command that gives this census again."""
    words = ["strandscope", "census", model]
    words += [word for name, value in settings.items() if value is not None for word in (name, str(value))]
    words += ["--whole"] * whole + ["--quick"] * quick + ["--out", out, "--seed", str(seed)]
    return shlex.join([*words, *options.opening_words(opening, "float32")])
