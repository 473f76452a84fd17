"""Long work beside the chats, one at a time: with progress, a result or a sentence, and an end when it is no longer wanted.

One piece of work runs at a time, in the order in which they were asked for, each in a thread of its own; so many may wait and no
more. It is given a callback (stage, done, of) and is cancelled inside it, between two of its steps; work that never calls it can
be cancelled while it waits, and once begun runs to its end. What is finished is kept until so many newer ones are.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from ..engine.threads import in_thread
from ..errors import StrandscopeError
from .engine import Busy

Report = Callable[[str, int, int], None]
Work = Callable[[Report], Any]
Status = Literal["waiting", "running", "done", "failed", "cancelled"]
KEPT = 64
BUG = "a bug of the server's; its log says more"
LOG = logging.getLogger("strandscope.serve")


class Cancelled(StrandscopeError):
    """The work is no longer wanted."""


@dataclass(eq=False, slots=True)
class Job:
    """One piece of work; `result` is JSON, or an object for who waits for its future."""

    what: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    stage: str = ""
    done: int = 0
    of: int = 0
    unwanted: bool = False
    future: Future[Any] = field(default_factory=Future)

    def report(self, stage: str, done: int, of: int) -> None:
        if self.unwanted:
            raise Cancelled(f"{self.what}: was cancelled")
        self.stage, self.done, self.of = stage, done, of

    def cancel(self) -> None:
        self.unwanted = True
        self.future.cancel()

    @property
    def error(self) -> BaseException | None:
        return self.future.exception() if self.future.done() and not self.future.cancelled() else None

    @property
    def status(self) -> Status:
        if not self.future.done():
            return "running" if self.future.running() else "waiting"
        if self.future.cancelled() or isinstance(self.error, Cancelled):
            return "cancelled"
        return "done" if self.error is None else "failed"

    def as_json(self) -> dict[str, Any]:
        error = self.error
        status = self.status
        told = {"id": self.id, "what": self.what, "status": status, "stage": self.stage, "done": self.done, "of": self.of}
        return {
            **told,
            "error": None if error is None else str(error) if isinstance(error, StrandscopeError) else BUG,
            "result": self.future.result() if status == "done" else None,
        }


class Jobs:
    """Work that waits, runs and is done.

    Args:
        most: that may wait or run at once.
    """

    def __init__(self, most: int = 16) -> None:
        self.most = most
        self._jobs: dict[str, Job] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="strandscope jobs")

    def submit(self, what: str, work: Work, *, kept: bool = True) -> Job:
        """Let work wait for its turn; `kept` jobs are found again by their id.

        Raises:
            Busy: too much waits already.
        """
        self._forget()
        if sum(not job.future.done() for job in self.all()) >= self.most:
            raise Busy(f"{self.most} pieces of work wait already, and no more may; try again in a moment")
        job = Job(what)

        def run() -> Any:
            job.report("begun", 0, 0)
            return in_thread(lambda: work(job.report))

        job.future = self._pool.submit(run)
        self._jobs[job.id] = job
        job.future.add_done_callback(_log_bug)
        if not kept:
            job.future.add_done_callback(lambda _: self._jobs.pop(job.id, None))
        return job

    def get(self, id: str) -> Job | None:
        return self._jobs.get(id)

    def all(self) -> list[Job]:
        """Those that are remembered now; the worker may forget one meanwhile."""
        return list(self._jobs.values())

    def stop(self) -> None:
        """Cancel everything, and wait for the step that runs."""
        for job in self.all():
            job.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _forget(self) -> None:
        over = [job.id for job in self.all() if job.future.done()]
        for id in over[: max(0, len(over) - KEPT)]:
            self._jobs.pop(id, None)


def _log_bug(future: Future[Any]) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None and not isinstance(error, StrandscopeError):
        LOG.error("a job failed", exc_info=error)
