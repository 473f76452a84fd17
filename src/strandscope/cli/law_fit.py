"""`strandscope law fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from . import options
from .progress import note

_FORMS = ("power", "power+const", "chinchilla", "exponential", "logistic", "broken-power")


@click.command(short_help="Fit a law to a table of runs, with intervals, and say what it predicts.")
@click.argument("data", metavar="DATA.csv")
@click.option("--form", "form", type=click.Choice(_FORMS), default="power+const", show_default=True, help="What is fitted.")
@click.option("--at", multiple=True, metavar="X[,X2]", help="A size to predict at (for chinchilla two, N,D); may be repeated.")
@click.option("--far", is_flag=True, help="Let --at lie more than ten times beyond the sizes of the table.")
@click.option("--compare", is_flag=True, help="Hold all forms against the largest sizes, fitted to the smaller ones alone.")
@click.option("--x", multiple=True, metavar="COLUMN", help="Sizes; twice for chinchilla.  [default: by its usual names]")
@click.option("--y", metavar="COLUMN", help="What was measured.  [default: y, loss, …]")
@click.option("--error", metavar="COLUMN", help="Standard errors of y; rows are weighed by them.  [default: se, stderr, …]")
@click.option("--group", metavar="COLUMN", help="Rows that share their luck.  [default: group, run, seed]")
@click.option(
    "--noise",
    type=click.Choice(("multiplicative", "additive")),
    default="multiplicative",
    show_default=True,
    help="Scatter of log y, alike at every size, or of y.",
)
@click.option(
    "--resample",
    type=click.Choice(("residual", "wild")),
    default="residual",
    show_default=True,
    help="How noise is drawn where there are no groups; wild where some sizes scatter more.",
)
@click.option("--draws", type=click.IntRange(min=199), default=1999, show_default=True, help="Refits of the bootstrap.")
@click.option("--level", type=click.FloatRange(0.5, 0.99), default=0.95, show_default=True, help="Of the intervals.")
@options.seed
@options.as_json
@click.option("--out", metavar="DIR", help="Write fit.json, figures' data included, there.")
def fit(
    data: str, form: str, at: tuple[str, ...], far: bool, compare: bool, x: tuple[str, ...], y: str | None, error: str | None,
    group: str | None, noise: Literal["multiplicative", "additive"], resample: str, draws: int, level: float, seed: int,
    as_json: bool, out: str | None,
) -> None:  # fmt: skip
    """What law do the runs in DATA follow, and what does it predict?

    DATA is a CSV file with a header and a row a run: a size (two for chinchilla), a loss and, where known, its standard error and
    a group. Nothing is skipped: a gap is an error with its line.

    \b
    Examples:
      strandscope law fit runs.csv --form power+const --at 1e9
      strandscope law fit runs.csv --x N --x D --y loss --form chinchilla --at 7e10,1.4e12
      strandscope law fit curve.csv --form exponential --compare --json
    """
    from ..io import check_writable, write_json

    file = None if out is None else Path(out) / "fit.json"
    if file is not None:
        check_writable(file)
    places = [_place(one) for one in at]
    from ..laws.fit.answer import answer, lines
    from ..laws.fit.forms import form as find
    from ..laws.fit.table import Table

    wanted = find(form)
    table = Table.read(data, wanted.columns, x, y, error, group)
    said = answer(
        table, wanted, noise=noise, at=places, far=far, comparing=compare, resampled="wild" if resample == "wild" else None,
        draws=draws, level=level, seed=seed,
    )  # type: ignore[arg-type]  # fmt: skip
    if file is not None:
        write_json(file, said.to_dict())
        note(f"wrote {file}")
    if as_json:
        options.write_json(said.to_dict())
    else:
        click.echo("\n".join(lines(said)))


def _place(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"got {text!r}, wanted a number, or two with a comma", param_hint="--at") from None
