"""`strandscope erase`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from . import options
from .progress import note, progress


@click.command(short_help="Erase a concept at a site, and certify what is still read.")
@click.argument("words", nargs=-1, metavar="[MODEL] CONCEPT|FILE")
@click.option("--site", required=True, metavar="SITE", help="Where it is erased: resid:20, attn:12, …")
@click.option(
    "--position", type=click.Choice(["last", "mean"]), default="last", show_default=True, help="Which token of a row is read."
)
@click.option("--plain", is_flag=True, help="Plain LEACE, without the columns that few rows call for.")
@click.option(
    "--permutations", type=click.IntRange(min=1), default=19, show_default=True, help="Of the labels, for each line's null."
)
@click.option("--prompts", type=click.IntRange(min=2), default=48, show_default=True, help="Neutral prompts for the cost.")
@click.option("--texts", type=click.IntRange(min=8), default=16, show_default=True, help="Neutral passages for the loss.")
@click.option("--out", metavar="FILE", help="Save the eraser as FILE (.safetensors), and its certificate beside it (.json).")
@options.seed
@options.as_json
@options.opening
def erase(
    words: tuple[str, ...],
    site: str,
    position: Literal["last", "mean"],
    plain: bool,
    permutations: int,
    prompts: int,
    texts: int,
    out: str | None,
    seed: int,
    as_json: bool,
    **opening: Any,
) -> None:
    """Erase CONCEPT (a pack's name, or a .jsonl or .csv file) from MODEL at a site, with a certificate: what probes of five kinds
    still read there and one and two blocks later, on groups that the eraser has not seen, and what the erasure costs.

    \b
    Examples:
      strandscope erase sentiment --site resid:20 --out sentiment.safetensors
      strandscope erase ./my-model mine.jsonl --site resid:8 --json
    """
    if len(words) not in (1, 2):
        raise click.UsageError(f"got {len(words)} arguments, wanted [MODEL] CONCEPT|FILE; erase one concept at a time")
    model, concept = words if len(words) == 2 else ("smollm2", words[0])
    from ..io import check_writable, write_json
    from ..report.asked import checked
    from ..subject.site import Site

    where = Site.parse(site)
    (asked,) = checked([concept])
    if out is not None:
        if not out.endswith(".safetensors"):
            raise click.BadParameter(f"got {out!r}, wanted a file name that ends in .safetensors", param_hint="--out")
        check_writable(out)
        check_writable(Path(out).with_suffix(".json"))
    subject = options.open_subject(model, **opening)
    subject.port(where)
    from ..control.erase import certify
    from ..report.erasure import erasure_entry, lines
    from ..report.record import as_json as as_plain

    with progress() as report:
        made = certify(
            subject,
            asked.examples,
            where,
            position=position,
            shrinkages=() if plain else None,
            permutations=permutations,
            prompts=prompts,
            texts=texts,
            seed=seed,
            progress=report,
        )
    entry = erasure_entry(made, "" if out is None else Path(out).name)
    if out is not None:
        made.eraser.save(out)
        write_json(Path(out).with_suffix(".json"), as_plain(entry))
    if as_json:
        options.write_json(as_plain(entry))
    else:
        click.echo("\n".join(lines(entry)))
    if out is not None:
        note(f"saved {out} and {Path(out).with_suffix('.json')}")
