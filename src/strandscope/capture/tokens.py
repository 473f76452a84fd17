"""Examples as rows of token ids, and the positions that are looked at in each.

Raw text is tokenised with the special tokens that the tokenizer adds by default. A chat is rendered with the tokenizer's own
template, with its generation prompt when the last message is the user's, and tokenised without adding anything. Tensor rows of a
language model are token ids already. Nothing is truncated: a row that is longer than the network's context is an error.

Positions: "last" is a row's last token, "all" every one, a pair (start, stop) the slice of the row's tokens as in Python. "mean"
is the mean over the content: the tokens of the last message for a chat, all but special tokens for raw text, and every token
where the tokenizer or the template does not tell content from the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ..errors import InputError
from ..provenance import digest

if TYPE_CHECKING:
    from ..subject.subject import Subject
    from .examples import Examples
    from .rows import Message

Span = tuple[int, int]
Positions = Literal["last", "mean", "all"] | tuple[int | None, int | None]
_MARK = "\ue000"  # stands in for a message's content, to find where a template puts it; from the private use area


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Token ids by row, the span of each row that is its content, and how the text was made into tokens."""

    ids: tuple[tuple[int, ...], ...]
    content: tuple[Span, ...]
    names: tuple[str, ...]
    template: dict[str, str]

    def subset(self, rows: Sequence[int]) -> TokenRows:
        """These rows in this order."""
        return TokenRows(
            tuple(self.ids[row] for row in rows),
            tuple(self.content[row] for row in rows),
            tuple(self.names[row] for row in rows),
            self.template,
        )

    def spans(self, positions: Positions) -> list[Span]:
        """The half-open span of tokens that `positions` names in each row."""
        if positions == "mean":
            return list(self.content)
        return [span_of(positions, len(ids), name) for ids, name in zip(self.ids, self.names, strict=True)]


def check_positions(positions: Positions) -> None:
    if isinstance(positions, str):
        known = positions in ("last", "mean", "all")
    else:
        pair = isinstance(positions, tuple) and len(positions) == 2
        known = pair and all(end is None or isinstance(end, int) for end in positions)
    if not known:
        raise InputError(f'positions {positions!r} are not understood; write "last", "mean", "all" or a pair such as (-3, None)')


def tokenise(subject: Subject, examples: Examples) -> TokenRows:
    """The token rows of `examples` for this subject.

    Raises:
        InputError: there is no tokenizer (or chat template) for such rows; a row is empty or longer than the context, or holds
            a token that the network has no row for.
    """
    if examples.kind == "tensor":
        ids = [_given(row.input, row.id, subject.vocabulary) for row in examples.rows]
        content = [(0, len(row)) for row in ids]
        template = {"format": "tokens", "description": "token ids as given", "sha256": ""}
    elif subject.tokenizer is None:
        raise InputError(f"{examples.name}: {subject.name} has no tokenizer for {examples.kind} rows; load it with tokenizer=…")
    elif examples.kind == "chat":
        ids, content = _chats(subject, examples)
        text = str(subject.tokenizer.chat_template)
        template = {"format": "chat", "description": "the tokenizer's chat template", "sha256": digest(text)}
    else:
        ids, content = _encode(subject, examples.texts(), [None] * len(examples), special=True)
        template = {"format": "text", "description": "raw text with the tokenizer's own special tokens", "sha256": ""}
    for row, name in zip(ids, examples.ids, strict=True):
        subject.require_known(row, f"row {name} of {examples.name}")
    _check_lengths(ids, examples, subject.context)
    return TokenRows(tuple(map(tuple, ids)), tuple(content), examples.ids, template)


def _given(value: Any, name: str, vocabulary: int | None) -> list[int]:
    if not isinstance(value, Tensor) or value.dim() != 1 or value.is_floating_point():
        raise InputError(f"row {name}: a tensor row of a language model is a vector of token ids (integers)")
    ids = value.tolist()
    if vocabulary is not None and not all(0 <= token < vocabulary for token in ids):
        raise InputError(f"row {name}: a token id outside 0 to {vocabulary - 1}; make ids with this network's tokenizer")
    return ids


def _chats(subject: Subject, examples: Examples) -> tuple[list[list[int]], list[Span]]:
    texts, wanted = [], []
    for row in examples.rows:
        messages: tuple[Message, ...] = row.input  # type: ignore[assignment]
        answers_next = messages[-1]["role"] == "user"
        texts.append(subject.render(messages, add_generation_prompt=answers_next))
        marked = subject.render((*messages[:-1], {**messages[-1], "content": _MARK}), add_generation_prompt=answers_next)
        wanted.append(_content(texts[-1], marked))
    return _encode(subject, texts, wanted, special=False)


def _content(text: str, marked: str) -> Span | None:
    """Where the last message's content stands in the rendered text; None if the template rewrote more than the content."""
    before, mark, after = marked.partition(_MARK)
    if not mark or not text.startswith(before) or not text.endswith(after) or len(text) <= len(before) + len(after):
        return None
    return len(before), len(text) - len(after)


def _encode(
    subject: Subject, texts: list[str], wanted: list[Span | None], *, special: bool
) -> tuple[list[list[int]], list[Span]]:
    tokenizer = subject.tokenizer
    assert tokenizer is not None  # checked by the caller
    offsets = bool(tokenizer.is_fast)
    encoded = tokenizer(
        texts, add_special_tokens=special, return_special_tokens_mask=True, return_offsets_mapping=offsets, verbose=False
    )
    ids: list[list[int]] = encoded["input_ids"]
    content = []
    for number, row in enumerate(ids):
        span = wanted[number]
        if special:
            inside = [not is_special for is_special in encoded["special_tokens_mask"][number]]
        elif span is not None and offsets:
            inside = [start < span[1] and stop > span[0] for start, stop in encoded["offset_mapping"][number]]
        else:
            inside = []
        content.append((inside.index(True), len(inside) - inside[::-1].index(True)) if True in inside else (0, len(row)))
    return ids, content


def _check_lengths(ids: list[list[int]], examples: Examples, context: int | None) -> None:
    for row, example in zip(ids, examples.rows, strict=True):
        if not row:
            raise InputError(
                f"row {example.id} of {examples.name}: no token is left after tokenising; write a text or delete the row"
            )
        if context is not None and len(row) > context:
            raise InputError(
                f"row {example.id} of {examples.name}: {len(row)} tokens, and the context holds {context}; shorten the text"
            )


def span_of(positions: Positions, length: int, name: str) -> Span:
    if positions == "last":
        return length - 1, length
    if positions == "all":
        return 0, length
    assert not isinstance(positions, str)
    start, stop, _ = slice(*positions).indices(length)
    if start >= stop:
        raise InputError(f"positions {positions}: row {name} has {length} tokens and none of them is in this slice; widen it")
    return start, stop
