"""A reply as OpenAI's clients read it, whole or in chunks as it is written, with what it was held by and what monitors said.

Beside OpenAI's own fields every answer has one of ours, `strandscope`:

    edits       the expression as read, its cost as measured, the dose of each push with the cost foretold and the edge, remarks
    monitors    by name: concepts, thresholds, `first` (number of the first token scored), `tokens` (a list of scores a token,
                one a concept), `score` of the whole, alarms: concept, token (its number in the row, from 0, the prompt's
                counted), whether that is in the prompt or the reply, its text, and the score; and `drift` of all that the
                monitor has read here without an edit: `sequences`, `p` (valid at any time), `level`, and the alarm or null
    ended       why: stop, length, alarm, time or cancelled
    seed, prompt_tokens, and token_texts of the whole row where they were asked for

In a stream the first chunk holds the edits and each monitor without scores, every chunk the scores that its pass read (`scores`:
by monitor, `first` and `tokens`) and the alarms it raised, the last one the summary. A token's score comes when the network has
read it, one pass after its text.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..report.entries import push
from .ask import Ended, Why, Wrote
from .protocol import Wanted, token_texts
from .wire import finite

if TYPE_CHECKING:
    from ..control.holding import Held
    from ..monitor.live import Fired
    from ..monitor.monitor import Monitor
    from ..subject.subject import Subject
    from .traffic import Traffic

_REASONS: dict[Why, str] = {"stop": "stop", "length": "length", "alarm": "content_filter", "time": "length", "cancelled": "stop"}


def held_json(held: Held) -> dict[str, Any]:
    """An expression with its readings."""
    doses = [
        {"term": str(term), **asdict(push("away" if term.amount < 0 else "toward", dose))}
        for term, dose in zip(held.expression.terms, held.doses, strict=True)
        if dose is not None
    ]
    return {"expression": str(held.expression), "cost": asdict(held.cost), "doses": doses, "told": list(held.told)}


@dataclass(eq=False)
class Reply:
    """Events of one request, as JSON."""

    subject: Subject
    model: str
    asked: Wanted
    held: Held | None
    monitors: Mapping[str, Monitor]
    traffic: Traffic
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    text: str = ""
    made: list[int] = field(default_factory=list)
    scores: dict[str, list[list[float | None]]] = field(default_factory=dict)
    alarms: list[tuple[str, Fired]] = field(default_factory=list)

    def take(self, event: Wrote | Ended) -> None:
        self.text += event.text
        self.alarms += event.alarms
        if isinstance(event, Wrote):
            self.made += [] if event.token is None else [event.token]
            for name, tokens in event.scores.items():
                self.scores.setdefault(name, []).extend(_rows(tokens))
        else:
            for name, channels in event.channels.items():
                self.traffic.take(name, self.monitors[name], channels)

    def whole(self, last: Ended) -> dict[str, Any]:
        """The answer, once `take` has had every event."""
        reason = _REASONS[last.why]
        if self.asked.chat:
            message = {"role": "assistant", "content": self.text, "refusal": None}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        else:
            choice = {"index": 0, "text": self.text, "logprobs": None, "finish_reason": reason}
        own = {**self._begun(), **self._ended(last)}
        for name, monitor in own["monitors"].items():
            monitor["tokens"] = self.scores.get(name, [])
        return {**self._head(), "choices": [choice], "usage": self.usage(last), "strandscope": own}

    # --- chunks ---

    def first(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""} if self.asked.chat else "", None, self._begun())

    def more(self, event: Wrote) -> dict[str, Any] | None:
        """The chunk of one pass; None where it has nothing to say."""
        own: dict[str, Any] = {}
        if event.scores:
            own["scores"] = {
                name: {"first": event.scored[name], "tokens": _rows(tokens)} for name, tokens in event.scores.items()
            }
        if event.alarms:
            own["alarms"] = [self._alarm(name, fired) for name, fired in event.alarms]
        if event.token is not None and (self.monitors or self.asked.token_texts):
            own["token"] = {"number": event.number, "id": event.token, "text": token_texts(self.subject, [event.token])[0]}
        return self._chunk(self._delta(event.text), None, own) if event.text or own else None

    def last(self, event: Ended) -> Iterator[dict[str, Any]]:
        own = {"alarms": [self._alarm(name, fired) for name, fired in event.alarms], **self._ended(event)}
        if event.text:
            yield self._chunk(self._delta(event.text), None, {})
        yield self._chunk({} if self.asked.chat else "", _REASONS[event.why], own)
        if self.asked.usage:
            yield {**self._head(), "choices": [], "usage": self.usage(event)}

    def _delta(self, text: str) -> Any:
        return {"content": text} if self.asked.chat else text

    def _chunk(self, delta: Any, reason: str | None, own: Mapping[str, Any]) -> dict[str, Any]:
        kind = "delta" if self.asked.chat else "text"
        choice = {"index": 0, kind: delta, "logprobs": None, "finish_reason": reason}
        more = {"usage": None} if self.asked.usage else {}
        return {**self._head(), "choices": [choice], **more, "strandscope": dict(own)}

    # --- parts ---

    def _head(self) -> dict[str, Any]:
        kind = "chat.completion" if self.asked.chat else "text_completion"
        chunk = ".chunk" if self.asked.stream and self.asked.chat else ""
        name = "chatcmpl" if self.asked.chat else "cmpl"
        return {"id": f"{name}-{self.id}", "object": kind + chunk, "created": self.created, "model": self.model}

    def usage(self, last: Ended) -> dict[str, int]:
        """Tokens; the one that ends a reply is counted with it."""
        total = last.prompt_tokens + last.tokens
        return {"prompt_tokens": last.prompt_tokens, "completion_tokens": last.tokens, "total_tokens": total}

    def _begun(self) -> dict[str, Any]:
        return {
            "edits": None if self.held is None else held_json(self.held),
            "seed": self.asked.sampling.seed,
            "prompt_tokens": len(self.asked.ids),
            "monitors": self._told(),
        }

    def _told(self) -> dict[str, dict[str, Any]]:
        return {
            name: {
                "concepts": list(monitor.concepts),
                "thresholds": [finite(value) for value in monitor.thresholds.tolist()],
                "first": monitor.reader.skip,
                "forced": monitor.fingerprint != self.subject.fingerprint,
            }
            for name, monitor in self.monitors.items()
        }

    def _ended(self, last: Ended) -> dict[str, Any]:
        told = self._told()
        for name, monitor in told.items():
            score = last.score.get(name)
            monitor["score"] = None if score is None else [finite(value) for value in score.tolist()]
            monitor["alarms"] = [self._alarm(*one) for one in self.alarms if one[0] == name]
            monitor["drift"] = self.traffic.told(name, self.monitors[name])
        texts = {"token_texts": token_texts(self.subject, self._row)} if self.asked.token_texts else {}
        return {"ended": last.why, "monitors": told, **texts}

    @property
    def _row(self) -> list[int]:
        return [*self.asked.ids, *self.made]

    def _alarm(self, name: str, fired: Fired) -> dict[str, Any]:
        (text,) = token_texts(self.subject, self._row[fired.token : fired.token + 1])
        where = "prompt" if fired.token < len(self.asked.ids) else "reply"
        named = {"monitor": name, "concept": fired.concept}
        return {**named, "token": fired.token, "in": where, "text": text, "score": finite(fired.score)}


def _rows(tokens: Any) -> list[list[float | None]]:
    return [[finite(value) for value in row] for row in tokens.tolist()]
