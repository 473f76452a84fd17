"""A monitor: strands read in every token, one score a concept and sequence, and a threshold with a guaranteed false-alarm rate.

The threshold stands on benign sequences that nothing was fitted on (`threshold`). Of several concepts the stated rate is that of
an alarm by *any* of them: the threshold is on the largest of their scores (a max statistic, which needs no more sequences than
one concept does), after each was brought to its own benign level, the median, in units of the distance from there to the 95th
percentile. Those levels are read on an eighth of the benign groups, drawn by the seed, that the threshold does not see.

Polarity is fixed: the held-out rows, or without them the evidence of the strands, have to show beyond doubt that larger scores
mean more of the concept, or there is no monitor.

What it does not know: whether traffic is like the benign sequences, in template, length and subject. `drift` asks that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..capture.activations import Activations
from ..errors import InputError, TrustError
from ..progress import Progress
from ..provenance import numpy_generator, versions
from ..reading import Reading
from ..strand.find import Found
from ..strand.strand import Strand
from .benign import benign as project_benign
from .channels import Channel, Channels, strands_of
from .drift import Drift
from .judged import Judged, judge, not_judged, of_concepts, truth_of
from .live import Live, watching
from .rows import Bools, Floats, Ints
from .scoring import Reader, Source, rows_of, shared_tokens, template_of
from .sequence import Aggregation
from .states import Scored, StateRows
from .threshold import Threshold, calibrate, least_sequences

if TYPE_CHECKING:
    from ..subject.subject import Subject

_LEVEL_SHARE = 8  # of several concepts, one benign group in so many sets the levels


@dataclass(frozen=True, eq=False)
class Monitor:
    """Strands at one or several sites, read as one score a concept, and the threshold that each is held to.

    Attributes:
        reader: the channels, the aggregation over tokens, and the tokens that are skipped at the start.
        threshold: on the largest levelled score; `centres` and `spreads` (concepts,) are the levels, 0 and 1 of one concept.
        judged: recall and probabilities by concept, on held-out rows.
        reference: (groups, channels) scores of one benign sequence a group, which drift is measured against.
        fingerprint: of the network; it is refused on another. `template`: how its sequences became tokens.
    """

    reader: Reader
    threshold: Threshold
    centres: Floats
    spreads: Floats
    judged: Mapping[str, Judged]
    reference: Floats
    fingerprint: str
    template: Mapping[str, str]
    provenance: Mapping[str, Any]

    @classmethod
    def calibrate(
        cls,
        strands: Found | Strand | Sequence[Found | Strand],
        benign: Source | StateRows | None = None,
        *,
        subject: Subject | None = None,
        false_alarm: float = 0.01,
        confidence: float = 0.95,
        aggregation: Aggregation | str | None = None,
        positives: Source | Mapping[str, Source] | None = None,
        skip: int | None = None,
        seed: int = 0,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Monitor:
        """A monitor of these strands with at most this false-alarm rate per sequence, at this confidence.

        Args:
            benign: examples, which `subject` reads, states captured at the strands' sites, or a file of states that another
                engine took in the strands' network; None is the project's own.
            aggregation: over tokens: last, mean, max, ema(0.9), window(8); None is what the strands were found with.
            positives: held-out rows with the concept, labelled ones with and without it, or a mapping from concept to such rows;
                nothing may have been fitted on them. Without them recall is not measured.
            skip: tokens at the start of a sequence that are not scored; None is how many all benign rows begin with, at least 1.
            seed: of which benign groups set levels, which row of a group is the reference, and the folds of probabilities.
            force: use strands that were found in another network.

        Raises:
            InputError: too few benign sequences (it says the least), a direction that is in doubt, rows in another template,
                rows that a strand was found on. TrustError: another network.
        """
        found = strands_of(strands)
        channels = Channels.of([Channel.of(strand) for strand in found])
        source = benign if benign is not None else project_benign(_chats(found, subject))
        fingerprint = _network(found, source, subject, force)
        held = of_concepts(positives, channels.concepts)
        _check_held(held, found)
        generator = numpy_generator(seed, "monitor", *channels.concepts)
        divide = partial(_levelling, len(channels.concepts), false_alarm, confidence, generator)
        levelling = None if isinstance(source, StateRows) else divide(rows_of(source).groups)

        how = _aggregation(aggregation, found)
        if skip is None:
            skip = 0 if how.kind == "last" else shared_tokens(source, subject)
        elif skip < 0:
            raise InputError(f"skip: got {skip}, wanted how many tokens at the start are not scored, 0 for none")
        reader = Reader(channels, how, skip)
        template = template_of(source, subject)
        stage = _stage(progress, "benign sequences")
        if isinstance(source, StateRows):
            read = source.scored(reader, stage)
        else:
            read = Scored(reader.of(source, subject, stage), rows_of(source).groups, rows_of(source).digest)
        table, groups = read.table, read.groups
        levelling = divide(groups) if levelling is None else levelling
        scores = table[:, : len(channels.concepts)]
        centres, spreads = _levels(scores[levelling], channels.concepts)
        largest = ((scores - centres) / spreads).max(1)
        threshold = calibrate(largest[~levelling], rate=false_alarm, confidence=confidence, groups=groups[~levelling])
        made = cls(
            reader,
            threshold,
            centres,
            spreads,
            {},
            _one_a_group(table[:, len(channels.concepts) :], groups, generator),
            fingerprint,
            template,
            {
                "benign": read.digest,
                "benign_rows": len(table),
                "benign_groups": int(groups.max()) + 1,
                "levelling_groups": len(np.unique(groups[levelling])),
                "held_out": {name: rows_of(rows).digest for name, rows in held.items()},
                "seed": seed,
                "forced": sorted({strand.fingerprint for strand in found} - {fingerprint}),
                "versions": versions(),
            },
        )  # fmt: skip
        judged = {}
        for place, name in enumerate(channels.concepts):
            if name not in held:
                _check_evidence(found, name)
                judged[name] = not_judged("no held-out rows were given")
                continue
            rows = held[name]
            if template_of(rows, subject) != dict(template):
                raise InputError(
                    f"positives of {name!r}: {template_of(rows, subject)['format']} rows in another template than the benign "
                    f"{template['format']} ones; give both in the template of the traffic"
                )
            truth = truth_of(rows, next(strand.positive for strand in found if strand.name == name))
            own = reader.of(rows, subject, _stage(progress, f"held-out rows of {name}"))[:, place]
            codes = rows_of(rows).groups
            judged[name] = judge(name, own, truth, codes, made.threshold_of(name), (scores[:, place], groups), seed)
        return replace(made, judged=judged)

    @property
    def concepts(self) -> tuple[str, ...]:
        return self.reader.channels.concepts

    @property
    def thresholds(self) -> Floats:
        """(concepts,) an alarm is a score strictly above."""
        return self.centres + self.spreads * self.threshold.value

    @property
    def false_alarms(self) -> Reading:
        """The rate per sequence to expect, of an alarm by any concept, and the bound that holds with the stated confidence."""
        return self.threshold.expected

    def threshold_of(self, concept: str) -> Threshold:
        """One concept's threshold, in the unit of its scores."""
        return replace(self.threshold, value=float(self.thresholds[self.concepts.index(concept)]))

    def scores(self, source: Source, subject: Subject | None = None, *, force: bool = False) -> Floats:
        """(rows, concepts) a score for each sequence: states that were captured, or examples that `subject` reads.

        Raises:
            TrustError: they are of another network. InputError: see `Reader.of`; or another template.
        """
        if isinstance(source, Activations):
            self.check(source.fingerprint, force=force)
        elif subject is not None:
            self.check(subject.fingerprint, force=force)
        template = template_of(source, subject)
        if template != dict(self.template):
            raise InputError(f"rows: {template['format']} rows, and the monitor was calibrated on {self.template['format']} rows")
        return self.reader.of(source, subject)[:, : len(self.concepts)]

    def alarms(self, scores: Floats) -> Bools:
        """(rows, concepts) whether each score (rows, concepts) is strictly above its threshold."""
        return scores > self.thresholds

    def drift(self, *, level: float = 0.01, seed: int = 0) -> Drift:
        """A drift alarm on every channel, held against the benign sequences; `seed` breaks ties."""
        return Drift(self.reference, self.reader.channels.names, generator=numpy_generator(seed, "drift"), level=level)

    def watching(self, subject: Subject, **options: Any) -> AbstractContextManager[Live]:
        """Score every token that the network reads or writes in a `with` block; see `live.watching` for the options."""
        return watching(self, subject, **options)

    def check(self, fingerprint: str, *, force: bool = False) -> None:
        """Raise TrustError if the monitor is of another network, unless forced."""
        if fingerprint != self.fingerprint and not force:
            raise TrustError(
                f"the monitor of {', '.join(self.concepts)} was calibrated in the network {self.fingerprint[:12]}, this one is "
                f"{fingerprint[:12]}; calibrate it here, or force it (force=True, --force): nothing is promised of it then"
            )

    def save(self, path: Any) -> None:
        """One safetensors file with its manifest in the header."""
        from .file import save

        save(self, path)

    @classmethod
    def load(cls, path: Any) -> Monitor:
        """Raises InputError if the file holds no monitor, MissingError if it is not there."""
        from .file import load

        return load(path)

    def __str__(self) -> str:
        sites = len(self.reader.channels.sites)
        where = f"{', '.join(self.concepts)} at {sites} site{'s' if sites != 1 else ''}, {self.reader.aggregation} over tokens"
        return f"monitor of {where}; false alarms {self.false_alarms}, at most that with confidence {self.threshold.confidence:g}"


