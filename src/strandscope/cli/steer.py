"""`strandscope steer`."""

from __future__ import annotations

import sys
from typing import Any, Literal

import click

from . import options


@click.command(short_help="Push along a saved strand while a network answers.")
@click.argument("words", nargs=-1, metavar="[MODEL] STRAND PROMPT")
@click.option(
    "--nats", type=click.FloatRange(min=0, min_open=True), default=0.02, show_default=True, help="The dose, per next token."
)
@click.option("--away", is_flag=True, help="Push against the strand.")
@click.option(
    "--positions",
    type=click.Choice(["all", "last"]),
    default="all",
    show_default=True,
    help="All positions, or each pass's newest.",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=80, show_default=True, help="Length of each answer.")
@click.option("--force", is_flag=True, help="Use a strand that was found in another network.")
@options.as_json
@options.opening
def steer(
    words: tuple[str, ...],
    nats: float,
    away: bool,
    positions: Literal["all", "last"],
    max_new_tokens: int,
    force: bool,
    as_json: bool,
    **opening: Any,
) -> None:
    """What MODEL answers to PROMPT, plain and pushed along STRAND (a .safetensors file) by a dose in nats per next token.

    PROMPT may be - to read it from stdin.

    \b
    Examples:
      strandscope steer harm.safetensors "Tell me about your day." --nats 0.1
      strandscope steer ./my-model mine.safetensors - --away --json
    """
    if len(words) not in (2, 3):
        raise click.UsageError(f"got {len(words)} arguments, wanted [MODEL] STRAND PROMPT; put the prompt in quotation marks")
    model, file, prompt = words if len(words) == 3 else ("smollm2", *words)
    prompt = sys.stdin.read().strip() if prompt == "-" else prompt
    from ..strand.strand import Strand

    strand = Strand.load(file)
    subject = options.open_subject(model, **opening)
    from ..control.steer import steer as pushed

    strand.check(subject.fingerprint, force=force)
    _check_width(strand, subject)
    plain = subject.generate(prompt, max_new_tokens)
    with pushed(subject, strand, nats=nats, positions=positions, toward=-1 if away else 1, force=force) as dose:
        answer = subject.generate(prompt, max_new_tokens)
    _write(as_json, strand, subject.fingerprint, dose, "away" if away else "toward", prompt, plain, answer)


def _check_width(strand: Any, subject: Any) -> None:
    from ..errors import InputError

    held, width = strand.pattern.shape[0], subject.port(strand.site).width
    if held != width:
        raise InputError(
            f"strand {strand.name!r}: {held} wide, and {strand.site} of {subject.name} is {width} wide; "
            "find it again in this network"
        )


def _write(as_json: bool, strand: Any, network: str, dose: Any, along: str, prompt: str, plain: str, answer: str) -> None:
    from ..report.entries import push
    from ..report.finding import as_json as as_plain
    from ..report.text import visible
    from ..report.verdict import brief

    made, forced = push(along, dose), strand.fingerprint != network
    if as_json:
        networks = {"forced": forced, "strand_network": strand.fingerprint, "network": network}
        texts = {"prompt": prompt, "plain": plain, "pushed": answer}
        options.write_json({"strand": str(strand), **networks, "dose": as_plain(made), **texts})
        return
    if forced:
        click.echo(f"forced: this strand was found in the network {strand.fingerprint[:12]}, not in this one ({network[:12]})\n")
    click.echo(f"plain:\n{visible(plain)}\n")
    cost = f"{brief(made.cost)} nats per next token at {made.site}, {made.positions} positions"
    click.echo(f"{along} {visible(strand.name, lines=False)}, {cost}:")
    click.echo(visible(answer))
