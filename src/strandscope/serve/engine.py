"""Requests in, tokens out: one thread that owns the network, admits who waits and decodes who is there, pass by pass.

Between two passes it lets go of rows that were given up or whose time is over, then lets in those that wait while there is room,
in the order in which they came. Hooks hang on the network during a pass alone. Events are told from that thread; who is told
hands them on and returns at once. Whatever goes wrong with a request while it comes in fails that one, and in a pass those that
stand in it; the next are served.

Work of another kind in the same network (doses, finding) goes to `beside`: a second tree of modules over the same weights, whose
hooks are its own, so that neither sees the other.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError, StrandscopeError, TrustError
from .ask import Ask, Tell
from .batch import Batch, check_serves
from .row import Row

if TYPE_CHECKING:
    from ..subject.subject import Subject


LOG = logging.getLogger("strandscope.serve")
FAILURES = (
    StrandscopeError, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


class Busy(StrandscopeError):
    """No more requests may wait."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server gives: rows at once, requests that wait beside them, new tokens and seconds of each, bytes of a body."""

    rows: int = 8
    waiting: int = 32
    tokens: int = 2048
    seconds: float = 600.0
    body: int = 1 << 20


@dataclass(slots=True)
class Counts:
    """What has passed through since the start."""

    requests: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    passes: int = 0
    seconds: float = 0.0  # in passes


class Engine:
    """A network that several requests use at once.

    Raises:
        InputError: the network writes no text.
    """

    def __init__(self, subject: Subject, limits: Limits | None = None) -> None:
        check_serves(subject)
        self.subject, self.limits, self.counts = subject, limits or Limits(), Counts()
        self._batch = Batch(subject)
        self._waiting: deque[Row] = deque()
        self._entering: Row | None = None  # neither waiting nor in the batch
        self._changed = threading.Condition()
        self._stopping = False
        self._ends = ends_of(subject)
        self._thread = threading.Thread(target=self._run, name="strandscope engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Fail what is under way, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def batched(self) -> bool:
        """Whether several rows are decoded together; as far as that is known before the first one."""
        return self._batch.wide

    @property
    def _room(self) -> int:
        """Rows that may stand together."""
        return self.limits.rows if self._batch.wide else 1

    @property
    def running(self) -> int:
        """Rows that are decoded now."""
        return len(self._batch.rows)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def positions(self) -> int:
        """Positions that the cache holds now, padding counted."""
        return self._batch.positions

    def submit(self, ask: Ask, tell: Tell) -> Row:
        """Let a request wait for its turn; `cancel` gives it up.

        Raises:
            Busy: too many wait. InputError: the prompt is empty, or longer with its reply than the context.
            TrustError: a monitor of another network.
        """
        self.subject.require_room(len(ask.ids), ask.max_new_tokens)
        row = Row(ask, self.subject, self._ends, tell)
        with self._changed:
            if not self.alive or self._stopping:
                raise TrustError("the engine has stopped; start the server again")
            taken = {*self._batch.rows, *self._waiting, self._entering} - {None}  # each comes in by waiting, though there be room
            if len(taken) >= self._room + self.limits.waiting:
                raise Busy(f"{len(taken)} requests run or wait already, and no more may; try again in a moment")
            self._waiting.append(row)
            self.counts.requests += 1
            self._changed.notify()
        return row

    def cancel(self, row: Row) -> None:
        """Give a request up: it leaves before the next pass, or at once where it waits, and is told so."""
        with self._changed:
            row.cancelled = True
            waits = row in self._waiting
            if waits:
                self._waiting.remove(row)
            self._changed.notify()
        if waits:
            row.end("cancelled")

    # --- the thread ---

    def _run(self) -> None:
        try:
            while self._admitted():
                if self._batch.rows:
                    self._step()
        finally:
            self._fail_all(TrustError("the engine has stopped; start the server again"))

    def _admitted(self) -> bool:
        """Let rows go and others in, waiting while there is nothing to do; False when it is to end."""
        with self._changed:
            while not (self._waiting or self._batch.rows or self._stopping):
                self._changed.wait()
        try:
            self._batch.drop_finished()
        except FAILURES as error:
            self._fail_batch(error)
        while (row := self._next()) is not None:
            try:
                self._enter(row)
            except FAILURES as error:
                row.fail(_readable(error))
            self._entering = None
        return not self._stopping

    def _next(self) -> Row | None:
        """Who comes in now, if there is room."""
        with self._changed:
            if self._stopping or not self._waiting or len(self._batch.rows) >= self._room:
                return None
            self._entering = self._waiting.popleft()
            return self._entering

    def _enter(self, row: Row) -> None:
        """Let a row in; one that was given up while it waited is told so."""
        why = row.over
        if why is not None:
            row.end(why)
            return
        start = time.monotonic()
        self._batch.admit(row)
        self._count(start, len(row.ask.ids), 1)

    def _step(self) -> None:
        start, rows = time.monotonic(), len(self._batch.rows)
        try:
            self._batch.step()
            self._count(start, 0, rows)
        except FAILURES as error:
            self._fail_batch(error)

    def _fail_batch(self, error: Exception) -> None:
        said = _readable(error)
        for row in self._batch.clear():
            row.fail(said)

    def _count(self, start: float, prompt: int, tokens: int) -> None:
        counts = self.counts
        counts.passes += 1
        counts.prompt_tokens += prompt
        counts.tokens += tokens
        counts.seconds += time.monotonic() - start

    def _fail_all(self, error: StrandscopeError) -> None:
        with self._changed:
            self._stopping = True
            left = [*self._batch.clear(), *([] if self._entering is None else [self._entering]), *self._waiting]
            self._waiting.clear()
        for row in left:
            row.fail(error)


def _readable(error: Exception) -> StrandscopeError:
    if isinstance(error, StrandscopeError):
        return error
    LOG.error("a pass failed", exc_info=error)
    said = (str(error).strip() or "no message").splitlines()[0]
    return TrustError(f"the network's pass failed ({type(error).__name__}: {said}); ask for a shorter text, or for fewer at once")


def ends_of(subject: Subject) -> frozenset[int]:
    """Tokens that end a reply, as `generate` has them; the tokenizer's where the network names none."""
    said: Any = getattr(getattr(subject.module, "generation_config", None), "eos_token_id", None)
    if said is None and subject.tokenizer is not None:
        said = subject.tokenizer.eos_token_id
    return frozenset(said if isinstance(said, list) else [] if said is None else [said])


def beside(subject: Subject) -> Subject:
    """The same network as a second tree of modules over the same weights: hooks on one are none on the other.

    Raises:
        InputError: a network that keeps other state than weights and cannot be copied.
    """
    shared = {id(weight): weight for weight in [*subject.module.parameters()]}
    try:
        module = copy.deepcopy(subject.module, shared)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{subject.name}: its modules cannot be copied beside each other ({error}); serve another") from error
    return replace(subject, module=module, _ports={})
