"""Replies of a chat network, several prompts at once where padding on the left is known to change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..errors import InputError

if TYPE_CHECKING:
    from ..subject.subject import Subject


def replies(subject: Subject, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """Greedy replies to user prompts, in order; under whatever is attached to the network.

    Raises:
        InputError: there are no prompts, or one is with its reply longer than the context.
    """
    if not prompts:
        raise InputError("prompts: got none, wanted at least one")
    tokenizer = subject.tokenizer
    if tokenizer is None or not (subject.anatomy.left_padding and subject.anatomy.batched) or tokenizer.pad_token_id is None:
        return [subject.generate(prompt, max_new_tokens) for prompt in prompts]
    ids = [
        tokenizer(subject.render([{"role": "user", "content": prompt}]), add_special_tokens=False)["input_ids"]
        for prompt in prompts
    ]
    length = max(map(len, ids))
    subject.require_room(length, max_new_tokens)
    padded = torch.tensor([[tokenizer.pad_token_id] * (length - len(row)) + row for row in ids], device=subject.device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids], device=subject.device)
    with torch.no_grad():
        made = subject.module.generate(  # type: ignore[operator]
            input_ids=padded,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    return [str(text) for text in tokenizer.batch_decode(made[:, length:], skip_special_tokens=True)]
