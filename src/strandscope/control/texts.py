"""What a network says to prompts, several at once where padding on the left is known to change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from ..subject.scope import prompt_of

if TYPE_CHECKING:
    from ..subject.subject import Subject


def replies(subject: Subject, prompts: Sequence[str], max_new_tokens: int, *, chat: bool = True) -> list[str]:
    """Greedy replies to user prompts (without `chat`, continuations of texts), in order; under whatever is attached.

    Raises:
        InputError: there are no prompts, or one is empty, holds a token that the network has no row for, or is with its reply
            longer than the context.
    """
    if not prompts:
        raise InputError("prompts: got none, wanted at least one")
    tokenizer = subject.tokenizer
    if tokenizer is None or not in_batches(subject):
        return [subject.generate(prompt, max_new_tokens, chat=chat) for prompt in prompts]
    texts = [subject.render([{"role": "user", "content": prompt}]) for prompt in prompts] if chat else prompts
    ids = [tokenizer(text, add_special_tokens=not chat)["input_ids"] for text in texts]
    made = _generated(subject, ids, max_new_tokens, do_sample=False)
    return [str(text) for text in tokenizer.batch_decode(made, skip_special_tokens=True)]


def sampled(subject: Subject, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, seed: int) -> list[list[int]]:
    """Tokens of a reply to each prompt of tokens, drawn at temperature 1 from what the network says; at least one each.

    A reply ends with the token that ends it, which is part of it. The caller's random state is left as it was.

    Raises:
        InputError: the network does not generate, or a prompt is with its reply longer than the context.
    """
    if subject.tokenizer is None or not subject.anatomy.decodes:
        raise InputError(f"{subject.name} generates no text, so there are no replies to measure on; measure next tokens")
    batches = [list(prompts)] if in_batches(subject) else [[prompt] for prompt in prompts]
    ends: Any = getattr(subject.module.generation_config, "eos_token_id", None)
    stops: set[int] = {ends} if isinstance(ends, int) else set(ends or [])
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        made = [
            row
            for batch in batches
            for row in _generated(subject, batch, max_new_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0).tolist()
        ]
    return [_ended(row, stops) for row in made]


def in_batches(subject: Subject) -> bool:
    """Whether prompts of different lengths can stand in one batch, padded on the left, without changing each other's replies."""
    return subject.anatomy.left_padding and subject.anatomy.batched


def _padding(subject: Subject) -> int:
    """What stands before short prompts, masked, and after replies that ended: the token that ends texts where none is for it."""
    tokenizer = subject.tokenizer
    named: list[Any] = [] if tokenizer is None else [tokenizer.pad_token_id, tokenizer.eos_token_id]
    return next((token for token in named if token is not None), 0)


def _ended(row: list[int], stops: set[int]) -> list[int]:
    first = next((place for place, token in enumerate(row) if token in stops), len(row) - 1)
    return row[: first + 1]


def _generated(subject: Subject, ids: Sequence[Sequence[int]], max_new_tokens: int, **options: Any) -> torch.Tensor:
    """(prompts, new tokens) after prompts padded on the left."""
    pad = _padding(subject)
    for row in ids:
        subject.require_known(row, "prompt")
        subject.require_room(len(row), max_new_tokens)
    length = max(map(len, ids))
    padded = torch.tensor([[pad] * (length - len(row)) + list(row) for row in ids], device=subject.device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids], device=subject.device)
    with torch.no_grad(), prompt_of(mask.sum(1)):
        made = subject.module.generate(  # type: ignore[operator]
            input_ids=padded, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=pad, **options
        )
    return made[:, length:]
