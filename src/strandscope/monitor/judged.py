"""What a monitor's scores are worth on rows that nothing was fitted on: recall, probabilities, and how far to believe those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from ..provenance import numpy_generator
from ..reading import Reading
from ..statistics.resample import group_folds
from .probability import Bin, Platt, check_direction, likeliest, platt, reliability
from .rows import Bools, Floats, Ints
from .scoring import Source, rows_of
from .threshold import Threshold

_FOLDS = 5
_UNIT, _METHOD = "calibration error", "cross-fitted Platt probabilities"


@dataclass(frozen=True, slots=True)
class Judged:
    """One concept on held-out rows.

    Attributes:
        recall: share of its sequences that alarm, at the monitor's threshold.
        false_alarms: share of the rows without the concept that alarm there; not benign sequences, so nothing was promised of it.
        probability: P(concept | score), where rows without it were given too; fitted on all of these rows.
        error: expected calibration error of such probabilities, each from a fit that had not seen its row; `bins` their curve.
    """

    recall: Reading
    false_alarms: Reading
    probability: Platt | None
    error: Reading
    bins: tuple[Bin, ...] = ()


def not_judged(reason: str) -> Judged:
    recall = Reading.not_measured(reason, unit="share of sequences that are found", method="exact (Clopper–Pearson) over groups")
    return Judged(recall, replace(recall, unit="share of sequences that alarm"), None, _no_error(reason))


def judge(
    name: str, scores: Floats, truth: Bools, groups: Ints, threshold: Threshold, benign: tuple[Floats, Ints], seed: int
) -> Judged:
    """Judge one concept by the scores (rows,) of rows with it (`truth`) and, where there are such, without.

    Args:
        threshold: the monitor's, in the unit of these scores.
        benign: scores and groups of the benign sequences, which show the direction where every row has the concept.

    Raises:
        InputError: larger scores do not mean more of the concept beyond doubt.
    """
    if truth.all():
        _directed(name, np.concatenate([scores, benign[0]]), len(scores), np.concatenate([groups, benign[1] + groups.max() + 1]))
        reason = f"{name}: no row without the concept was given"
        alone = not_judged(reason)
        return Judged(threshold.recall(scores, groups), alone.false_alarms, None, alone.error)
    try:
        curve = platt(scores, truth, groups)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    false_alarms = replace(threshold.false_alarms(scores[~truth], groups[~truth]), unit="share of sequences that alarm")
    recall = threshold.recall(scores[truth], groups[truth])
    return Judged(recall, false_alarms, curve, *_calibration(name, scores, truth, groups, seed))


def _directed(name: str, scores: Floats, positives: int, groups: Ints) -> None:
    try:
        check_direction(scores, np.arange(len(scores)) < positives, groups)
    except InputError as error:
        raise InputError(f"{name}, against benign sequences: {error}") from error


def _calibration(name: str, scores: Floats, truth: Bools, groups: Ints, seed: int) -> tuple[Reading, tuple[Bin, ...]]:
    generator = numpy_generator(seed, "probabilities", name)
    try:
        folds = group_folds(truth.astype(np.int64), groups, _FOLDS, generator)
        chance = np.empty(len(scores))
        for fold in range(_FOLDS):
            kept = folds != fold
            chance[~kept] = likeliest(scores[kept], truth[kept])(scores[~kept])
    except InputError as error:  # too few groups of a class for five folds
        return _no_error(str(error)), ()
    found = reliability(chance, truth, groups, generator=generator, bins=min(10, len(chance)))
    return replace(found.error, method=f"{_METHOD}, {found.error.method}"), found.bins


def _no_error(reason: str) -> Reading:
    return Reading.not_measured(reason, unit=_UNIT, method=_METHOD)


def truth_of(source: Source, positive: str) -> Bools:
    """(rows,) whether a row has the concept: by its label, or every one where there are no labels.

    Raises:
        InputError: the labels do not name the strand's positive class.
    """
    examples = rows_of(source)
    if not examples.labelled:
        return np.ones(len(examples), dtype=bool)
    if positive not in examples.classes:
        raise InputError(
            f"positives: {examples.name} has the classes {', '.join(examples.classes)}, and the strand reads {positive!r}; "
            "give rows of its own classes, or rows without labels that all have the concept"
        )
    truth: Bools = examples.labels == examples.classes.index(positive)
    return truth


def of_concepts(given: Source | Mapping[str, Source] | None, concepts: tuple[str, ...]) -> dict[str, Source]:
    """Held-out rows by concept.

    Raises:
        InputError: rows for several concepts that are not told apart, or for one that the monitor does not read.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if len(concepts) > 1:
            raise InputError(f"positives: got one set for {', '.join(concepts)}, wanted a mapping from concept to rows")
        return dict.fromkeys(concepts, given)
    strange = next((name for name in given if name not in concepts), None)
    if strange is not None:
        raise InputError(f"positives: got rows for {strange!r}, wanted some of {', '.join(concepts)}")
    return dict(given)
