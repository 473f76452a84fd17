"""The routes under `/api`, for a page: what is on the shelf, what edits cost, finding a strand, jobs, settings, a training run.

    GET    /api/subject              the network, its anatomy and fingerprint; limits of this server
    GET    /api/strands              strands, erasers, monitors with the drift of what they have read, and the files that were
                                     left out with a sentence each
    POST   /api/strands/reload       read the folders again
    POST   /api/cost                 {"edits": TEXT}: a job whose result is what a chat's `strandscope.edits` holds
    POST   /api/price                {"file": FILE, "positions": "last" | "all"}: a job whose result has χ, a, b, the edge in
                                     lengths and in nats, and the curve of measured against foretold cost
    POST   /api/find                 {"name", "positive": [TEXT…], "negative": [TEXT…], "at", "position", "permutations", "seed",
                                     "raw", "save"}: a job; where it is to be saved, a name that is there already is refused
                                     (409), and the strand stands on the shelf when it is done if it was detected: its `file`
                                     says as what, or `not_saved` why not
    GET    /api/jobs                 every job that is remembered; /api/jobs/ID one of them
    DELETE /api/jobs/ID              cancel it: while it waits, or between two of its steps
    GET    /api/settings             names; GET, PUT and DELETE /api/settings/NAME any JSON object
    GET    /api/run?since=N          the recorder's run: `about`, and its lines after line N; `last` is what to ask for next;
                                     `again`: these are all that count, and earlier answers do not; `reason`: why there is none

A job is {"id", "what", "status": waiting | running | done | failed | cancelled, "stage", "done", "of", "error", "result"}.
Readings are {"value", "low", "high", "level", "n", "unit", "null", "method", "status", "reason"}.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .. import __version__
from ..capture.examples import Examples
from ..capture.record import capture
from ..control.bench import Bench as CostBench
from ..control.expression import Expression
from ..control.price import price
from ..errors import InputError, StrandscopeError
from ..io import read_json, write_json
from ..reading import Reading
from ..report.asked import Asked, checked
from ..report.entries import measured, subject_entry
from ..report.monitored import entry
from ..report.record import as_json
from ..strand.find import Found, check_permutations, find
from ..strand.strand import Strand
from .completions import Bench, held_of
from .jobs import Job, Report
from .recorded import recorded
from .reply import held_json
from .wire import ApiError, Json, json_of, quoted

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TEXTS, SETTINGS = 5000, 200


def routes(bench: Bench) -> list[Route]:
    made = _Api(bench)
    table: list[tuple[str, str, Callable[[Request], Any]]] = [
        ("GET", "/api/subject", made.subject),
        ("GET", "/api/strands", made.strands),
        ("POST", "/api/strands/reload", made.reload),
        ("POST", "/api/cost", made.cost),
        ("POST", "/api/price", made.price),
        ("POST", "/api/find", made.find),
        ("GET", "/api/jobs", made.jobs),
        ("GET", "/api/jobs/{id}", made.job),
        ("DELETE", "/api/jobs/{id}", made.cancel),
        ("GET", "/api/settings", made.settings),
        ("GET", "/api/settings/{name}", made.setting),
        ("PUT", "/api/settings/{name}", made.save),
        ("DELETE", "/api/settings/{name}", made.forget),
        ("GET", "/api/run", made.run),
    ]
    return [Route(path, endpoint, methods=[method]) for method, path, endpoint in table]


class _Api:
    def __init__(self, bench: Bench) -> None:
        self.bench, self.shelf = bench, bench.shelf

    # --- what there is ---

    async def subject(self, _request: Request) -> Response:
        subject, limits = self.bench.engine.subject, self.bench.limits
        about = as_json(subject_entry(subject, subject.checks))
        more = {"model": self.bench.model, "context": subject.context, "chats": subject.chats, "limits": asdict(limits)}
        return Json({**about, **more, "version": __version__, "batched": self.bench.engine.batched})

    async def strands(self, _request: Request) -> Response:
        return Json(self._shelf())

    def _shelf(self) -> dict[str, Any]:
        network, shelf = self.bench.engine.subject.fingerprint, self.shelf
        held = []
        for file, one in shelf.files.items():
            about: dict[str, Any] = {"file": file, "name": one.name, "site": one.site, "position": one.position}
            about["forced"] = one.fingerprint != network
            if isinstance(one, Strand):
                classes = list(one.provenance.get("classes", ()))
                about |= {"kind": "strand", "positive": one.positive, "rank": one.rank, "method": one.method, "classes": classes}
                about |= {"pushes": one.rank == 1 and len(classes) <= 2, "evidence": asdict(one.evidence)}
            else:
                about |= {"kind": "eraser", "rank": one.read.shape[1], "classes": list(one.classes), "rows": one.n}
            held.append(about)
        return {
            "strands": held,
            "monitors": [
                {"name": name, **as_json(entry(monitor)), "drift": self.bench.traffic.told(name, monitor)}
                for name, monitor in shelf.monitors.items()
            ],
            "left_out": [{"file": broken.file, "sentence": broken.sentence} for broken in shelf.broken],
        }

    async def reload(self, _request: Request) -> Response:
        await asyncio.to_thread(self.shelf.load)
        return Json(self._shelf())

    # --- work ---

    async def cost(self, request: Request) -> Response:
        fields = await json_of(request, self.bench.limits.body)
        text = fields.text("edits", most=10_000)
        fields.done()
        try:
            expression = Expression.parse(text)
            self.shelf.check(expression)
        except InputError as error:
            raise ApiError.of(error, "edits") from None
        if self.shelf.ready(str(expression)) is not None:
            held = await held_of(self.bench, expression, "edits")
            assert held is not None
            done = {"id": None, "what": f"cost of {expression}", "status": "done", "stage": "", "done": 0, "of": 0, "error": None}
            return Json({**done, "result": held_json(held)})
        return self._started(f"cost of {expression}", lambda report: held_json(self.shelf.prepare(expression, report)))

    async def price(self, request: Request) -> Response:
        fields = await json_of(request, self.bench.limits.body)
        file, positions = fields.text("file", most=1000), fields.text("positions", "all", most=10)
        fields.done()
        strand = self.shelf.files.get(file)
        if not isinstance(strand, Strand):
            raise ApiError(404, f"file: there is no strand {quoted(file)}", param="file", code="unknown_strand")
        where: Literal["last", "all"] = "last" if positions == "last" else "all"
        if positions != where:
            raise fields.wrong("positions", positions, "last or all")

        def work(report: Report) -> Any:
            report("what the plain network says", 0, 1)
            prompts = CostBench.of(self.shelf.subject, self.shelf.prompts)
            found = price(prompts, strand.site, strand.direction(), where, progress=report)
            kept = ("site", "positions", "chi", "a", "b", "edge", "nats", "rounding", "prompts")
            told = {name: _plain(getattr(found, name)) for name in kept}
            curve = [asdict(point) for point in found.curve]
            return {**told, "toward": found.toward.verdict, "away": found.away.verdict, "curve": curve}

        return self._started(f"price of {strand.name} at {strand.site}", work)

    async def find(self, request: Request) -> Response:
        fields = await json_of(request, self.bench.limits.body)
        name = fields.text("name", most=64)
        classes = {"yes": self._texts(fields, "positive"), "no": self._texts(fields, "negative")}
        at, position = fields.text("at", "resid:*", most=200), fields.text("position", "last", most=10)
        permutations, seed = fields.whole("permutations", 200, 0, 10_000), fields.whole("seed", 0, 0, 2**31)
        raw, save = fields.flag("raw"), fields.flag("save")
        fields.done()
        assert permutations is not None and seed is not None
        if not _NAME.fullmatch(name):
            raise fields.wrong("name", name, "letters, digits, - and _, at most 64")
        if position not in ("last", "mean"):
            raise fields.wrong("position", position, "last or mean")
        subject, folder = self.shelf.subject, next((path for path in self.shelf.folders if path.is_dir()), None)
        if save and folder is None:
            raise ApiError(400, "save: this server was started without a folder of strands (--strands DIR)", param="save")
        rows = [
            {"id": f"{label} {number}", "label": label, **_row(text, subject.chats and not raw)}
            for label, texts in classes.items()
            for number, text in enumerate(texts)
        ]
        try:
            check_permutations(permutations)
            (asked,) = checked([Examples.from_rows(rows, name)])
            subject.sites(at)
        except InputError as error:
            raise ApiError.of(error) from None
        taken = self.shelf.taken(name, folder / asked.file) if save and folder is not None else None
        if taken is not None:
            raise ApiError(409, f"name: {taken}; give the strand another name", param="name", code="name_taken")

        def work(report: Report) -> Any:
            states = capture(
                subject, asked.examples, at, position, progress=lambda done, of: report("states", done, of)  # type: ignore[arg-type]
            )  # fmt: skip
            found = find(states, permutations=permutations, seed=seed, progress=report)
            made = as_json(measured(found, asked))
            not_saved = self._save(found, asked, folder) if save and folder is not None else "it was not asked for"
            strand = made["strand"] | {"file": None if not_saved else asked.file, "not_saved": not_saved}
            return {"verdict": found.verdict, **made, "strand": strand}

        return self._started(f"find {name}", work)

    def _save(self, found: Found, asked: Asked, folder: Path) -> str | None:
        """Put a strand that was detected on the shelf; why it is not there, if it is not."""
        if found.verdict != "detected":
            return f"it was {found.verdict}"
        taken = self.shelf.taken(asked.name, folder / asked.file)  # since it was asked for
        if taken is not None:
            return taken
        found.best.save(folder / asked.file)
        self.shelf.load()
        if asked.file in self.shelf.files:
            return None
        said = [broken.sentence for broken in self.shelf.broken if broken.file == asked.file]
        return " ".join([f"{asked.file} was written and left out.", *said])

    def _texts(self, fields: Any, key: str) -> list[str]:
        texts = fields.items(key, "texts", most=TEXTS)
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise fields.wrong(key, texts, "texts that are not empty")
        return texts

    def _started(self, what: str, work: Callable[[Report], Any]) -> Response:
        return Json(self.bench.jobs.submit(what, work).as_json(), 202)

    async def jobs(self, _request: Request) -> Response:
        return Json({"jobs": [{**job.as_json(), "result": None} for job in self.bench.jobs.all()]})

    async def job(self, request: Request) -> Response:
        return Json(self._job(request).as_json())

    async def cancel(self, request: Request) -> Response:
        job = self._job(request)
        job.cancel()
        return Json(job.as_json())

    def _job(self, request: Request) -> Job:
        job = self.bench.jobs.get(request.path_params["id"])
        if job is None:
            raise ApiError(404, "job: there is none of that id, or it is forgotten", code="unknown_job")
        return job

    # --- settings ---

    async def settings(self, _request: Request) -> Response:
        folder = self.bench.state
        return Json({"settings": sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []})

    async def setting(self, request: Request) -> Response:
        return Json(read_json(self._file(request, there=True)))

    async def save(self, request: Request) -> Response:
        fields = await json_of(request, self.bench.limits.body)
        path = self._file(request)
        if not path.exists() and self.bench.state.is_dir() and len(list(self.bench.state.glob("*.json"))) >= SETTINGS:
            raise ApiError(400, f"settings: {SETTINGS} are kept already; delete one first", code="too_many_settings")
        write_json(path, fields.all())
        return Json({"saved": path.stem})

    async def forget(self, request: Request) -> Response:
        path = self._file(request, there=True)
        path.unlink(missing_ok=True)
        return Json({"deleted": path.stem})

    def _file(self, request: Request, *, there: bool = False) -> Path:
        name = request.path_params["name"]
        if not _NAME.fullmatch(name):
            raise ApiError(400, "name: wanted letters, digits, - and _, at most 64", param="name")
        path = self.bench.state / f"{name}.json"
        if there and not path.is_file():
            raise ApiError(404, f"settings: there are none of the name {name}", code="unknown_settings")
        return path

    # --- a training run ---

    async def run(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")
        if not since.isascii() or not since.isdecimal() or len(since) > 9:
            raise ApiError(400, "since: wanted a whole number from 0 on", param="since")

        def answer() -> Response:
            return Json(recorded(self.bench.run, int(since)))

        try:
            return await asyncio.to_thread(answer)  # a long record takes a second to read and to write
        except StrandscopeError as error:
            raise ApiError.of(error, "run") from None


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Reading) else value


def _row(text: str, chat: bool) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]} if chat else {"text": text}
