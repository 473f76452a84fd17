"""A tokenizer may make more tokens than the network has rows for: a text with one is refused at every way in, with its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tiny_chat
from pushing import opened
from strandscope.capture.examples import Examples
from strandscope.capture.record import capture
from strandscope.capture.tokens import tokenise
from strandscope.control.texts import replies
from strandscope.errors import InputError
from strandscope.subject.subject import Subject


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    made = opened(tiny_chat.save_model(tmp_path_factory.mktemp("beyond") / "model"))
    assert made.tokenizer is not None and made.vocabulary == 64
    made.tokenizer.add_tokens([f"§{number:02}" for number in range(20)])
    return made


def word(subject: Subject, token: int) -> str:
    assert subject.tokenizer is not None
    return str(subject.tokenizer.decode([token]))


def rows(text: str, *, chat: bool) -> Examples:
    own: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if chat else {"text": text}
    return Examples.from_rows([{"id": "one", "label": 0, **own}, {"id": "two", "label": 1, **own}], "odd")


DOORS: dict[str, Callable[[Subject, str], object]] = {
    "texts": lambda subject, text: capture(subject, rows(text, chat=False), "resid:1"),
    "chats": lambda subject, text: tokenise(subject, rows(text, chat=True)),
    "generate": lambda subject, text: subject.generate(text, 2),
    "replies": lambda subject, text: replies(subject, ["hello", text], 2),
    "token_states": lambda subject, text: subject.token_states(text, "resid:1"),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_token_beyond_the_table_is_refused_by_name(subject: Subject, door: str) -> None:
    DOORS[door](subject, f"a {word(subject, 63)} b")  # the last that there is
    with pytest.raises(InputError, match=r"(row|row one of odd|prompt): .* token 64 of '§.*', and the table of .* has 64; leave"):
        DOORS[door](subject, f"a {word(subject, 64)} b")
