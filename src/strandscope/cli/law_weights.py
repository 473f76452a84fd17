"""`strandscope law weights`."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .progress import progress


@click.command(short_help="A model's weight matrices against the law of random ones.")
@options.model
@click.option("--only", multiple=True, metavar="PART", help="Matrices whose name holds PART; may be given again.")
@options.seed
@options.as_json
@options.opening_in("auto")
def weights(model: str, only: tuple[str, ...], seed: int, as_json: bool, **opening: Any) -> None:
    """In which of MODEL's weight matrices does something stand out of what chance gives (Marchenko and Pastur), and how much?

    Each matrix is held against the law, and so is the same matrix with its entries exchanged at random, which must look like
    chance.

    \b
    Examples:
      strandscope law weights smollm2
      strandscope law weights ./my-model --only q_proj --only down_proj
    """
    subject = options.open_subject(model, **opening)
    from ..census.weights import judged
    from ..census.weights import weights as run
    from ..report.weights import as_json as plain
    from ..report.weights import lines

    found, of = [], len(judged(subject, only or None))
    with progress() as report:
        for one in run(subject, only or None, seed=seed):
            found.append(one)
            report("matrices", len(found), of)
    if as_json:
        options.write_json(plain(found))
    else:
        click.echo("\n".join(lines(found)))