def _chats(strands: Sequence[Strand], subject: Subject | None) -> bool:
    return subject is not None and subject.chats and any(strand.template.get("format") == "chat" for strand in strands)


def _network(strands: Sequence[Strand], source: Source | StateRows, subject: Subject | None, force: bool) -> str:
    if isinstance(source, Activations):
        fingerprint = source.fingerprint
    elif isinstance(source, StateRows):
        fingerprint = strands[0].fingerprint if subject is None else subject.fingerprint
    elif subject is None:
        raise InputError(
            "subject: got none, and benign rows that are no captured states; give subject=, or ss.capture(…) as benign"
        )
    else:
        fingerprint = subject.fingerprint
    for strand in strands:
        strand.check(fingerprint, force=force)
    return fingerprint


def _check_held(held: Mapping[str, Source], strands: Sequence[Strand]) -> None:
    for name, rows in held.items():
        digest = rows_of(rows).digest
        if any(strand.name == name and strand.provenance.get("data") == digest for strand in strands):
            raise InputError(
                f"positives of {name!r}: are the rows that its strand was found on, and would flatter it; "
                "find it on some groups and give the others"
            )


def _check_evidence(strands: Sequence[Strand], name: str) -> None:
    for strand in strands:
        if strand.name == name and (strand.evidence.low is None or strand.evidence.low <= 0.5):
            raise InputError(
                f"strand {name!r} at {strand.site}: its evidence ({strand.evidence}) does not show which way it runs, wanted an "
                "interval above .5; give held-out rows as positives="
            )


