"""Parts of the engine by themselves: what is drawn from a distribution, and the text that tokens make piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import tiny_chat
from pushing import opened
from strandscope.errors import InputError
from strandscope.serve.sampling import Draws, Sampling
from strandscope.serve.text import Pieces
from strandscope.subject.subject import Subject


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return opened(tiny_chat.save_model(tmp_path_factory.mktemp("model")))


# --- sampling ---


def test_draws_have_the_chances_of_the_softmax_and_its_nucleus() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, -1.0, 2.5])
    for temperature, top_p, allowed in ((0.7, 1.0, [0, 1, 2, 3, 4]), (0.7, 0.8, [1, 4]), (2.0, 0.01, [1])):
        draws = Draws(Sampling(temperature, top_p, 5))
        found = np.bincount([draws.token(logits) for _ in range(4000)], minlength=5) / 4000
        wanted = (logits.double() / temperature).softmax(-1).numpy()
        kept = np.where(np.isin(np.arange(5), allowed), wanted, 0)
        kept /= kept.sum()
        assert np.abs(found - kept).max() < 4.5 * 0.5 / 4000**0.5  # 4.5 standard errors at most
        assert (found[kept == 0] == 0).all()


@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-30])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_a_temperature_near_none_takes_the_likeliest(temperature: float, top_p: float) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 30
    draws = Draws(Sampling(temperature, top_p, 3))
    assert {draws.token(logits) for _ in range(20)} == {int(logits.argmax())}


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"temperature": 3}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}])
def test_sampling_refuses_what_it_cannot_do(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(**wrong)


# --- text ---


def test_pieces_are_the_text(subject: Subject) -> None:
    tokenizer: Any = subject.tokenizer
    made = np.random.default_rng(1).integers(0, 50, size=60).tolist()
    pieces = Pieces(tokenizer)
    told = [pieces.add(token) for token in made]
    assert "".join([*told, pieces.rest()]) == tokenizer.decode(made, skip_special_tokens=True)
    assert sum(map(bool, told)) > 30


class Bytes:
    """A tokenizer whose tokens are bytes, as those that know no unknown word have."""

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


@pytest.mark.parametrize(
    ("text", "stops", "wanted"),
    [
        ("ab€c😀d", (), "ab€c😀d"),
        ("one STOP two", ("STOP",), "one "),
        ("one STO two STOx", ("STOP",), "one STO two STOx"),
        ("aab", ("ab", "b"), "a"),
        ("éé\n\nno", ("\n\n",), "éé"),
        ("ends on ST", ("STOP",), "ends on ST"),
        ("€uro", ("€",), ""),
    ],
)
def test_a_stop_string_is_never_given_out_nor_half_a_character(text: str, stops: tuple[str, ...], wanted: str) -> None:
    pieces, told = Pieces(Bytes(), stops), ""
    for byte in text.encode():
        told += pieces.add(byte)
        assert wanted.startswith(told) and "\ufffd" not in told
        if pieces.stopped:
            break
    assert told + pieces.rest() == wanted and pieces.stopped == (wanted != text)


def test_a_character_that_is_never_whole_comes_out_at_the_end() -> None:
    pieces = Pieces(Bytes())
    assert [pieces.add(byte) for byte in (97, 0xE2, 0x82)] == ["a", "", ""] and pieces.rest() == "\ufffd"
