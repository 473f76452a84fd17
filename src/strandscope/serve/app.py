"""The ASGI application: routes, their errors as JSON, and the guard before them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import StrandscopeError
from . import api, completions, page
from .address import Address
from .completions import Bench
from .engine import Engine, Limits, beside
from .jobs import BUG, Jobs
from .metrics import Metrics
from .security import Guard
from .shelf import PROMPTS, Shelf
from .wire import ApiError, Json, error_response

if TYPE_CHECKING:
    from ..subject.subject import Subject

STATE = Path(".strandscope/serve")
METRICS = "text/plain; version=0.0.4; charset=utf-8"


def bench_of(
    subject: Subject,
    *,
    strands: Sequence[Path] = (),
    monitors: Sequence[Path] = (),
    limits: Limits | None = None,
    prompts: int = PROMPTS,
    force: bool = False,
    state: Path = STATE,
    run: Path | None = None,
) -> Bench:
    """What a server needs, its engine not yet started.

    Raises:
        InputError: a network that writes no text. MissingError: a folder or file that is not there.
    """
    limits = limits or Limits()
    engine = Engine(subject, limits)
    shelf = Shelf(beside(subject), strands, monitors, prompts=prompts, force=force)
    jobs = Jobs()
    return Bench(engine, shelf, jobs, Metrics(engine, jobs), limits, name_of(subject), int(time.time()), state, run)


def name_of(subject: Subject) -> str:
    """What requests call the network: its hub id, or the last part of a path."""
    local = subject.source.get("kind") in ("folder", "gguf")
    return Path(subject.name).resolve().name if local else subject.name


def application(bench: Bench, address: Address) -> Any:
    """For an ASGI server; the engine runs from its start-up to its shutdown."""

    @asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        bench.engine.start()
        try:
            yield
        finally:
            bench.jobs.stop()
            bench.engine.stop()

    made = routes_of(bench)
    app = Starlette(
        routes=made,
        lifespan=life,
        exception_handlers={StrandscopeError: _told, HTTPException: _http, Exception: _bug},
    )
    app.router.redirect_slashes = False  # a redirect would give a client's path and host back in a header
    return _Counted(Guard(app, address), made, bench.metrics)


def routes_of(bench: Bench) -> list[Route]:
    """Every route of the server."""

    async def healthz(_request: Request) -> Response:
        return Json({"status": "ok"} if bench.engine.alive else {"status": "stopped"}, 200 if bench.engine.alive else 503)

    async def metrics(_request: Request) -> Response:
        return Response(bench.metrics.text(), headers={"Content-Type": METRICS})

    own = [Route("/healthz", healthz, methods=["GET"]), Route("/metrics", metrics, methods=["GET"])]
    return [*own, *page.routes(), *completions.routes(bench), *api.routes(bench)]


async def _told(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StrandscopeError)
    return error_response(ApiError.of(error))


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "path: there is nothing here", 405: "method: not for this path"}.get(error.status_code, "request: refused")
    return error_response(ApiError(error.status_code, said, code="no_such_route"))


async def _bug(_request: Request, _error: Exception) -> Response:
    """Starlette raises the error again after this, so that it is logged with its traceback."""
    return error_response(ApiError(500, BUG, kind="server_error", code="bug"))


class _Counted:
    """Counts answers by route and status: a route's own pattern, never the path that was asked for."""

    def __init__(self, app: Any, routes: Sequence[Route], metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics
        self.paths = {route.endpoint: route.path for route in routes}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen: list[int] = []

        async def send_on(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen.append(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        finally:
            route = self.paths.get(scope.get("endpoint"), "none")
            self.metrics.answers.labels(route, str(seen[0]) if seen else "none").inc()
