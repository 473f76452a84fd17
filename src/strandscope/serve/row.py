"""One request as a row of a batch: its edits, gates, monitors, draws and text; and the edits of several rows as those of a batch.

A gate and a monitor of a request see its own row alone, with its own tokens counted, whatever stands beside it and wherever in
the batch it stands: so what a request gets is what it would get by itself. Pushes of several rows at one site are added together,
each row its own, which gives the numbers that each would give alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..control.edit import Add
from ..control.gate import CoordinateGate
from ..control.together import AddEach
from ..errors import InputError, StrandscopeError
from ..monitor.live import Fired, Live, live_of
from ..subject.attach import Edit, Edits, Moment, Read
from ..subject.scope import Gate, Scope
from .ask import Ask, Ended, Failed, Tell, Why, Wrote
from .sampling import Draws
from .text import Pieces

if TYPE_CHECKING:
    from ..subject.site import Site
    from ..subject.subject import Subject

PLAIN = Scope()
Pair = tuple[Edit, Scope]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A gate that stands for the watch of this name in whichever request the edit is used; it opens nothing itself."""

    name: str

    @property
    def reads(self) -> Mapping[Site, Read]:
        return {}

    def open(self, state: Tensor, moment: Moment) -> Tensor:  # noqa: ARG002 (a gate's signature)
        return torch.zeros(state.shape[:2], dtype=torch.bool, device=state.device)

    def __str__(self) -> str:
        return self.name


class Row:
    """A request under way. `place` is its row in the batch of the pass that runs.

    Raises:
        InputError: a monitor that cannot do what it is asked, or a gate of a watch that is not there. TrustError: a monitor of
            another network.
    """

    def __init__(self, ask: Ask, subject: Subject, ends: Collection[int], tell: Tell) -> None:
        self.ask, self.place = ask, 0
        self.made: list[int] = []
        self.cancelled = False
        self._told = False  # how it ended
        self.deadline = time.monotonic() + ask.seconds
        self._ends, self._tell = ends, tell
        self._pieces = Pieces(subject.tokenizer, ask.stops)
        self.draws = Draws(ask.sampling)
        self._fired: list[tuple[str, Fired]] = []
        self._lives: dict[str, Live] = {}
        self._scored: dict[str, int] = {}
        self._slice: tuple[Moment, int, Moment] | None = None
        self.reads: list[tuple[Site, Read]] = []
        for name, watch in ask.watches.items():
            self._watch(name, watch, subject)
        gates: dict[int, Gate] = {}
        self.edits = {site: [self._own(pair, gates) for pair in pairs] for site, pairs in ask.edits.items()}

    # --- what belongs to the row alone ---

    def _watch(self, name: str, watch: Any, subject: Subject) -> None:
        def note(fired: Fired) -> None:
            self._fired.append((name, fired))

        live, reads = live_of(
            watch.monitor,
            subject,
            action=watch.action,
            judge=watch.judge,
            ends=self._ends,
            on_alarm=note,
            force=watch.force,
            channels=not self.ask.edits,
        )
        self._lives[name], self._scored[name] = live, 0
        self.reads += [(site, self._read(read)) for site, read in reads.items()]

    def _own(self, pair: Pair, gates: dict[int, Gate]) -> Pair:
        edit, scope = pair
        if scope.gate is None:
            return pair
        if id(scope.gate) not in gates:
            gates[id(scope.gate)] = _OfRow(self, self._gate(scope.gate))
        return edit, replace(scope, gate=gates[id(scope.gate)])

    def _gate(self, gate: Gate) -> Gate:
        if isinstance(gate, Alarm):
            if gate.name not in self._lives:
                raise InputError(f"edits: wait for an alarm of {gate.name!r}, and no such monitor watches; name it in monitors")
            live: Any = self._lives[gate.name]
            return live
        return replace(gate) if isinstance(gate, CoordinateGate) else gate  # what it remembers is a request's own

    def moment(self, whole: Moment) -> Moment:
        """Of a pass of the batch, what is this row's; made once a pass."""
        if self._slice is None or self._slice[0] is not whole or self._slice[1] != self.place:
            one = slice(self.place, self.place + 1)

            def part(held: Tensor | None) -> Tensor | None:
                return None if held is None else held[one]

            mine = replace(
                whole,
                content=part(whole.content),
                before=part(whole.before),
                seen=part(whole.seen),
                tokens=part(whole.tokens),
                prompt=part(whole.prompt),
                masks={},
            )
            self._slice = whole, self.place, mine
        return self._slice[2]

    def _read(self, read: Read) -> Read:
        return lambda state, moment: read(state[self.place : self.place + 1], self.moment(moment))

    # --- tokens ---

    @property
    def over(self) -> Why | None:
        """Why it is over before another pass, if it is."""
        return "cancelled" if self.cancelled else "time" if time.monotonic() > self.deadline else None

    @property
    def stopped_by_alarm(self) -> bool:
        """Whether a monitor that is to stop it has fired in the pass that has just run."""
        return any(live.action == "stop" and bool(live.fired.any()) for live in self._lives.values())

    def wrote(self, token: int | None) -> Why | None:
        """Take the token chosen after a pass (None where the reply ends before it), tell, and say why the reply is over, if it
        is."""
        self._slice = None
        number = len(self.ask.ids) + len(self.made)
        text = ""
        if token is not None:
            self.made.append(token)
            text = "" if token in self._ends else self._pieces.add(token)
        scores, scored = {}, {}
        for name, live in self._lives.items():
            new = live.scored(0, self._scored[name])
            if len(new):
                scores[name], scored[name] = new, live.monitor.reader.skip + self._scored[name]
                self._scored[name] += len(new)
        self._tell(Wrote(token, number, text, scores, scored, self._alarms()))
        if token is None:
            return "alarm"
        if token in self._ends or self._pieces.stopped:
            return "stop"
        return "length" if len(self.made) >= self.ask.max_new_tokens else None

    def _alarms(self) -> tuple[tuple[str, Fired], ...]:
        fired, self._fired = tuple(self._fired), []
        return fired

    def end(self, why: Why) -> None:
        for live in self._lives.values():
            live.close()
        watched = {name: live.sequences[-1] for name, live in self._lives.items() if live.sequences}
        score = {name: one.score for name, one in watched.items()}
        channels = {name: one.channels for name, one in watched.items() if one.channels is not None}
        self._tell_end(Ended(why, self._pieces.rest(), len(self.ask.ids), len(self.made), score, self._alarms(), channels))

    def fail(self, error: StrandscopeError) -> None:
        self._tell_end(Failed(error))

    def _tell_end(self, event: Ended | Failed) -> None:
        if not self._told:
            self._told = True
            self._tell(event)


