"""`strandscope serve`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import click

from ..errors import MissingError
from . import options
from .held import STRANDS
from .progress import note

NEEDED = ("starlette", "uvicorn", "jinja2", "prometheus_client")


@click.command(short_help="Serve a network to many clients at once, each with edits and monitors of its own.")
@options.model
@click.option(
    "--strands", multiple=True, metavar="DIR|FILE", help="Strands, erasers and monitors, by name; default audit/strands."
)
@click.option("--monitor", "monitors", multiple=True, metavar="FILE", help="A monitor that requests may name by its file's name.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; elsewhere than here only with --key.")
@click.option("--port", type=click.IntRange(0, 65535), help="The first port to try; the next free one is taken. [default: 8417]")
@click.option("--key", envvar="STRANDSCOPE_KEY", help="What clients have to show; a random one is made and printed otherwise.")
@click.option("--rows", type=click.IntRange(1, 256), default=8, show_default=True, help="Requests that are decoded together.")
@click.option("--waiting", type=click.IntRange(0), default=32, show_default=True, help="Requests that may wait beside them.")
@click.option("--max-tokens", type=click.IntRange(1), default=2048, show_default=True, help="New tokens of a request at most.")
@click.option("--seconds", type=click.FloatRange(1), default=600.0, show_default=True, help="Time of a request at most.")
@click.option(
    "--dose-prompts", type=click.IntRange(2), default=100, show_default=True, help="Neutral prompts that doses are measured on."
)
@click.option("--state", metavar="DIR", default=".strandscope/serve", show_default=True, help="Where saved settings are kept.")
@click.option("--run", metavar="DIR", help="A training run that the recorder writes, to be watched.")
@click.option("--force", is_flag=True, help="Use strands and monitors of another network; answers say so.")
@options.as_json
@options.opening
def serve(
    model: str,
    strands: tuple[str, ...],
    monitors: tuple[str, ...],
    host: str,
    port: int | None,
    key: str | None,
    rows: int,
    waiting: int,
    max_tokens: int,
    seconds: float,
    dose_prompts: int,
    state: str,
    run: str | None,
    force: bool,
    as_json: bool,
    **opening: Any,
) -> None:
    """Serve MODEL by OpenAI's protocol (/v1/chat/completions, /v1/completions, /v1/models) until interrupted, with a field
    "strandscope" in requests for edits and monitors, and metrics for Prometheus at /metrics.

    Requests with different edits are decoded in one batch and do not mix. Clients show the key that is printed, as OpenAI's
    client does its api_key. The address is written to stdout when the server answers.

    \b
    Examples:
      strandscope serve
      strandscope serve ./my-model --strands audit/strands --monitor harm.safetensors --port 9000
    """
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise MissingError(f"serve needs {', '.join(absent)}, which is not installed: pip install 'strandscope[page]'")
    from ..serve.address import listen

    address, sock = listen(host, port, key)  # before anything takes long
    with sock:
        if port not in (None, 0, address.port):
            note(f"port {port} is taken; this is {address.port}")
        folders = [Path(path) for path in strands] or ([STRANDS] if STRANDS.is_dir() else [])
        from ..engine.threads import in_thread
        from ..report.text import visible
        from ..serve.app import bench_of
        from ..serve.completions import Bench
        from ..serve.engine import Limits
        from ..serve.run import log_to, server

        def made() -> Bench:
            return bench_of(
                options.open_subject(model, **opening),
                strands=folders,
                monitors=[Path(file) for file in monitors],
                limits=Limits(rows=rows, waiting=waiting, tokens=max_tokens, seconds=seconds),
                prompts=dose_prompts,
                force=force,
                state=Path(state),
                run=None if run is None else Path(run),
            )

        bench = in_thread(made)  # this thread runs no kernels, so that the engine's is the only one that does
        for broken in bench.shelf.broken:
            note(visible(f"left out: {broken.sentence}", lines=False))
        names = ", ".join(sorted({one.name for one in bench.shelf.files.values()})) or "none"
        note(visible(f"strands: {names}; monitors: {', '.join(sorted(bench.shelf.monitors)) or 'none'}", lines=False))
        log_to(sys.stderr)

        def ready() -> None:
            page = f"{address.url}/#key={address.key}"
            said = {"url": f"{address.url}/v1", "key": address.key, "model": bench.model, "bench": page}
            if as_json:
                options.write_json(said)
            else:
                click.echo(f"{said['url']}  model {visible(bench.model, lines=False)}  key {address.key}")
                click.echo(f"the bench is at {page}")
            sys.stdout.flush()

        server(bench, address, ready).run(sockets=[sock])
