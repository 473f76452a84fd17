"""How well a network predicts texts: the log-probability of every token that came, and whether it was the most probable one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..subject.attach import Edits, attach
from ..subject.scope import prompt_of
from .passes import Prefix, length_batches
from .predict import check_predicts
from .tokens import TokenRows

if TYPE_CHECKING:
    from ..subject.subject import Subject

Floats = NDArray[np.float64]


def predicted(
    subject: Subject, rows: TokenRows, edits: Edits | None = None, *, batch_tokens: int | None = None
) -> tuple[Floats, Floats]:
    """(rows,) mean log-probability (nats) of a row's tokens after its first, and the share of them that were most probable.

    Args:
        edits: as for `attach`, without named rows; all of a row counts as its prompt.

    Raises:
        InputError: the network predicts no tokens from the left.
    """
    check_predicts(subject)
    said, hit = np.full(len(rows.ids), np.nan), np.full(len(rows.ids), np.nan)
    with torch.no_grad():
        for batch in length_batches(subject, list(map(len, rows.ids)), batch_tokens):
            lengths = [len(rows.ids[row]) for row in batch]
            inputs = Prefix().inputs(subject, [rows.ids[row] for row in batch])
            with prompt_of(lengths), attach(subject, edits=edits):
                logits = subject.module(**inputs).logits[:, :-1]
            came = inputs["input_ids"][:, 1:]
            logprobs = logits.float().log_softmax(-1).gather(-1, came[..., None])[..., 0].double().cpu()
            best = (logits.argmax(-1) == came).double().cpu()
            for place, (row, length) in enumerate(zip(batch, lengths, strict=True)):
                said[row] = float(logprobs[place, : length - 1].mean())
                hit[row] = float(best[place, : length - 1].mean())
    return said, hit