def _check_enough(n: int, rate: float, confidence: float, levelling: int) -> None:
    """Before the network reads them: whether there are benign sequences enough."""
    least = least_sequences(rate, confidence)
    if n < least:
        more = f" beside {levelling} that set the concepts' levels" if levelling else ""
        raise InputError(
            f"benign: got {n} groups of sequences{more}, wanted at least {least} for a false-alarm rate of {rate:g} at "
            f"confidence {confidence:g}; add benign sequences of other groups or state a higher rate"
        )


def _aggregation(given: Aggregation | str | None, strands: Sequence[Strand]) -> Aggregation:
    if given is not None:
        return Aggregation.parse(given) if isinstance(given, str) else given
    positions = {strand.position for strand in strands}
    if len(positions) == 1 and positions <= {"last", "mean"}:
        return Aggregation.parse(positions.pop())
    raise InputError(f"aggregation: strands were found at {', '.join(sorted(positions))}; say how tokens are taken together")


def _levelling(concepts: int, rate: float, confidence: float, generator: np.random.Generator, groups: Ints) -> Bools:
    """Which rows set the levels of several concepts; InputError if too few are left for the threshold."""
    names = np.unique(groups)
    drawn = generator.permutation(names)[: len(names) // _LEVEL_SHARE] if concepts > 1 else names[:0]
    _check_enough(len(names) - len(drawn), rate, confidence, len(drawn))
    return np.isin(groups, drawn)


def _levels(scores: Floats, concepts: Sequence[str]) -> tuple[Floats, Floats]:
    if len(concepts) == 1:
        return np.zeros(1), np.ones(1)
    centres = np.median(scores, axis=0)
    spreads = np.quantile(scores, 0.95, axis=0) - centres
    if not (spreads > 0).all():
        flat = concepts[int(np.argmin(spreads))]
        raise InputError(f"benign: nearly all sequences have the same score of {flat!r}; give sequences that differ")
    return centres, spreads


def _one_a_group(rows: Floats, groups: Ints, generator: np.random.Generator) -> Floats:
    order = generator.permutation(len(rows))
    _, first = np.unique(groups[order], return_index=True)
    chosen: Floats = rows[order[first]]
    return chosen


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, of: progress(stage, done, of)
