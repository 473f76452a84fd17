"""Traffic as lines of JSON, judged line by line: what `strandscope watch` does.

A row holds `text`, `messages`, or `states`, {site: [[…] a token]} that another engine took; then no network is needed. In a
monitor of chats a `text` is what a user says. Rows of one call are read in one batch; which rows stand together changes nothing
beyond rounding. Of all rows only the ranks of the drift alarm are kept.

A row of states is a whole sequence, so its first tokens are skipped as those of a text are; where it has no more than those,
or a text has not, there is nothing to judge, and that is said as of any other broken line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..capture.examples import Examples
from ..capture.record import stream
from ..errors import InputError
from ..subject.site import Site
from .drift import Drift
from .rows import Floats, Ints
from .sequence import Running
from .states import TEMPLATE, scored_tokens, states_of

if TYPE_CHECKING:
    from ..subject.subject import Subject
    from .monitor import Monitor

Line = tuple[int, bytes]  # number in the stream, from 1, and what it says


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that is no row, and the sentence that says why and where."""

    line: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a monitor says of one row.

    Attributes:
        id: the row's own, or its line's number. `score`, `probability`: by concept; no probability where none was calibrated.
        alarm: by concept that fired, the token at which it did: its number in the row, from 0, and its text where there is one.
        drift: the alarm of drift, in the one row that raised it: strand, site, anytime-valid p.
    """

    line: int
    id: str | int
    score: Mapping[str, float]
    probability: Mapping[str, float]
    alarm: Mapping[str, Mapping[str, Any]]
    drift: Mapping[str, Any] | None

    def as_json(self) -> str:
        told = {
            "id": self.id,
            "score": self.score,
            "probability": self.probability,
            "alarm": self.alarm or None,
            "drift": self.drift,
        }
        return json.dumps(told, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    line: int
    id: str | int
    example: Mapping[str, Any] | None
    states: Mapping[str, Tensor] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Tokens:
    """Scores (tokens, concepts + channels) from token number `first` on, and the tokens' ids where they are known."""

    scores: Floats
    first: int
    ids: Ints | None


