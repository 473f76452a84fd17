"""`strandscope export`."""

from __future__ import annotations

from typing import Any

import click

from . import options

FORMATS = ("gguf", "folder", "peft")
SCALE = 1.0  # lengths of the strand's pattern, or strength of a control vector
NATS = click.FloatRange(min=0, min_open=True)


@click.command(short_help="Write a push along a strand, or its ablation, in a format that other engines run.")
@click.argument("file", metavar="STRAND|VECTOR")
@click.option(
    "--to", "kind", type=click.Choice(FORMATS), required=True, help="A GGUF control vector, a model folder, or a PEFT adapter."
)
@click.option("--out", required=True, metavar="PATH", help="The .gguf file, or a new folder.")
@click.option("--model", default="smollm2", show_default=True, help="The network that it is for.")
@click.option("--nats", type=NATS, help="Find how far to push from this cost per next token.")
@click.option(
    "--scale", type=float, help="How far to push: lengths of the strand's pattern, or times a control vector (default 1)."
)
@click.option("--ablate", is_flag=True, help="Take out all that the strand reads, at every site, instead of pushing.")
@click.option("--away", is_flag=True, help="Push against the strand.")
@click.option("--force", is_flag=True, help="Use a strand that was found in another network.")
@options.as_json
@options.opening
def export(
    file: str,
    kind: str,
    out: str,
    model: str,
    nats: float | None,
    scale: float | None,
    ablate: bool,
    away: bool,
    force: bool,
    as_json: bool,
    **opening: Any,
) -> None:
    """Write an edit so that it runs without Strandscope.

    STRAND is a saved strand (.safetensors), to push along or to take out; VECTOR a control vector (.gguf), for another format.

    A control vector holds additions to the outputs of blocks, from block 1 on: llama.cpp and repeng read it. A model folder is
    one that transformers opens by itself, with additions as biases and ablations as orthogonalised weights. An adapter is
    one that PEFT loads. What a format cannot hold is refused with the reason.

    \b
    Examples:
      strandscope export spanish.safetensors --to gguf --nats 0.1 --out spanish.gguf
      strandscope export harm.safetensors --to folder --ablate --out without-harm
      strandscope export spanish.gguf --to peft --scale 0.5 --out adapter
    """
    vector = file.endswith(".gguf")
    _check_options(kind, vector, nats, scale, ablate, away)
    _check_out(kind, out)
    held = _opened(file, vector)
    subject = options.open_subject(model, **opening)
    if not vector:
        held.check(subject.fingerprint, force=force)
        from ..control.library import check_fits

        check_fits(held, subject)
    dose = _dose(subject, held, nats, away) if nats is not None else None
    size = dose.scale.value if dose is not None else (SCALE if scale is None else scale)
    edits = _edits(subject, held, vector, ablate, -size if away else size)
    told = _written(subject, edits, kind, out)
    _tell(as_json, held, vector, subject, kind, out, None if ablate else -size if away else size, dose, told)


def _check_options(kind: str, vector: bool, nats: float | None, scale: float | None, ablate: bool, away: bool) -> None:
    if nats is not None and scale is not None:
        raise click.UsageError("got --nats and --scale, wanted one of them: the cost, or how far to push")
    if ablate and (away or nats is not None or scale is not None):
        raise click.UsageError("got --ablate with a push (--nats, --scale or --away), wanted one of them")
    if ablate and (kind == "gguf" or vector):
        raise click.UsageError("a control vector can only add; export a strand's ablation --to folder or --to peft")
    if vector and (nats is not None or away):
        raise click.UsageError(
            "a control vector has no cost of its own that was asked for; give --scale, negative to push against it"
        )


def _check_out(kind: str, out: str) -> None:
    """Refuse what could not be written before the work that it is to hold."""
    from ..control.leave.plan import check_new
    from ..io import check_writable

    if kind == "gguf":
        check_writable(out)
    else:
        check_new(out)


def _opened(file: str, vector: bool) -> Any:
    if vector:
        from ..control.leave.gguf_vector import read_control_vector

        return read_control_vector(file)
    from ..strand.strand import Strand

    return Strand.load(file)


def _dose(subject: Any, strand: Any, nats: float, away: bool) -> Any:
    from ..control.bench import Bench
    from ..control.dose import find_dose
    from .progress import note

    note(f"finding how far a push of {nats:g} nats goes …")
    direction = strand.direction()
    return find_dose(Bench.of(subject), strand.site, -direction if away else direction, nats)


def _edits(subject: Any, held: Any, vector: bool, ablate: bool, size: float) -> Any:
    from ..control.edit import Add
    from ..control.leave.plan import ablation
    from ..subject.attach import Scope
    from ..subject.site import Site

    if vector:
        return held.edits(size)
    if ablate:
        return ablation(subject, held.basis)
    return {Site.parse(held.site): [(Add(held.direction(), size), Scope())]}


def _written(subject: Any, edits: Any, kind: str, out: str) -> dict[str, Any]:
    """Write it; what is to be told of it besides."""
    from .progress import note

    note(f"writing {out} …")
    if kind == "gguf":
        from ..control.leave.gguf_vector import ControlVector, pushes_of, write_control_vector

        pushes = pushes_of(subject, edits)
        write_control_vector(out, ControlVector(pushes, subject.anatomy.family))
        return {"directions": {f"direction.{site.index}": float(push.norm()) for site, push in pushes.items()}}
    if kind == "peft":
        from ..control.leave.adapter import write_adapter

        write_adapter(subject, edits, out)
        return {}
    from dataclasses import asdict

    from ..control.leave.folder import bake

    return {"agreement": asdict(bake(subject, edits, out))}


def _tell(
    as_json: bool,
    held: Any,
    vector: bool,
    subject: Any,
    kind: str,
    out: str,
    size: float | None,
    dose: Any,
    told: dict[str, Any],
) -> None:
    from ..report.entries import push
    from ..report.finding import as_json as as_plain
    from ..report.text import visible
    from ..report.verdict import brief

    what = f"control vector at {', '.join(map(str, held.pushes))}" if vector else str(held)
    forced = not vector and held.fingerprint != subject.fingerprint
    costs = as_plain(push("away" if size is not None and size < 0 else "toward", dose)) if dose is not None else None
    if as_json:
        about = {"what": what, "network": subject.fingerprint, "forced": forced, "to": kind, "out": out}
        options.write_json({**about, "edit": "ablation" if size is None else "push", "scale": size, "dose": costs, **told})
        return
    if forced:
        click.echo(
            f"forced: this strand was found in the network {held.fingerprint[:12]}, not in this one ({subject.fingerprint[:12]})"
        )
    how = "taken out at every site" if size is None else f"pushed {size:.4g} {'times' if vector else 'lengths'}"
    cost = f", {brief(dose.cost)} nats per next token, {dose.how}" if dose is not None else ""
    click.echo(f"{visible(what, lines=False)}\n{how}{cost}\nwritten to {visible(out, lines=False)} ({_NAMES[kind]})")
    for name, length in told.get("directions", {}).items():
        click.echo(f"  {name}, {length:.4g} long")
    if "agreement" in told:
        click.echo(
            f"  logits are {told['agreement']['value']:.2g} (relative) from those with hooks: {told['agreement']['method']}"
        )


_NAMES = {"gguf": "a GGUF control vector", "folder": "a model folder", "peft": "a PEFT adapter"}
