"""How a language model's loss falls with its context, beside counting, on text that it may have read and text that it cannot.

The law that is tested says that the fall is L∞ + A k^−γ: fitted to contexts of 4 tokens to a quarter of the longest, it foretells
the loss at half of the longest and at the longest, within 3 %. Its negative control has the same length of context, of which all
but the last sixteen tokens are another document's: there the fall must not go on, and the same forecast must be violated.

What it does not know: whether another form would foretell as well; and at long contexts the whole fall that is left is a few
per cent of the loss, so a forecast that is met says that the fall goes on smoothly, not that it is a power for ever.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..laws.figure import Figure, Kind, Series
from ..laws.law import Check, Control, Law, LawResult
from ..progress import Progress
from ..provenance import versions
from ..reading import Reading
from . import texts
from .context import CONTEXTS, SLACK, SPAN, Floats, Targets, context_losses, draw_targets, exact
from .counted import NAMES, Counted
from .curve import FORM, NATS, Losses
from .result import Counting, Curve, Point, Study

if TYPE_CHECKING:
    from ..subject.subject import Subject

LEVEL, NEAR, DOCUMENTS = 0.95, 16, 28
PASSAGE_SPAN, PASSAGE_LONGEST = 16, 64

CONTEXT = Law(
    "loss against context",
    "L(k) = L∞ + A k^−γ",
    {
        "L(k)": "mean loss of the next token given exactly the last k (nats per token)",
        "L∞": "what no context takes away (nats per token)",
        "A": "what one token of context leaves to take away (nats per token)",
        "γ": "exponent, also that of the gain of a doubling (1)",
        "k": "tokens of context",
    },
    "left-to-right language models on documents longer than the contexts; k from 4",
    tolerance=0.03,
)


def study(
    subject: Subject,
    files: Sequence[str] = (),
    *,
    documents: int = DOCUMENTS,
    longest: int = CONTEXTS[-1],
    quick: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Study:
    """The curves of `subject` on the library's scored part, on Strandscope's sources and passages; or on `files` alone.

    Args:
        documents: at most so many of a source, a span of 32 targets in each, of 16 in a passage.
        longest: the longest context in tokens.
        quick: at most 12 documents and contexts up to 256.

    Raises:
        InputError: the subject predicts no text from the left, or too few documents are long enough.
    """
    began = time.monotonic()
    if quick:
        documents, longest = min(documents, 12), min(longest, 256)
    if documents < 2 or longest < 2:
        raise InputError(f"documents {documents}, longest {longest}: wanted at least 2 documents and contexts of 2 tokens")
    given = texts.from_files(files) if files else None
    counted_part, scored = texts.standard_library(seed)
    if subject.vocabulary is None:
        raise InputError(f"{subject.name}: its tokens are not numbered, so none can be counted; name a language model")
    counted = Counted.of(texts.tokenised(subject, counted_part), subject.vocabulary, seed)
    plans = (
        [(given, documents, longest, SPAN)]
        if given is not None
        else [
            (scored, documents, longest, SPAN),
            (texts.own_sources(), documents, longest, SPAN),
            (texts.own_passages(), documents, min(longest, PASSAGE_LONGEST), PASSAGE_SPAN),
        ]
    )
    curves = tuple(_curve(subject, counted, corpus, most, deepest, span, seed, progress) for corpus, most, deepest, span in plans)
    about = {
        "name": counted_part.name,
        "documents": len(counted_part.documents),
        "tokens": counted.trained.count,
        "digest": counted_part.digest,
        "smoothing": "interpolated modified Kneser–Ney; longest match mixed with it, weights fitted on a held-out tenth",
    }
    seconds = round(time.monotonic() - began, 1)
    dtype, device = str(subject.dtype).removeprefix("torch."), str(subject.device)
    return Study(
        subject.name, subject.fingerprint, dtype, device, seed, LEVEL, SPAN, SLACK, about, curves, seconds, versions()
    )  # fmt: skip


def _curve(
    subject: Subject,
    counted: Counted,
    corpus: texts.Corpus,
    most: int,
    longest: int,
    span: int,
    seed: int,
    progress: Progress | None,
) -> Curve:
    contexts = tuple(k for k in CONTEXTS if k <= longest)
    tokens = texts.tokenised(subject, corpus)
    targets = draw_targets(tokens, contexts[-1], most, seed, length=span)

    def told(_: str, done: int, of: int) -> None:
        if progress:
            progress(f"{corpus.name}, tokens", done, of)

    model = context_losses(subject, tokens.ids, targets, contexts, progress=told)
    beside, match = counted.at(tokens, targets)
    everywhere, order = counted.everywhere(tokens, LEVEL)
    losses = Losses.of(contexts, model, beside, span, LEVEL, seed)
    gains, decay = losses.gains(), losses.decay()
    none = Reading.not_measured("its half was not measured", unit=NATS, method="paired differences")
    points = tuple(
        Point(k, exact(k, span, holds=subject.context), losses.mean(row), gains.get(k, none), losses.equal_order(place))
        for place, (k, row) in enumerate(zip(contexts, losses.model, strict=True))
    )
    rows = tuple(
        Counting(
            NAMES[row] if row < len(NAMES) else "longest match",
            row + 1 if row < len(NAMES) else None,
            losses.mean(loss),
            losses.mean(loss - losses.model[-1]),
            losses.worth(row),
        )
        for row, loss in enumerate(losses.counted)
    )
    if isinstance(decay, str):
        exponent, limit = (Reading.not_measured(decay, unit=unit, method=FORM) for unit in ("1", NATS))
    else:
        exponent, limit = decay.exponent, decay.limit
    law = _law(subject, tokens, targets, losses) if contexts[-1] >= 256 else None
    return Curve(
        corpus.name, corpus.about, corpus.digest, len(targets.document), len(targets.documents), tokens.bytes_per_token,
        points, rows, losses.used(), exponent, limit, order, tuple(everywhere), float(np.median(match)), law,
        _figure(corpus.name, points, rows, law),
    )  # fmt: skip


def _law(subject: Subject, tokens: texts.Tokens, targets: Targets, losses: Losses) -> LawResult | None:
    """The forecast at half of the longest context and at the longest, from those up to a quarter."""
    longest = losses.contexts[-1]
    decay = losses.decay(longest // 4)
    if isinstance(decay, str):
        return None
    level = 1 - (1 - LEVEL) / 2
    weights = np.vstack([np.full(losses.model.shape[1], 1 / losses.model.shape[1]), losses.draws])

    def check(what: str, k: int, rows: Floats) -> Check:
        foretold, found = decay.at(k), weights @ rows
        return Check(
            what, decay.reading(foretold, NATS, level), losses.mean(rows, level),
            decay.reading(found / foretold, "measured/predicted", level), CONTEXT.band,
        )  # fmt: skip

    checks = [check(f"L({k})", k, losses.model[losses.contexts.index(k)]) for k in (longest, longest // 2)]
    other = context_losses(subject, tokens.ids, targets, [longest // 2], near=NEAR).reshape(-1, targets.length).mean(-1)
    what = f"L({longest // 2}), all but the last {NEAR} tokens another document's"
    control = Control.of(what, "violated", [check(what, longest // 2, other)])
    details = {"fitted to": [k for k in losses.contexts if 4 <= k <= longest // 4], "exponent": decay.exponent.value}
    return LawResult.of(CONTEXT, f"{subject.name}, {tokens.corpus.name}", checks, control, details=details)


def _figure(name: str, points: Sequence[Point], rows: Sequence[Counting], law: LawResult | None) -> Figure:
    """Losses by context; a counted model of order n stands at the n − 1 tokens that it sees."""
    orders = [row for row in rows if row.order is not None and row.order > 1]
    series = [
        _series("network", [point.k for point in points], [point.loss for point in points]),
        _series("counted", [row.order - 1 for row in orders if row.order], [row.loss for row in orders]),
    ]
    ends = [points[0].k, points[-1].k]
    series += [Series.of(row.name, "guide", ends, np.full(2, row.loss.value)) for row in rows if row.order is None]
    if law is not None:
        at = [int(check.what[2:-1]) for check in law.checks]
        foretold = [check.predicted for check in law.checks]
        series.append(_series("foretold", at, foretold, "predicted"))
        other = law.control.checks[0]
        series.append(_series("another document's context", [at[1]], [other.reading], "control"))
    return Figure.of(f"Loss against context, {name}", "context (tokens)", "loss (nats/token)", series, "log x")


def _series(name: str, x: Sequence[int], found: Sequence[Reading], kind: Kind = "measured") -> Series:
    value, low, high = (np.array([getattr(one, end) for one in found]) for end in ("value", "low", "high"))
    return Series.of(name, kind, x, value, low, high)