class Watcher:
    """Rows in, verdicts out, in order.

    Args:
        subject: reads texts and messages; None where every row brings its states.
        drift: the alarm that every sequence is shown to; None for none. `Monitor.drift` makes one.

    Raises:
        TrustError: the network is not the monitor's.
    """

    def __init__(self, monitor: Monitor, subject: Subject | None, drift: Drift | None, *, force: bool = False) -> None:
        if subject is not None:
            monitor.check(subject.fingerprint, force=force)
        self.monitor, self.subject, self.drift = monitor, subject, drift
        self._concepts = monitor.concepts
        self._chats = monitor.template.get("format") == "chat"

    def read(self, lines: Sequence[Line]) -> Iterator[Verdict | Broken]:
        """A verdict, or what is wrong, for each line that is not blank."""
        rows = [self._parsed(number, text) for number, text in lines if text.strip()]
        texts = [row for row in rows if isinstance(row, _Row) and row.example is not None]
        read = self._batch(texts)
        for row in rows:
            if isinstance(row, Broken):
                yield row
                continue
            scored = read[row.line] if row.example is not None else self._of_states(row)
            yield scored if isinstance(scored, Broken) else self._verdict(row, scored)

    # --- lines ---

    def _parsed(self, number: int, text: bytes) -> _Row | Broken:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            said = f"not JSON ({error.msg} at column {error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)
            return Broken(number, f"line {number}: {said}; each line holds one object")
        if not isinstance(value, dict):
            return Broken(number, f'line {number}: got a JSON {type(value).__name__}, wanted an object such as {{"text": …}}')
        name = value.get("id", number)
        if isinstance(name, bool) or not isinstance(name, str | int):
            return Broken(number, f'line {number}: "id" is of type {type(name).__name__}, wanted a string')
        try:
            return _Row(number, name, *self._content(number, value))
        except InputError as error:
            return Broken(number, str(error))

    def _content(self, number: int, value: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Tensor] | None]:
        held = [key for key in ("text", "messages", "states") if key in value]
        if len(held) != 1:
            raise InputError(
                f'line {number}: got {" and ".join(held) or "none of them"}, wanted one of "text", "messages", "states"'
            )
        if held == ["states"]:
            return None, states_of(f"line {number}", value["states"], self.monitor.reader.channels.sites)
        if self.monitor.template == TEMPLATE:
            raise InputError(f'line {number}: "{held[0]}", and the monitor was calibrated on states; give "states"')
        if self.subject is None:
            raise InputError(f'line {number}: "{held[0]}" needs the network, and none is open; name the model, or give "states"')
        if held == ["text"] and self._chats and isinstance(value["text"], str) and value["text"].strip():
            value = {"messages": [{"role": "user", "content": value["text"]}]}
        elif held == ["messages"] and not self._chats:
            raise InputError(f'line {number}: "messages", and the monitor was calibrated on raw text; give "text"')
        row = {key: value[key] for key in ("text", "messages") if key in value}
        Examples.from_rows([row], f"line {number}")
        return row, None

    # --- scores ---

    def _batch(self, rows: Sequence[_Row]) -> dict[int, _Tokens | Broken]:
        """Scores of tokens by line; a row that the network refuses does not take others along."""
        if not rows:
            return {}
        try:
            return self._read(rows)
        except InputError as error:
            if len(rows) == 1:
                return {rows[0].line: Broken(rows[0].line, f"line {rows[0].line}: {error}")}
        return {line: read for row in rows for line, read in self._batch([row]).items()}

    def _read(self, rows: Sequence[_Row]) -> dict[int, _Tokens | Broken]:
        assert self.subject is not None
        examples = Examples.from_rows([{**(row.example or {}), "id": f"line {row.line}"} for row in rows], "rows")
        channels, found = self.monitor.reader.channels, {}
        for batch in stream(self.subject, examples, [Site.parse(s) for s in channels.sites], self.monitor.reader.positions):
            scores = channels.scores(channels.products({str(site): states for site, states in batch.states.items()}))
            for row in batch.rows.unique().tolist():
                own = (batch.rows == row).numpy()
                found[rows[row].line] = _Tokens(scores[own], int(batch.positions.numpy()[own][0]), batch.tokens.numpy()[own])
        return found

    def _of_states(self, row: _Row) -> _Tokens | Broken:
        assert row.states is not None
        reader = self.monitor.reader
        try:
            scores, first = scored_tokens(reader.channels.scores(reader.channels.products(row.states)), reader)
        except InputError as error:
            return Broken(row.line, f"line {row.line}: {error}")
        return _Tokens(scores, first, None)

    def _verdict(self, row: _Row, tokens: _Tokens) -> Verdict:
        count = len(self._concepts)
        running = Running(self.monitor.reader.aggregation, 1, (tokens.scores.shape[1],))
        thresholds, fired = self.monitor.thresholds, {}
        for place, scores in enumerate(tokens.scores):
            running._take(scores[None], np.zeros(1, dtype=np.int64))
            certain = running.certain()[0, :count] > thresholds
            for concept in np.flatnonzero(certain).tolist():
                fired.setdefault(self._concepts[concept], place)
        score = running.score()[0]
        for concept in np.flatnonzero(score[:count] > thresholds).tolist():
            fired.setdefault(self._concepts[concept], len(tokens.scores) - 1)
        by_concept = dict(zip(self._concepts, score[:count].tolist(), strict=True))
        curves = {name: self.monitor.judged[name].probability for name in self._concepts}
        chance = {name: float(curve([by_concept[name]])[0]) for name, curve in curves.items() if curve is not None}
        return Verdict(
            row.line, row.id, by_concept, chance, {name: self._at(tokens, at) for name, at in fired.items()}, self._drifted(score)
        )

    def _at(self, tokens: _Tokens, place: int) -> dict[str, Any]:
        """The number of a token in its row, and its text where there is one."""
        if tokens.ids is None or self.subject is None or self.subject.tokenizer is None:
            return {"token": tokens.first + place}
        return {"token": tokens.first + place, "text": str(self.subject.tokenizer.decode([int(tokens.ids[place])]))}

    def _drifted(self, score: Floats) -> dict[str, Any] | None:
        if self.drift is None:
            return None
        alarm = self.drift.update(score[len(self._concepts) :])
        if alarm is None:
            return None
        channel = self.monitor.reader.channels.rows[self.drift.channels.index(alarm.channel)]
        return {"strand": channel.concept, "site": channel.site, "sequences": alarm.row + 1, "p": alarm.p}
