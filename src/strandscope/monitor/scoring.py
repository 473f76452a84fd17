"""Scores of whole sequences: from examples through a network, or from states that were captured before.

Only one batch of states is ever held. The first `skip` tokens of a sequence are not scored: they are the same in every one
(system prompt and template), or the first of a text, whose state is unlike any other's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..capture.activations import Activations
from ..capture.examples import Examples
from ..capture.record import stream, tokens_of
from ..errors import InputError
from ..subject.site import Site
from .channels import Channels
from .rows import Floats, Ints
from .sequence import Aggregation, sequence_scores
from .states import TEMPLATE, StateRows

if TYPE_CHECKING:
    from ..subject.subject import Subject

Progress = Callable[[int, int], None]
Source = Examples | Activations


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """How sequences are read: at which sites, from which token on, and how tokens become one score."""

    channels: Channels
    aggregation: Aggregation
    skip: int

    @property
    def positions(self) -> Any:
        return "last" if self.aggregation.kind == "last" else (self.skip, None)

    def of(self, source: Source, subject: Subject | None, progress: Progress | None = None) -> Floats:
        """(rows, concepts + channels) scores, in the order of the source's rows.

        Raises:
            InputError: examples without a network, a row without a token after the skipped ones, or states that lack a site.
        """
        if isinstance(source, Activations):
            return self._captured(source)
        if subject is None:
            raise InputError(f"subject: {source.name} are no states, so a network has to read them; give subject=")
        found, done = np.empty((len(source), len(self.channels.concepts) + len(self.channels))), 0
        for batch in stream(subject, source, [Site.parse(site) for site in self.channels.sites], self.positions):
            rows = batch.rows.numpy()
            tokens = self.channels.products({str(site): states for site, states in batch.states.items()})
            here, lengths = _runs(rows)
            found[here] = sequence_scores(self.channels.scores(tokens), lengths, self.aggregation)
            done += len(here)
            if progress is not None:
                progress(done, len(source))
        return found

    def _captured(self, acts: Activations) -> Floats:
        position = acts.position.numpy()
        alone = len(acts) == len(acts.examples)  # one state a row: whatever token it is of, it is the sequence
        kept = np.flatnonzero((position >= self.skip) | (position < 0) | alone)
        rows = acts.rows.numpy()[kept]
        if self.aggregation.kind == "last" and not alone:
            last = np.flatnonzero(np.append(rows[1:] != rows[:-1], True))
            kept, rows = kept[last], rows[last]
        here, lengths = _runs(rows)
        if len(here) != len(acts.examples):
            missing = np.setdiff1d(np.arange(len(acts.examples)), here)[0]
            raise InputError(
                f"{acts.examples.name}: row {acts.examples.ids[missing]} has no state after its first {self.skip} tokens; "
                "capture every position, or leave the row out"
            )
        states = {site: acts.at(site)[kept] for site in self.channels.sites}
        scores = np.empty((len(here), len(self.channels.concepts) + len(self.channels)))
        scores[here] = sequence_scores(self.channels.scores(self.channels.products(states)), lengths, self.aggregation)
        return scores


def rows_of(source: Source) -> Examples:
    return source.examples if isinstance(source, Activations) else source


def _runs(rows: Ints) -> tuple[Ints, Ints]:
    """(row, how many) of each run of equal numbers."""
    starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
    return rows[starts], np.diff(np.append(starts, len(rows)))


def shared_tokens(source: Source | StateRows, subject: Subject | None) -> int:
    """The tokens that all rows begin with, at least 1 and at most one less than the shortest; 0 where rows are no tokens."""
    if isinstance(source, StateRows):
        return 1  # what the tokens are is not known
    if isinstance(source, Activations):
        if len(source) == len(source.examples):
            return 0
        rows, tokens = source.rows.numpy(), source.token.numpy()
        ids = [tuple(tokens[rows == row].tolist()) for row in range(len(source.examples))]
    else:
        held = tokens_of(subject, source) if subject is not None else None
        if held is None:
            return 0
        ids = list(held.ids)
    first, last = min(ids), max(ids)  # what the extremes share, everything between them shares
    most = min(map(len, ids)) - 1
    same = next((place for place in range(most) if first[place] != last[place]), most)
    return min(max(1, same), most)


def template_of(source: Source | StateRows, subject: Subject | None) -> dict[str, str]:
    """How the rows became tokens: a monitor's threshold holds for rows made so."""
    if isinstance(source, StateRows):
        return dict(TEMPLATE)
    if isinstance(source, Activations):
        return dict(source.template)
    held = tokens_of(subject, source) if subject is not None else None
    return dict(held.template) if held is not None else {"format": source.kind, "description": "as given", "sha256": ""}
