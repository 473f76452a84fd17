"""`strandscope audit`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from . import options
from .progress import note, progress


@click.command(short_help="Ask a network for concepts, with evidence, and write a report.")
@options.model
@click.option(
    "--concept",
    "concepts",
    multiple=True,
    metavar="NAME|FILE",
    help="A pack's name or a .jsonl or .csv file; give it several times.",
)
@click.option("--out", default="audit", show_default=True, metavar="DIR", help="Where the report and strands/ are written.")
@options.seed
@click.option("--quick", is_flag=True, help="Two packs (harm, spanish) unless named, fewer and shorter texts.")
@click.option("--no-steer", is_flag=True, help="Leave out the texts before and after a push.")
@click.option("--no-calibrate", is_flag=True, help="Leave out the certificate of the estimators on this machine.")
@click.option("--erase/--no-erase", default=None, help="An eraser of each concept, certified (default: not with --quick).")
@click.option("--effects", is_flag=True, help="Score what pushes do to generated texts: minutes a concept.")
@click.option("--monitor", metavar="FILE", help="A monitor of MODEL, as `strandscope monitor` wrote it, to stand in the report.")
@click.option("--census", metavar="DIR", help="A census of MODEL, as `strandscope census` wrote it, to stand in the report.")
@options.as_json
@options.opening
def audit(
    model: str,
    concepts: tuple[str, ...],
    out: str,
    seed: int,
    quick: bool,
    no_steer: bool,
    no_calibrate: bool,
    erase: bool | None,
    effects: bool,
    monitor: str | None,
    census: str | None,
    as_json: bool,
    **opening: Any,
) -> None:
    """Which concepts can be read in MODEL, where, with what certainty, and what happens when one is pushed on.

    Writes report.html, report.md, report.json, strands/ and erasers/ to --out and prints the verdicts. Interrupted and started
    again with the same --out, it goes on where it was.

    \b
    Examples:
      strandscope audit smollm2
      strandscope audit ./my-model --concept harm --concept mine.jsonl --out audit-mine
    """
    from ..io import check_writable
    from ..report.asked import checked
    from ..report.finding import as_json as plain

    checked(concepts)  # so that a bad file is told before the model is opened, and a bad place too
    check_writable(Path(out) / "report.json")
    subject = options.open_subject(model, **opening, check="none")
    from ..audit import audit as run

    given = ["--quick"] * quick + ["--no-steer"] * no_steer + ["--no-calibrate"] * no_calibrate + ["--effects"] * effects
    given += [] if erase is None else ["--erase" if erase else "--no-erase"]
    given += (["--monitor", monitor] if monitor else []) + (["--census", census] if census else [])
    with progress() as report:
        done = run(
            subject,
            list(concepts) or None,
            out,
            seed=seed,
            quick=quick,
            steer=not no_steer,
            calibrate=not no_calibrate,
            erase=erase,
            effects=effects,
            monitor=monitor,
            census=census,
            progress=report,
            command=_command(model, concepts, out, seed, given, opening),
        )
    if as_json:
        options.write_json(plain(done.report))
    else:
        click.echo(str(done))
    note(f"\nreport.html, report.md, report.json, strands/ and erasers/ are in {out}")


def _command(model: str, concepts: tuple[str, ...], out: str, seed: int, given: list[str], opening: dict[str, Any]) -> str:
    """The command that gives this report again."""
    words = ["strandscope", "audit", model, *[word for name in concepts for word in ("--concept", name)], "--out", out]
    return shlex.join([*words, "--seed", str(seed), *given, *options.opening_words(opening)])
