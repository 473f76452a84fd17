"""`strandscope steer`."""

from __future__ import annotations

import sys
from typing import Any, Literal

import click
from click.core import ParameterSource

from . import options
from .progress import note

DOSE_PROMPTS = 300
SUFFIX = ".safetensors"
OF_A_STRAND = {"nats": "--nats", "away": "--away", "positions": "--positions", "random": "--random"}


@click.command(short_help="Push along a saved strand, or hold a network by an expression, while it answers.")
@click.argument("words", nargs=-1, metavar="[MODEL] STRAND|EXPRESSION PROMPT")
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
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=80, show_default=True, help="Length of each text.")
@click.option(
    "--random", type=click.IntRange(min=0), default=1, show_default=True, help="Random pushes of the same nats, beside it."
)
@click.option("--strands", multiple=True, metavar="DIR|FILE", help="Where an expression's names are; default audit/strands.")
@click.option("--monitor", "monitors", multiple=True, metavar="FILE", help="Monitors that an expression's when(NAME) waits for.")
@click.option("--within-the-law", is_flag=True, help="Refuse a dose beyond the edge of its prediction.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as plain text, without the chat template.")
@click.option("--force", is_flag=True, help="Use a strand that was found in another network.")
@options.seed
@options.as_json
@options.opening
@click.pass_context
def steer(context: click.Context, words: tuple[str, ...], **given: Any) -> None:
    """What MODEL says to PROMPT: plain, and pushed along STRAND (a .safetensors file) by a dose in nats per next token, or held
    as EXPRESSION says; beside a push along a strand, random ones of the same dose.

    An expression names strands by name: 0.1nats*spanish pushes, !harm takes out, clamp(certainty,-1,1) keeps a coordinate
    between the means of its classes, set(x,0) and rotate(x,15deg) do what they say; + and - join them. After each can stand
    where it applies: @prompt, @generation, @last, @positions(0,-1), @window(2,), @tokens(17), @except(positions(0)),
    @at(resid:8-21), @when(harm>0.9) or @since(harm>0.9).

    PROMPT may be - to read it from stdin. A network without a chat template continues it.

    \b
    Examples:
      strandscope steer harm.safetensors "Tell me about your day." --nats 0.1
      strandscope steer "0.1nats*formality + !harm@generation" "Tell me about your day."
      strandscope steer ./my-model mine.safetensors - --away --json
    """
    if len(words) not in (2, 3):
        raise click.UsageError(
            f"got {len(words)} arguments, wanted [MODEL] STRAND|EXPRESSION PROMPT; put expression and prompt in quotation marks"
        )
    model, what, prompt = words if len(words) == 3 else ("smollm2", *words)
    prompt = sys.stdin.read().strip() if prompt == "-" else prompt
    if not prompt.strip():
        raise click.UsageError("the prompt is empty; write a text in quotation marks")
    said = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if what.endswith(SUFFIX):
        if wrong := said & {"strands", "monitors"}:
            raise click.UsageError(
                f"--{'monitor' if 'monitors' in wrong else 'strands'} goes with an expression, and {what} is a file"
            )
        _along(model, what, prompt, **given)
        return
    if wrong := said & set(OF_A_STRAND):
        raise click.UsageError(
            f"{OF_A_STRAND[min(wrong)]} goes with a strand's file; an expression says it itself: 0.1nats*NAME@last"
        )
    from .held import held

    held(model, what, prompt, **{name: value for name, value in given.items() if name not in OF_A_STRAND})


def _along(
    model: str,
    file: str,
    prompt: str,
    nats: float,
    away: bool,
    positions: Literal["all", "last"],
    max_new_tokens: int,
    random: int,
    within_the_law: bool,
    raw: bool,
    force: bool,
    seed: int,
    as_json: bool,
    strands: tuple[str, ...],  # noqa: ARG001 (an expression's)
    monitors: tuple[str, ...],  # noqa: ARG001
    **opening: Any,
) -> None:
    from ..strand.strand import Strand

    strand = Strand.load(file)
    subject = options.open_subject(model, **opening)
    strand.check(subject.fingerprint, force=force)
    from ..control.library import check_fits
    from ..control.steer import trial
    from .progress import progress

    check_fits(strand, subject)
    with progress() as report:
        made = trial(
            subject,
            strand,
            nats=nats,
            prompts=[prompt],
            n_random=random,
            max_new_tokens=max_new_tokens,
            seed=seed,
            along=["away" if away else "toward"],
            positions=positions,
            chat=False if raw else None,
            dose_prompts=DOSE_PROMPTS,
            within_the_law=within_the_law,
            force=force,
            progress=report,
        )
    for one in made.pushed:
        if one.dose.beyond and not one.along.startswith("random"):
            note(
                f"{nats:g} nats {one.along} {strand.name} lie beyond the edge of the prediction; the size was solved numerically"
            )
    _write(as_json, strand, subject.fingerprint, made)


def _write(as_json: bool, strand: Any, network: str, made: Any) -> None:
    from ..report.entries import push
    from ..report.finding import as_json as as_plain
    from ..report.text import visible
    from ..report.verdict import brief

    forced = strand.fingerprint != network
    if as_json:
        networks = {"forced": forced, "strand_network": strand.fingerprint, "network": network}
        texts = {"chat": made.chat, "prompt": made.prompts[0], "plain": made.plain[0]}
        pushes = [{"dose": as_plain(push(one.along, one.dose)), "text": one.texts[0]} for one in made.pushed]
        options.write_json({"strand": str(strand), **networks, **texts, "pushed": pushes})
        return
    if forced:
        click.echo(f"forced: this strand was found in the network {strand.fingerprint[:12]}, not in this one ({network[:12]})\n")
    click.echo(f"plain:\n{visible(made.plain[0])}")
    for one in made.pushed:
        along = one.along if one.along.startswith("random") else f"{one.along} {visible(_end(strand), lines=False)}"
        dose = one.dose
        cost = f"{brief(dose.cost)} nats per next token (predicted {brief(dose.predicted)})"
        cost += f" at {dose.site}, {dose.positions} positions"
        size = f"{brief(dose.scale)} {dose.scale.unit}, {dose.how}"
        click.echo(f"\n{along}, {cost}, {size}:\n{visible(one.texts[0])}")


def _end(strand: Any) -> str:
    """What a push goes toward or away from."""
    return strand.positive if strand.positive == strand.name else f"{strand.positive} ({strand.name})"
