"""What a push costs beside its effect: how well neutral text is still predicted, how much replies repeat, nats per reply.

Everything is paired with the plain network: a passage with itself, a reply with the plain reply to the same prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..capture.examples import Examples
from ..capture.tokens import TokenRows, tokenise
from ..capture.tokenwise import predicted
from ..reading import Reading
from ..statistics.effect import move_reading
from ..subject.attach import Edits
from .replies import ReplyBench

if TYPE_CHECKING:
    from ..subject.subject import Subject

Floats = NDArray[np.float64]

GRAM = 4  # words
WIDEST = 6  # characters of a token


@dataclass(frozen=True)
class NeutralText:
    """Passages, and how well the plain network predicts each: mean log-probability and accuracy over its tokens."""

    subject: Subject
    passages: Examples
    rows: TokenRows
    said: Floats
    hit: Floats

    @classmethod
    def of(cls, subject: Subject, passages: Examples, tokens: int = 128) -> NeutralText:
        """The first so many tokens of each passage, of at most six characters a token, so that none is longer than a context."""
        cut = [replace(row, input=text[: WIDEST * tokens]) for row, text in zip(passages.rows, passages.texts(), strict=True)]
        whole = tokenise(subject, replace(passages, rows=tuple(cut), kind="text"))
        rows = TokenRows(tuple(row[:tokens] for row in whole.ids), whole.content, whole.names, whole.template)
        return cls(subject, passages, rows, *predicted(subject, rows))

    def under(self, edits: Edits) -> tuple[Floats, Floats]:
        """(passages,) rise of the cross-entropy in nats per token, and change of the accuracy."""
        said, hit = predicted(self.subject, self.rows, edits)
        return self.said - said, hit - self.hit


@dataclass(frozen=True, slots=True)
class Cost:
    """`perplexity` is the factor by which it rises on neutral passages, the exponential of `entropy`, the rise of the mean
    cross-entropy; `accuracy` the change of the share of tokens predicted right; `repetition` the change of the share of a reply's
    4-grams that are repeats; `reply` the sum of KL over a reply of the plain network."""

    entropy: Reading
    perplexity: Reading
    accuracy: Reading
    repetition: Reading
    reply: Reading


def cost_of(
    text: NeutralText,
    replies: ReplyBench | None,
    edits: Edits,
    pairs: tuple[Sequence[str], Sequence[str], NDArray[np.int64]] | None,
) -> Cost:
    """The cost of edits.

    Args:
        pairs: texts plain and pushed, prompt by prompt, and the prompts' topics.
    """
    rise, change = text.under(edits)
    kinds = text.passages.groups
    where = f"{len(rise)} neutral passages, edited less plain"
    entropy = move_reading(rise, kinds, "nats per token", f"cross-entropy of {where}")
    reply = (
        Reading.not_measured("no replies were drawn", unit="nats per reply", method="KL over replies")
        if replies is None
        else replies.reading(edits)
    )
    return Cost(
        entropy,
        as_factor(entropy),
        move_reading(change, kinds, "share of tokens", f"next tokens predicted right in {where}"),
        _repetition(pairs),
        reply,
    )


def as_factor(entropy: Reading) -> Reading:
    assert entropy.value is not None and entropy.low is not None and entropy.high is not None
    value, low, high = (float(np.exp(figure)) for figure in (entropy.value, entropy.low, entropy.high))
    return Reading(value, low, high, entropy.level, entropy.n, "times the plain perplexity", None, entropy.method)


def repeated(text: str) -> float:
    """The share of a text's 4-grams of words that are repeats of an earlier one; NaN where it has none."""
    words = text.lower().split()
    grams = [tuple(words[start : start + GRAM]) for start in range(len(words) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else float("nan")


def _repetition(pairs: tuple[Sequence[str], Sequence[str], NDArray[np.int64]] | None) -> Reading:
    unit, method = "share of 4-grams", "4-grams of a reply that are repeats, pushed less plain"
    if pairs is None:
        return Reading.not_measured("no texts were made", unit=unit, method=method)
    plain, pushed, topics = pairs
    change = np.array([repeated(b) - repeated(a) for a, b in zip(plain, pushed, strict=True)])
    kept = np.isfinite(change)
    if len(np.unique(topics[kept])) < 2:
        return Reading.not_measured("replies are shorter than four words", unit=unit, method=method)
    return move_reading(change[kept], topics[kept], unit, method)
