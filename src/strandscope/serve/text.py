"""From tokens to text as they come, and the strings at which a reply is to stop.

A token may be a piece of a character, so text is given out when it is sure: when the characters that the newest tokens make are
whole. Of what might be the beginning of a stop string nothing is given out before it is known not to be one. All pieces in a row
are the reply, as the tokenizer writes it, up to the stop string.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"  # what a tokenizer writes for a character that is not whole


class Pieces:
    """The text of one reply.

    Args:
        tokenizer: of transformers.
        stops: strings at which the reply ends; they are not part of it.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._tokens: list[int] = []
        self._context = self._given = 0  # tokens before `_given` are told; they are decoded again from `_context` on
        self._held = ""  # text that may be the beginning of a stop string

    def add(self, token: int) -> str:
        """The text that is sure now and was not before."""
        self._tokens.append(token)
        told, now = self._decoded()
        if len(now) <= len(told) or now.endswith(BROKEN):
            return ""
        self._context, self._given = self._given, len(self._tokens)
        return self._sure(now[len(told) :])

    def rest(self) -> str:
        """What was held back, once no more tokens come."""
        told, now = self._decoded()
        last = "" if self.stopped else self._sure(now[len(told) :])
        held, self._held = self._held, ""
        return last if self.stopped else last + held

    def _decoded(self) -> tuple[str, str]:
        """From a few tokens back, up to what is told and up to the newest: how a token is written depends on the one before."""
        return tuple(
            str(self._tokenizer.decode(part, skip_special_tokens=True))
            for part in (self._tokens[self._context : self._given], self._tokens[self._context :])
        )  # type: ignore[return-value]

    def _sure(self, new: str) -> str:
        text = self._held + new
        first = min((place for place in (text.find(stop) for stop in self._stops) if place >= 0), default=-1)
        if first >= 0:
            self.stopped, self._held = True, ""
            return text[:first]
        keep = max((_begun(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of the text are the beginning of the string."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
