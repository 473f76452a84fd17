"""What a network says to prompts, several at once where padding on the left is known to change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..errors import InputError
from ..subject.scope import prompt_of

if TYPE_CHECKING:
    from ..subject.subject import Subject


def replies(subject: Subject, prompts: Sequence[str], max_new_tokens: int, *, chat: bool = True) -> list[str]:
    """Greedy replies to user prompts (without `chat`, continuations of texts), in order; under whatever is attached.

    Raises:
        InputError: there are no prompts, one is empty, or one is with its reply longer than the context.
    """
    if not prompts:
        raise InputError("prompts: got none, wanted at least one")
    tokenizer = subject.tokenizer
    if tokenizer is None or not (subject.anatomy.left_padding and subject.anatomy.batched) or tokenizer.pad_token_id is None:
        return [subject.generate(prompt, max_new_tokens, chat=chat) for prompt in prompts]
    texts = [subject.render([{"role": "user", "content": prompt}]) for prompt in prompts] if chat else prompts
    ids = [tokenizer(text, add_special_tokens=not chat)["input_ids"] for text in texts]
    for row in ids:
        subject.require_room(len(row), max_new_tokens)
    length = max(map(len, ids))
    padded = torch.tensor([[tokenizer.pad_token_id] * (length - len(row)) + row for row in ids], device=subject.device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids], device=subject.device)
    with torch.no_grad(), prompt_of(mask.sum(1)):
        made = subject.module.generate(  # type: ignore[operator]
            input_ids=padded,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    return [str(text) for text in tokenizer.batch_decode(made[:, length:], skip_special_tokens=True)]
