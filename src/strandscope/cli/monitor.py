"""`strandscope monitor`."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .progress import note, progress


@click.command(short_help="Make a monitor with a guaranteed false-alarm rate.")
@options.model
@click.option("--concept", "concepts", multiple=True, metavar="NAME|FILE", help="A pack or a file of labelled rows; repeatable.")
@click.option("--strand", "strands", multiple=True, metavar="FILE", help="A saved strand; repeatable.")
@click.option("--benign", multiple=True, metavar="FILE", help="Sequences that should raise no alarm, in place of the project's.")
@click.option("--positives", metavar="FILE", help="Rows for the recall of --strand: labelled, or all with the concept.")
@click.option("--out", required=True, metavar="FILE", help="Where the monitor goes (.safetensors).")
@click.option("--false-alarm", type=float, default=0.01, show_default=True, help="Rate per sequence, of an alarm by any concept.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="How often a calibration keeps to that rate.")
@click.option("--aggregation", metavar="HOW", help="Over tokens: last, mean, max, ema(0.9), window(8); default: the strand's.")
@click.option("--at", default="resid:*", show_default=True, metavar="SITES", help="Where a --concept is looked for.")
@click.option("--held-out", type=float, default=0.33, show_default=True, help="Share of a --concept's groups kept for recall.")
@options.seed
@options.as_json
@options.opening
def monitor(
    model: str,
    concepts: tuple[str, ...],
    strands: tuple[str, ...],
    benign: tuple[str, ...],
    positives: str | None,
    out: str,
    false_alarm: float,
    confidence: float,
    aggregation: str | None,
    at: str,
    held_out: float,
    seed: int,
    as_json: bool,
    **opening: Any,
) -> None:
    """Calibrate a monitor of concepts or saved strands in MODEL and save it for `strandscope watch`.

    The threshold stands on benign sequences that nothing was fitted on. Each --concept is found on some
    groups of its rows, with a share of the benign ones among its negatives; the other groups are for threshold and recall.
    Where any of it is a chat, texts are taken for what a user says.

    \b
    Examples:
      strandscope monitor --concept spanish --out spanish.safetensors
      strandscope monitor ./my-model --strand mine.safetensors --benign traffic.jsonl --out mine-monitor.safetensors
    """
    if not concepts and not strands:
        raise click.UsageError("got no --concept and no --strand, wanted at least one; a pack's name will do, such as spanish")
    if not out.endswith(".safetensors"):
        raise click.BadParameter(f"got {out!r}, wanted a file name that ends in .safetensors", param_hint="--out")
    if positives is not None and (concepts or len(strands) != 1):
        raise click.UsageError("--positives goes with one --strand; a --concept keeps some of its own rows for recall")
    from ..capture.examples import Examples
    from ..io import check_writable
    from ..monitor.benign import benign as project_benign
    from ..monitor.held import as_chats, parts
    from ..monitor.rows import share_between
    from ..monitor.sequence import Aggregation
    from ..monitor.states import StateRows, holds_states
    from ..report.asked import checked

    check_writable(out)
    for name, value in (("--false-alarm", false_alarm), ("--confidence", confidence), ("--held-out", held_out)):
        share_between(name, value)
    how = None if aggregation is None else Aggregation.parse(aggregation)
    brought = StateRows(benign[0]) if len(benign) == 1 and holds_states(benign[0]) else None
    if brought is not None and (concepts or positives is not None):
        raise click.UsageError("--benign rows that bring their states go with --strand alone; nothing else here has states")
    asked = [one.examples for one in checked(list(concepts))]
    given = Examples.from_files(list(benign)) if benign and brought is None else None
    from ..monitor.monitor import Monitor
    from ..strand.strand import Strand

    found: list[Any] = [Strand.load(file) for file in strands]
    if brought is not None:
        with progress() as report:
            made = Monitor.calibrate(
                found, brought, false_alarm=false_alarm, confidence=confidence, aggregation=how, seed=seed, progress=report
            )
        _write(made, out, as_json)
        return
    subject = options.open_subject(model, **opening)
    kinds = {"chat"} if given is not None and given.kind == "chat" else {rows.kind for rows in asked}
    kinds |= {str(strand.template.get("format")) for strand in found}
    chat = subject.chats and "chat" in kinds
    quiet = given if given is not None else project_benign(chat)
    quiet, asked = (as_chats(quiet), [as_chats(rows) for rows in asked]) if chat else (quiet, asked)
    held: dict[str, Any] = {}
    if positives is not None:
        held[found[0].name] = as_chats(Examples.from_file(positives)) if chat else Examples.from_file(positives)
    split = [parts(rows, quiet, kept=held_out, seed=seed) for rows in asked]
    held |= {one.held.name: one.held for one in split}
    from ..capture.record import capture
    from ..strand.find import find

    with progress() as report:
        for one in split:
            said = f"states of {one.found.name}"
            states = capture(subject, one.found, at, progress=lambda done, of, said=said: report(said, done, of))
            found.append(find(states, permutations=0, seed=seed, progress=report))
        made = Monitor.calibrate(
            found, split[0].benign if split else quiet, subject=subject,
            false_alarm=false_alarm, confidence=confidence, aggregation=how, positives=held,
            seed=seed, progress=report,
        )  # fmt: skip
    _write(made, out, as_json)


def _write(made: Any, out: str, as_json: bool) -> None:
    from ..report.monitored import entry, lines

    made.save(out)

    recorded = entry(made)
    if as_json:
        from ..report.record import as_json as plain

        options.write_json({**plain(recorded), "file": out})
    else:
        for line in lines(recorded):
            click.echo(line)
    note(f"saved {out}")