@dataclass(frozen=True, slots=True, eq=False)
class _OfRow:
    """A gate that sees one row of the batch, and speaks for it alone."""

    row: Row
    gate: Gate

    @property
    def reads(self) -> Mapping[Site, Callable[[Tensor, Moment], None]]:
        return {site: self.row._read(read) for site, read in self.gate.reads.items()}

    def open(self, state: Tensor, moment: Moment) -> Tensor:
        mask = torch.zeros(state.shape[:2], dtype=torch.bool, device=state.device)
        one = slice(self.row.place, self.row.place + 1)
        mask[one] = self.gate.open(state[one], self.row.moment(moment))
        return mask

    def __str__(self) -> str:
        return str(self.gate)


# --- rows together ---


def reads_of(rows: Sequence[Row]) -> dict[Site, Read]:
    """What monitors of all rows read, as one read a site."""
    found: dict[Site, list[Read]] = {}
    for row in rows:
        for site, read in row.reads:
            found.setdefault(site, []).append(read)
    return {site: _all(reads) for site, reads in found.items()}


def _all(reads: Sequence[Read]) -> Read:
    def read(state: Tensor, moment: Moment) -> None:
        for one in reads:
            one(state, moment)

    return read


def edits_of(rows: Sequence[Row]) -> Edits:
    """The edits of a batch of decoded tokens in which each row has its own, applied to each in its own order."""
    sites = dict.fromkeys(site for row in rows for site in row.edits)
    made: dict[Site, list[Pair]] = {}
    for site in sites:
        own = [[pair for pair in map(_decoding, row.edits.get(site, ())) if pair is not None] for row in rows]
        made[site] = [pair for layer in zip_longest(*own) for pair in _layer(layer)]
    return made


def _decoding(pair: Pair) -> Pair | None:
    """The edit in a pass of one generated token a row, which is the row's last; None where it is not for such tokens."""
    edit, scope = pair
    if scope.phase == "prompt":
        return None
    if isinstance(scope.positions, tuple) or scope.window or scope.tokens is not None or scope.exclude or scope.gate is not None:
        return pair
    return edit, PLAIN


def _layer(pairs: Sequence[Pair | None]) -> list[Pair]:
    """What comes first, second, … in the rows: pushes as one, others each for the rows that it belongs to."""
    pushes = {row: pair[0] for row, pair in enumerate(pairs) if pair and isinstance(pair[0], Add) and pair[1] is PLAIN}
    made: list[Pair] = []
    if pushes:
        width = len(next(iter(pushes.values())).direction)
        steps = torch.zeros(len(pairs), width, dtype=torch.float64)
        for row, push in pushes.items():
            steps[row] = push.scale * push.direction.double()
        made.append((AddEach(steps), PLAIN))
    others: dict[tuple[int, Scope], tuple[Edit, list[int]]] = {}
    for row, pair in enumerate(pairs):
        if pair is not None and row not in pushes:
            others.setdefault((id(pair[0]), pair[1]), (pair[0], []))[1].append(row)
    whole = len(pairs)
    for (_, scope), (edit, rows) in others.items():
        made.append((edit, scope if len(rows) == whole else replace(scope, rows=tuple(rows))))
    return made
