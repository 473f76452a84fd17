"""`strandscope law`."""

from __future__ import annotations

import click

from . import options
from .law_context import context
from .law_fit import fit
from .law_weights import weights
from .progress import note, progress


@click.group(short_help="Laws that predict and can fail: list them, run them, fit one of your own.")
def law() -> None:
    """Laws of deep learning: each a formula with its domain, a prediction made before the data, and a negative control.

    \b
    Examples:
      strandscope law list
      strandscope law show 'double descent'
      strandscope law run all --jobs 2
      strandscope law context smollm2
    """


law.add_command(context)
law.add_command(fit)
law.add_command(weights)


@law.command("list")
@options.as_json
def list_(as_json: bool) -> None:
    """Name the laws of the catalogue, with their formulas."""
    from ..laws.catalogue.page import listed
    from ..laws.catalogue.registry import ENTRIES

    if as_json:
        options.write_json({"laws": [{"name": one.name, "formula": one.law.formula, "seconds": one.seconds} for one in ENTRIES]})
    else:
        click.echo("\n".join(listed(ENTRIES)))


@law.command(short_help="What a law says, and how it is tested.")
@click.argument("name")
def show(name: str) -> None:
    """What the law NAME says, where it holds, how it is tested, and what its negative control must do."""
    from ..laws.catalogue.page import shown
    from ..laws.catalogue.registry import law as find

    click.echo("\n".join(shown(find(name))))


@law.command(short_help="Test laws and their negative controls on this machine.")
@click.argument("names", nargs=-1, required=True, metavar="NAME... | all")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Run with so many seeds, from --seed on.")
@options.seed
@options.as_json
@click.option("--out", metavar="FILE", help="Write laws.json, figures' data included, as FILE (.json).")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, of one thread each.")
def run(names: tuple[str, ...], seeds: int, seed: int, as_json: bool, out: str | None, jobs: int) -> None:
    """Do the laws NAME hold on this machine, and do their negative controls fail as they must?

    Exit code 1 when a law is not consistent or a control did not do what was stated.

    \b
    Examples:
      strandscope law run all --jobs 2
      strandscope law run catapult 'edge of stability' --seeds 5
    """
    from ..io import check_writable, write_json
    from ..laws.catalogue.page import lines
    from ..laws.catalogue.run import run as perform

    if "all" in names and len(names) > 1:
        raise click.BadParameter(f"got all and {len(names) - 1} more, wanted all alone, or names", param_hint="NAME")
    if out is not None:
        if not out.endswith(".json"):
            raise click.BadParameter(f"got {out!r}, wanted a file name that ends in .json", param_hint="--out")
        check_writable(out)
    chosen = () if names == ("all",) else names
    with progress() as report:
        done = perform(chosen, range(seed, seed + seeds), jobs=jobs, progress=report)
    if out is not None:
        write_json(out, done.as_json())
        note(f"wrote {out}")
    if as_json:
        options.write_json(done.as_json())
    else:
        click.echo("\n".join(lines(done)))
    if done.verdict == "failed":
        raise click.exceptions.Exit(1)
