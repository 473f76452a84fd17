"""`strandscope watch`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from . import options
from .progress import note

_CHUNK, _ROWS = 1 << 16, 32  # bytes asked for at a time, rows judged in one batch


@click.command(short_help="Judge a stream of rows by a monitor, line by line.")
@click.argument("model", default=None, required=False)
@click.option("--monitor", "file", required=True, metavar="FILE", help="What `strandscope monitor` saved.")
@click.option(
    "--drift",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Level of the drift alarm: its chance ever to fire while traffic is like the benign sequences.",
)
@click.option("--no-drift", is_flag=True, help="Do not ask whether traffic has drifted.")
@click.option("--force", is_flag=True, help="Use a monitor of another network; nothing is promised of it then.")
@options.seed
@options.opening
def watch(model: str | None, file: str, drift: float, no_drift: bool, force: bool, seed: int, **opening: Any) -> None:
    """Read rows from stdin, one JSON object a line, and write what the monitor says of each to stdout, a line a row.

    A row holds "text" or "messages", which MODEL reads, or "states", {site: [[…] for each token]} that another engine
    took; without MODEL, every row has to bring its states. In a monitor of chats a "text" is what a user says. "id" is
    given back.

    What is written: id, score and probability by concept, alarm (the token at which it fired) or null, and drift (the strand
    and the site that drifted) in the one row that raised it. A line that is no row is named on stderr and the stream goes on;
    the exit code is then 1.

    \b
    Examples:
      strandscope watch smollm2 --monitor harm.safetensors < in.jsonl > out.jsonl
      other-engine | strandscope watch --monitor harm.safetensors
    """
    from ..monitor.monitor import Monitor
    from ..monitor.stream import Broken, Watcher

    monitor = Monitor.load(file)
    subject = None if model is None else options.open_subject(model, **opening)
    alarm = None if no_drift else monitor.drift(level=drift, seed=seed)
    watcher = Watcher(monitor, subject, alarm, force=force)
    broken = seen = 0
    for lines in _lines(sys.stdin.buffer):
        for said in watcher.read(lines):
            seen += 1
            if isinstance(said, Broken):
                broken += 1
                note(f"Error: {said.sentence}")
            else:
                click.echo(said.as_json())
        sys.stdout.flush()
    if broken:
        note(f"{broken} of {seen} lines were no rows and were left out")
        raise click.exceptions.Exit(1)


def _lines(source: Any) -> Iterator[list[tuple[int, bytes]]]:
    """Numbered lines as they come: what is there is given at once, some rows at a time, and nothing is waited for."""
    number, rest = 0, b""
    while chunk := source.read1(_CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        for start in range(0, len(whole), _ROWS):
            part = whole[start : start + _ROWS]
            yield list(enumerate(part, start=number + 1))
            number += len(part)
    if rest:
        yield [(number + 1, rest)]
