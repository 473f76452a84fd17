"""The routes under `/v1`: from a request to the engine, and from its events to an answer or a stream.

Who leaves takes his request along: a watcher waits for the client to go while the reply is made, and gives the row up. An error
before the first token is an answer with a status of its own; one in the middle of a stream is its last event, without `[DONE]`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..control.expression import Expression
from ..control.holding import Held
from ..errors import InputError, StrandscopeError
from .ask import Ask, Ended, Event, Failed, Watch, Wrote
from .engine import Engine, Limits
from .jobs import Jobs
from .metrics import Metrics
from .protocol import Wanted, model_object, wanted
from .reply import Reply
from .shelf import Shelf
from .traffic import Traffic
from .wire import ApiError, Json, dumps, error_response, json_of, quoted

if TYPE_CHECKING:
    from ..monitor.monitor import Monitor


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """Everything that routes share: the engine and what stands beside it. `model` is the name that requests give it, `state` the
    folder of saved settings, `run` that of a training run, `traffic` what the monitors have read."""

    engine: Engine
    shelf: Shelf
    jobs: Jobs
    metrics: Metrics
    limits: Limits
    model: str
    started: int
    state: Path
    run: Path | None = None
    traffic: Traffic = field(default_factory=Traffic)


def routes(bench: Bench) -> list[Route]:
    made = _Completions(bench)
    return [
        Route("/v1/models", made.models, methods=["GET"]),
        Route("/v1/models/{model:path}", made.model, methods=["GET"]),
        Route("/v1/chat/completions", made.chat, methods=["POST"]),
        Route("/v1/completions", made.completion, methods=["POST"]),
    ]


async def held_of(bench: Bench, expression: Expression | None, param: str) -> Held | None:
    """The expression made ready: at once where it has been, else by a job that this waits for.

    Raises:
        ApiError: a name that is not there, a dose that cannot be found, too much work waiting, a job that somebody cancelled.
    """
    if expression is None:
        return None
    held = bench.shelf.ready(str(expression))
    if held is not None:
        return held
    try:
        bench.shelf.check(expression)
        job = bench.jobs.submit(f"dose of {expression}", lambda report: bench.shelf.prepare(expression, report), kept=False)
    except StrandscopeError as error:
        raise ApiError.of(error, param) from None
    try:
        return await asyncio.wrap_future(job.future)
    except StrandscopeError as error:
        raise ApiError.of(error, param) from None
    except asyncio.CancelledError:
        if not job.unwanted:  # the client has gone
            raise
        said = f"{param}: the search for the dose of {quoted(str(expression))} was cancelled; ask again"
        raise ApiError(409, said, param=param, code="cancelled") from None


class _Heard:
    """Events of the engine's thread, taken in the server's."""

    def __init__(self) -> None:
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[Event]()

    def tell(self, event: Event) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def __aiter__(self) -> AsyncIterator[Wrote | Ended]:
        """Up to the end; raises what failed."""
        while True:
            event = await self._queue.get()
            if isinstance(event, Failed):
                raise ApiError(500, str(event.error), kind="server_error", code="failed")
            yield event
            if isinstance(event, Ended):
                return


class _Completions:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def models(self, _request: Request) -> Response:
        return Json({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        asked = request.path_params["model"]
        if asked != self.bench.model:
            said = f"model: got {quoted(asked)}, and this server has {self.bench.model!r} alone"
            raise ApiError(404, said, param="model", code="model_not_found")
        return Json(self._model())

    def _model(self) -> dict[str, Any]:
        return model_object(self.bench.model, self.bench.engine.subject, self.bench.started)

    async def chat(self, request: Request) -> Response:
        return await self._complete(request, chat=True)

    async def completion(self, request: Request) -> Response:
        return await self._complete(request, chat=False)

    async def _complete(self, request: Request, *, chat: bool) -> Response:
        start, bench = time.monotonic(), self.bench
        fields = await json_of(request, bench.limits.body)
        asked = wanted(fields, bench.engine.subject, bench.limits, bench.model, chat=chat)
        monitors = self._monitors(asked)
        making = asyncio.ensure_future(self._begin(asked, monitors, start))
        if asked.stream:
            return _Stream(making)
        answer = await _unless_gone(request.receive, _whole(making), making)
        return Response(status_code=499) if answer is None else Json(answer)  # 499: nobody reads it

    async def _begin(self, asked: Wanted, monitors: dict[str, Monitor], start: float) -> _Running:
        """Find doses, and hand the request in."""
        bench, subject = self.bench, self.bench.engine.subject
        held = await held_of(bench, asked.edits, "strandscope.edits")
        if held is not None and asked.within_the_law:
            _check_law(held)
        heard = _Heard()
        room = bench.limits.tokens if subject.context is None else min(bench.limits.tokens, subject.context - len(asked.ids))
        ask = Ask(
            asked.ids,
            max(1, room) if asked.new is None else asked.new,
            {} if held is None else held.edits,
            self._watches(asked, monitors),
            asked.sampling,
            asked.stops,
            bench.limits.seconds,
        )
        try:
            row = bench.engine.submit(ask, heard.tell)
        except StrandscopeError as error:
            raise ApiError.of(error) from None
        reply = Reply(subject, bench.model, asked, held, {name: monitors[name] for name in ask.watches}, bench.traffic)
        return _Running(reply, heard, lambda: bench.engine.cancel(row), bench.metrics, start)

    def _monitors(self, asked: Wanted) -> dict[str, Monitor]:
        """Those that the request names, and those that its gates wait for."""
        there, waited = self.bench.shelf.monitors, set() if asked.edits is None else self.bench.shelf.alarms_in(asked.edits)
        for name in [*(one.name for one in asked.monitors), *sorted(waited)]:
            if name not in there:
                said = f"monitors: there is none of the name {quoted(name)}; there are {', '.join(sorted(there)) or 'none'}"
                raise ApiError(400, said, param="strandscope.monitors", code="unknown_monitor")
        named = {one.name for one in asked.monitors}
        closed = sorted(waited & {one.name for one in asked.monitors if one.action != "edit"})
        if closed:
            said = f"monitors: the edits wait for {quoted(closed[0])}, whose action has to be edit then"
            raise ApiError(400, said, param="strandscope.monitors")
        return {name: there[name] for name in [*named, *sorted(waited - named)]}

    def _watches(self, asked: Wanted, monitors: dict[str, Monitor]) -> dict[str, Watch]:
        made: dict[str, Watch] = {
            one.name: Watch(monitors[one.name], one.action, one.judge, self.bench.shelf.force)  # type: ignore[arg-type]
            for one in asked.monitors
        }
        return made | {
            name: Watch(monitor, "edit", force=self.bench.shelf.force) for name, monitor in monitors.items() if name not in made
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """A request that the engine has."""

    reply: Reply
    heard: _Heard
    cancel: Any
    metrics: Metrics
    start: float

    async def events(self) -> AsyncIterator[Wrote | Ended]:
        """Each event, taken into the reply."""
        async for event in self.heard:
            if isinstance(event, Wrote) and not self.reply.made:
                self.metrics.first.observe(time.monotonic() - self.start)
            self.reply.take(event)
            if isinstance(event, Ended):
                self._count(event)
            yield event

    def _count(self, event: Ended) -> None:
        self.metrics.whole.observe(time.monotonic() - self.start)
        self.metrics.ends.labels(event.why).inc()
        self.metrics.alarms.inc(len(self.reply.alarms))


def _check_law(held: Held) -> None:
    try:
        for dose in held.doses:
            if dose is not None:
                dose.require_within(str(held.expression), True)
    except InputError as error:
        raise ApiError.of(error, "strandscope.edits") from None


async def _unless_gone(receive: Any, work: Coroutine[Any, Any, Any], making: asyncio.Future[_Running]) -> Any:
    """What the work gives; None where the client goes before, whose request is given up with it."""
    leaving, working = asyncio.ensure_future(_gone(receive)), asyncio.ensure_future(work)
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (leaving, working, making):
            task.cancel()
        await asyncio.gather(leaving, working, making, return_exceptions=True)
        if not making.cancelled() and making.exception() is None:
            making.result().cancel()  # of a reply that is whole this changes nothing


async def _gone(receive: Any) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _whole(making: asyncio.Future[_Running]) -> dict[str, Any]:
    running = await making
    last = None
    async for event in running.events():
        last = event
    assert isinstance(last, Ended)  # events end with it, or raise
    return running.reply.whole(last)


class _Stream(Response):
    """Server-sent events of one reply; an error before the first of them has a status of its own."""

    def __init__(self, making: asyncio.Future[_Running]) -> None:
        super().__init__()
        self._making = making

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await _unless_gone(receive, self._write(scope, receive, send), self._making)

    async def _write(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            running = await self._making
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        kind = (b"content-type", b"text/event-stream; charset=utf-8")
        await send({"type": "http.response.start", "status": 200, "headers": [kind]})
        try:
            async for chunk in _chunks(running):
                await _event(send, dumps(chunk))
            await _event(send, "[DONE]")
        except ApiError as error:
            await _event(send, dumps(error.as_json()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _chunks(running: _Running) -> AsyncIterator[dict[str, Any]]:
    yield running.reply.first()
    async for event in running.events():
        if isinstance(event, Ended):
            for chunk in running.reply.last(event):
                yield chunk
        elif (chunk := running.reply.more(event)) is not None:
            yield chunk


async def _event(send: Any, data: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
