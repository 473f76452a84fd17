"""`strandscope calibrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options
from .progress import note, progress

if TYPE_CHECKING:
    from ..standards.certificate import Certificate


@click.command(short_help="Run every estimator on cases whose answer is known.")
@click.option("--certify", is_flag=True, help="At least 2,000 repetitions wherever a level is claimed, and every slip (minutes).")
@click.option("--standard", "names", multiple=True, metavar="NAME", help="Only this one; may be given again.")
@click.option("--list", "listed", is_flag=True, help="Name the standards and run none.")
@options.as_json
@click.option("--out", metavar="FILE", help="Write the certificate as FILE (.json) and its page beside it (.md).")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, of one thread each.")
def calibrate(certify: bool, names: tuple[str, ...], listed: bool, as_json: bool, out: str | None, jobs: int) -> None:
    """Are the estimators right, on this machine, where the answer is known?

    For each standard: bias, coverage of the interval, rate of false positives, each beside the band that was written down before
    the first run, and the verdict. Exit code 1 when a standard is not met.

    \b
    Examples:
      strandscope calibrate
      strandscope calibrate --certify --jobs 2 --out certificate.json
    """
    from ..io import check_writable, write_json, write_text
    from ..standards.certificate import issue
    from ..standards.page import lines, markdown
    from ..standards.registry import STANDARDS, standard

    chosen = [standard(name) for name in names] or list(STANDARDS)
    if listed:
        _list(chosen, as_json)
        return
    if out is not None:
        if not out.endswith(".json"):
            raise click.BadParameter(f"got {out!r}, wanted a file name that ends in .json", param_hint="--out")
        check_writable(out)
    with progress() as report:
        made = issue(names, "certify" if certify else "quick", jobs=jobs, progress=report)
    if out is not None:
        page = out.removesuffix(".json") + ".md"
        write_json(out, made.as_json())
        write_text(page, markdown(made))
        note(f"wrote {out} and {page}")
    if as_json:
        options.write_json(made.as_json())
    else:
        click.echo("\n".join(lines(made)))
    _leave(made)


def _list(chosen: list[Any], as_json: bool) -> None:
    if as_json:
        options.write_json({"standards": [{"name": case.name, "estimator": case.estimator} for case in chosen]})
    else:
        for case in chosen:
            click.echo(f"{case.name}: {case.about}; truth: {case.truth}")


def _leave(made: Certificate) -> None:
    """Exit code 1 where a standard is red: done, and a gate failed."""
    if made.red:
        raise click.exceptions.Exit(1)
