"""`strandscope steer` with an expression: what a network says when it is held."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from . import options
from .progress import note

STRANDS = Path("audit/strands")


def held(
    model: str,
    text: str,
    prompt: str,
    *,
    strands: tuple[str, ...],
    monitors: tuple[str, ...],
    max_new_tokens: int,
    within_the_law: bool,
    raw: bool,
    force: bool,
    seed: int,
    as_json: bool,
    **opening: Any,
) -> None:
    from ..control.expression import Expression

    expression = Expression.parse(text)  # before anything takes long
    library = _library(strands, expression.names)
    watching = _monitors(monitors)
    subject = options.open_subject(model, **opening)
    from ..control.holding import Benches, prepare
    from ..control.texts import replies
    from ..monitor.live import watching as watch
    from ..subject.attach import attach

    chat = subject.chats and not raw
    plain = replies(subject, [prompt], max_new_tokens, chat=chat)[0]
    with ExitStack() as stack:
        gates = {}
        for monitor, names in watching:
            live = stack.enter_context(watch(monitor, subject, action="edit", force=force))
            gates |= dict.fromkeys(names, live)
        note("finding doses and costs …")
        benches = Benches(subject, seed=seed, chat=chat)
        made = prepare(subject, expression, library, gates=gates, benches=benches, within_the_law=within_the_law, force=force)
        for sentence in made.told:
            note(sentence)
        with attach(subject, edits=made.edits):
            said = replies(subject, [prompt], max_new_tokens, chat=chat)[0]
    _write(as_json, made, subject, chat, prompt, plain, said)


def _library(paths: tuple[str, ...], names: tuple[str, ...]) -> Any:
    if not paths and not STRANDS.is_dir():
        wanted = ", ".join(names)
        raise click.UsageError(f"no --strands, and there is no {STRANDS} here; name a folder or files that hold {wanted}")
    from ..control.library import load_library

    library, others = load_library(paths or (STRANDS,))
    for other in others:
        note(f"{other} holds no strand and no eraser, and was left out")
    return library


def _monitors(files: tuple[str, ...]) -> list[tuple[Any, tuple[str, ...]]]:
    """Each monitor with the names that it goes by: its file's, and its concept's where it has one alone."""
    if not files:
        return []
    from ..monitor.monitor import Monitor

    loaded = [(Monitor.load(file), Path(file).stem) for file in files]
    return [(one, tuple(dict.fromkeys((stem, *(one.concepts if len(one.concepts) == 1 else ()))))) for one, stem in loaded]


def _write(as_json: bool, made: Any, subject: Any, chat: bool, prompt: str, plain: str, said: str) -> None:
    from ..report.entries import push
    from ..report.finding import as_json as as_plain
    from ..report.text import visible
    from ..report.verdict import brief

    if as_json:
        doses = [
            {"term": str(term), "dose": as_plain(push("away" if term.amount < 0 else "toward", dose))}
            for term, dose in zip(made.expression.terms, made.doses, strict=True)
            if dose is not None
        ]
        held = {"expression": str(made.expression), "cost": as_plain(made.cost), "doses": doses, "told": list(made.told)}
        options.write_json({"network": subject.fingerprint, "chat": chat, "prompt": prompt, "plain": plain, **held, "held": said})
        return
    click.echo(f"plain:\n{visible(plain)}\n")
    cost = f"{brief(made.cost)} {made.cost.unit} for all of it"
    click.echo(f"{made.expression}, {cost if made.cost.value is not None else f'its cost not measured: {made.cost.reason}'}:")
    for term, dose in zip(made.expression.terms, made.doses, strict=True):
        if dose is not None:
            size = f"{brief(dose.scale)} {dose.scale.unit}, {dose.how}"
            click.echo(f"  {term}: {brief(dose.cost)} nats (predicted {brief(dose.predicted)}) at {dose.site}, {size}")
    for sentence in made.told:
        click.echo(f"  {sentence}")
    click.echo(visible(said))
