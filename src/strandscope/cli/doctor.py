"""`strandscope doctor`."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .progress import note


@click.command(short_help="Run every line of a network's selfcheck.")
@options.model
@options.as_json
@options.opening
def doctor(model: str, as_json: bool, **opening: Any) -> None:
    """Does reading and writing work in MODEL as promised? Prints its anatomy and every line of its selfcheck.

    Exit code 4 when a line fails: then no number measured in it could be trusted.

    \b
    Examples:
      strandscope doctor
      strandscope doctor ./my-model --json
    """
    subject = options.open_subject(model, **opening, check="none")
    from ..provenance import versions
    from ..report.entries import subject_entry
    from ..report.finding import as_json as plain
    from ..subject.selfcheck import render, selfcheck

    note("checking …")
    checks = selfcheck(subject, full=True)
    failed = any(check.status == "failed" for check in checks)
    if as_json:
        verdict = "failed" if failed else "passed"
        options.write_json({"verdict": verdict, "subject": plain(subject_entry(subject, checks)), "versions": versions()})
    else:
        click.echo(
            "\n".join([str(subject), "", *render(checks), "", *[f"{name} {version}" for name, version in versions().items()]])
        )
    if failed:
        _refuse(subject.name, next(str(check) for check in checks if check.status == "failed"))


def _refuse(name: str, line: str) -> None:
    from ..errors import TrustError

    raise TrustError(f"{name} failed its selfcheck: {line}; no number measured in it could be trusted")
