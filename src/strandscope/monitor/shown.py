"""Sequences token by token as a monitor reads them, to be looked at: nothing is concluded from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..capture.examples import Examples
from ..capture.record import stream
from ..errors import InputError
from ..subject.site import Site
from .rows import Floats
from .states import TEMPLATE

if TYPE_CHECKING:
    from ..subject.subject import Subject
    from .monitor import Monitor


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A sequence: its tokens from the first that is scored on, and (tokens, concepts) the score of each less the threshold, in
    halves of the distance between the means of a concept's classes."""

    id: str
    tokens: tuple[str, ...]
    values: Floats


def shown(monitor: Monitor, subject: Subject, examples: Examples) -> tuple[Shown, ...]:
    """Each row, in the order given.

    Raises:
        InputError: the monitor reads states, or a row's last token alone, or a row cannot be read.
    """
    if monitor.template == TEMPLATE or subject.tokenizer is None:
        raise InputError("the monitor was calibrated on states, and rows are texts")
    if monitor.reader.aggregation.kind == "last":
        raise InputError("the monitor reads the last token of a row alone, so the others have no score")
    reader, concepts = monitor.reader, len(monitor.concepts)
    found: dict[int, Shown] = {}
    for batch in stream(subject, examples, [Site.parse(site) for site in reader.channels.sites], (reader.skip, None)):
        products = reader.channels.products({str(site): states for site, states in batch.states.items()})
        scores = reader.channels.scores(products)[:, :concepts]
        values = scores - monitor.thresholds
        for row in batch.rows.unique().tolist():
            own = (batch.rows == row).numpy()
            tokens = tuple(str(subject.tokenizer.decode([token])) for token in batch.tokens.numpy()[own].tolist())
            found[row] = Shown(examples.rows[row].id, tokens, values[own])
    return tuple(found[row] for row in sorted(found))
