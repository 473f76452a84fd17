"""The loss of the next token given exactly the last k tokens, for the same target tokens at every k.

Targets are spans of consecutive tokens deep enough in their documents that every context lies inside. For k up to 8 each target
has a pass of its own: its row holds the k tokens before it and nothing else, at positions from 0, and no special token. For
longer contexts a row foretells several neighbouring targets at once, k/8 of them at most, so that their contexts are of k − k/16
to k + k/16 tokens, k + ½ in the mean: up to 32 times cheaper, and as the loss falls smoothly with log k, what is lost is of
second order. `slack` 0 gives every target exactly k tokens whatever k is. Where the network holds k tokens but not the row that
targets share, fewer share one.

Rows of one k have one length, so nothing is padded; batch size changes nothing beyond the rounding of batched arithmetic.

What it does not know: what the network would make of k tokens that follow its own beginning-of-text token. Networks that were
always trained with one, and first tokens in general, are worse at short contexts than they need be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..capture.passes import Prefix, length_batches
from ..capture.predict import check_predicts
from ..errors import InputError
from ..progress import Progress
from ..provenance import numpy_generator
from ..subject.trace import accepts

if TYPE_CHECKING:
    from ..subject.subject import Subject
    from .texts import Tokens

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CONTEXTS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SLACK = 1 / 8
SPAN = 32  # targets


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Spans of `length` tokens: which document, and where in it each begins."""

    document: Ints
    start: Ints
    length: int

    @property
    def documents(self) -> Ints:
        """(targets,) the document of each."""
        return np.repeat(self.document, self.length)

    @property
    def places(self) -> Ints:
        """(targets,) where each is in its document."""
        return (self.start[:, None] + np.arange(self.length)).ravel()


def draw_targets(tokens: Tokens, deepest: int, documents: int, seed: int, *, length: int = SPAN, slack: float = SLACK) -> Targets:
    """One span in each of at most `documents` documents, drawn from all groups alike, anywhere beyond the deepest context.

    Raises:
        InputError: fewer than two documents are long enough.
    """
    before = deepest + _width(deepest, length, slack) // 2
    enough = [number for number, ids in enumerate(tokens.ids) if len(ids) >= before + length]
    if len(enough) < 2:
        raise InputError(
            f"{tokens.corpus.name}: {len(enough)} documents of {before + length} tokens, wanted at least 2 for contexts of "
            f"{deepest}; give longer documents or a smaller --longest"
        )
    generator = numpy_generator(seed, "language", "targets", tokens.corpus.name)
    turn: dict[str, int] = {}
    ranked = []
    for number in generator.permutation(enough):
        group = tokens.corpus.documents[number].group
        turn[group] = turn.get(group, 0) + 1
        ranked.append((turn[group], int(number)))
    chosen = np.array(sorted(number for _, number in sorted(ranked, key=lambda one: one[0])[:documents]))
    start = [generator.integers(before, len(tokens.ids[number]) - length + 1) for number in chosen]
    return Targets(chosen, np.array(start, dtype=np.int64), length)


def _width(k: int, length: int, slack: float, holds: int | None = None) -> int:
    """Targets that share a row: the largest power of two that is at most a `slack` of k and divides the span, and whose row a
    network that holds so many tokens can be fed."""
    width = 1
    while width * 2 <= slack * k and length % (width * 2) == 0 and (holds is None or _fed(k, width * 2) <= holds):
        width *= 2
    return width


def _before(k: int, width: int) -> int:
    """Tokens of context before a row's first target."""
    return k - (width - 1) // 2


def _fed(k: int, width: int) -> int:
    """Tokens of a row that the network sees: all but the last target."""
    return _before(k, width) + width - 1


def context_losses(
    subject: Subject,
    ids: Sequence[Ints],
    targets: Targets,
    contexts: Sequence[int] = CONTEXTS,
    *,
    slack: float = SLACK,
    near: int | None = None,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> Floats:
    """(contexts, targets) losses in nats.

    Args:
        ids: the documents' tokens.
        near: where given, only so many of the context's last tokens are the document's own; what lies before is as much of the
            next document's context.
        batch_tokens: tokens in a pass; None is what suits the device.

    Raises:
        InputError: the network predicts no tokens from the left, or a context does not fit it.
    """
    check_predicts(subject)
    if not contexts or min(contexts) < 1:
        raise InputError(f"contexts: got {list(contexts)}, wanted lengths of at least 1 token")
    if subject.context is not None and max(contexts) > subject.context:
        raise InputError(
            f"contexts: {max(contexts)} tokens, and {subject.name} holds {subject.context}; ask for shorter ones (--longest)"
        )
    found = np.empty((len(contexts), len(targets.start), targets.length))
    widths = {k: _width(k, targets.length, slack, subject.context) for k in contexts}
    work = {k: _rows(ids, targets, k, width, near) for k, width in widths.items()}
    total, done = sum(len(rows) * rows.shape[1] for rows in work.values()), 0
    for place, (k, rows) in enumerate(work.items()):
        width = widths[k]
        made = np.empty((len(rows), width))
        for batch in length_batches(subject, [rows.shape[1]] * len(rows), batch_tokens):
            made[batch] = _losses(subject, rows[batch], width)
            done += len(batch) * rows.shape[1]
            if progress:
                progress("tokens", done, total)
        found[place] = made.reshape(len(targets.start), targets.length)
    return found.reshape(len(contexts), -1)


def exact(k: int, length: int = SPAN, slack: float = SLACK, *, holds: int | None = None) -> bool:
    """Whether every target has exactly k tokens of context, of a network that holds so many."""
    return _width(k, length, slack, holds) == 1


def _rows(ids: Sequence[Ints], targets: Targets, k: int, width: int, near: int | None) -> Ints:
    """(rows, tokens): each the context of its first target and the targets; spans in order, targets in order."""
    before = _before(k, width)
    rows = np.stack(
        [
            ids[document][start + first - before : start + first + width]
            for document, start in zip(targets.document, targets.start, strict=True)
            for first in range(0, targets.length, width)
        ]
    )
    if near is not None and before > near:
        rows[:, : before - near] = np.roll(rows, targets.length // width, axis=0)[:, : before - near]
    return rows


def _losses(subject: Subject, rows: Ints, width: int) -> Floats:
    """(rows, width) losses of each row's last `width` tokens."""
    inputs = Prefix().inputs(subject, rows[:, :-1].tolist())
    wanted = torch.as_tensor(rows[:, -width:], device=subject.device)
    if accepts(subject.module, "logits_to_keep"):
        inputs["logits_to_keep"] = width
    with torch.no_grad():
        logits = subject.module(**inputs).logits[:, -width:]
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="none")
    return loss.double().cpu().numpy().reshape(rows.shape[0], width)
