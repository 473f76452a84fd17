"""Progress on stderr: a bar on a terminal, otherwise a line now and then, so that a log stays short."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

EVERY = 30.0  # seconds between lines where stderr is no terminal
Report = Callable[[str, int, int], None]


def note(text: str) -> None:
    """A remark for the person who waits."""
    click.echo(text, err=True)


@contextmanager
def progress() -> Iterator[Report]:
    """A callback (stage, done, of); with `of` 0 the stage's text is a remark."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:  # rich respects NO_COLOR
        task = bars.add_task("", total=None)

        def report(stage: str, done: int, of: int) -> None:
            if of == 0:
                bars.console.print(stage, markup=False, highlight=False)
            else:
                bars.update(task, description=stage, completed=done, total=of)

        yield report


def _lines(clock: Callable[[], float] = time.monotonic) -> Report:
    start = last = clock()

    def report(stage: str, done: int, of: int) -> None:
        nonlocal last
        now = clock()
        if of == 0:
            note(stage)
        elif now - last >= EVERY:
            last = now
            note(f"{stage} {done} of {of} ({now - start:.0f} s)")

    return report
