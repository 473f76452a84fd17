"""How well a concept is told, by a monitor and by what needs none, on rows that none of them has seen: one table of readings.

The monitor is made again in every fold, strand, sites and threshold, from the rows that are left and benign ones; a fold leaves
out rows at random (pairs together), or whole sources: what a row names as its "source", else its group. Scores are compared
inside folds. Evidence words are those that a bag-of-words model of the training rows weights most, for or against; they are
masked in the held-out rows, and what still fires there was not told by them. A bag of words and length are fitted on the same
folds. The network asked as a judge answers a written question about each row; its score is the log-odds of yes over no as its
next word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from ..capture.activations import Activations
from ..capture.examples import Examples
from ..capture.predict import next_token_logprobs
from ..capture.record import capture
from ..capture.tokens import tokenise
from ..errors import InputError
from ..progress import Progress
from ..provenance import numpy_generator
from ..reading import Reading
from ..statistics.detect import area
from ..statistics.resample import group_folds
from ..statistics.words import METHOD as WORDS
from ..statistics.words import length_scores, word_scores
from ..strand.find import find
from .channels import Channel, Channels
from .held import FITTED, beside, drawn_groups
from .rows import Bools, Floats, Ints, share
from .scoring import Reader
from .sequence import Aggregation
from .threshold import calibrate

if TYPE_CHECKING:
    from ..subject.subject import Subject


_FOLDS, _PARTS = 5, 8  # folds of rows; parts at most into which sources are put
_EVIDENCE = 50  # words that are masked, at most
_MASK = "…"
_WORD = re.compile(r"\b\w+\b")
_NO_RECALL = "no threshold was set for it"


@dataclass(frozen=True, slots=True)
class Told:
    """One way to tell the concept. `recall` is at the monitor's threshold, at its false-alarm rate."""

    how: str
    auroc: Reading
    recall: Reading


@dataclass(frozen=True, slots=True)
class Evaluation:
    concept: str
    lines: tuple[Told, ...]


def evaluate(
    subject: Subject,
    examples: Examples,
    benign: Activations,
    *,
    question: str,
    at: str = "resid:*",
    false_alarm: float = 0.01,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """The table for one concept of two classes, read at the last token.

    Args:
        benign: states of benign sequences at the last token, at every site of `at`; `ss.capture` takes them.
        question: what the network is asked of each row as a judge, such as "Is this message in Spanish?".

    Raises:
        InputError: a concept of more classes, benign states of other positions, or too few rows, sources or benign sequences.
    """
    if len(examples.classes) != 2:
        raise InputError(f"{examples.name}: {len(examples.classes)} classes, wanted two; make one class against the rest")
    asked = _asked(subject, examples, question)
    states = capture(subject, examples, at, "last")
    labels, groups = examples.labels, examples.groups
    random = group_folds(labels, examples.pairs, _FOLDS, numpy_generator(seed, "evaluate", "rows"))
    sources = _sources(examples)
    parts = min(_PARTS, int(sources.max()) + 1)
    left_out = group_folds(labels, sources, parts, numpy_generator(seed, "evaluate", "sources"))
    inside, fired, _ = _cross_fitted(subject, states, benign, random, false_alarm, confidence, seed, progress, masked=False)
    outside, fired_out, hidden = _cross_fitted(
        subject, states, benign, left_out, false_alarm, confidence, seed, progress, masked=True
    )
    texts, generator = examples.texts(), numpy_generator(seed, "evaluate", "baselines")
    words, word_noise = word_scores(texts, labels, groups, left_out, 2, generator)
    lengths = np.array([[len(text), len(text.split())] for text in texts], dtype=np.float64)
    length, length_noise = length_scores(lengths, labels, groups, left_out, 2, generator)
    none = Reading.not_measured(_NO_RECALL, unit="share of sequences that are found", method="none")
    lines = [
        Told("the monitor, rows left out at random", _auroc(inside, labels, groups, random), _recall(fired, labels, groups)),
        Told("the monitor, sources left out", _auroc(outside, labels, sources, left_out), _recall(fired_out, labels, sources)),
        Told(
            "the same, evidence words masked",
            _auroc(hidden[0], labels, sources, left_out),
            _recall(hidden[1], labels, sources),
        ),
        Told(WORDS.partition(" (")[0] + ", sources left out", _auroc(words, labels, groups, left_out, word_noise), none),
        Told("length, sources left out", _auroc(length, labels, groups, left_out, length_noise), none),
        Told("the network asked as a judge", asked, none),
    ]
    return Evaluation(examples.name, tuple(lines))


def _sources(examples: Examples) -> Ints:
    named = [str(row.extra.get("source", f"group {group}")) for row, group in zip(examples.rows, examples.groups, strict=True)]
    return np.unique(named, return_inverse=True)[1].astype(np.int64)


def _auroc(scores: Floats, labels: Ints, groups: Ints, folds: Ints, noise: float = 0.0) -> Reading:
    found = area(scores, labels, groups, folds, noise=noise)
    method = "AUROC inside folds of what was not fitted on the row"
    return Reading(found.value, found.low, found.high, found.level, len(labels), "AUROC", None, method)


def _recall(fired: Bools, labels: Ints, groups: Ints) -> Reading:
    rows = labels == 1
    codes = np.unique(groups[rows], return_inverse=True)[1]
    return share(fired[rows], codes, 0.95, unit="share of sequences that are found", method="exact (Clopper–Pearson) over groups")


def _cross_fitted(
    subject: Subject,
    states: Activations,
    benign: Activations,
    folds: Ints,
    rate: float,
    confidence: float,
    seed: int,
    progress: Progress | None,
    *,
    masked: bool,
) -> tuple[Floats, Bools, tuple[Floats, Bools]]:
    """Scores and alarms of rows by monitors made without them; with `masked`, the same of the rows with words masked."""
    n = len(states)
    scores, fired, hidden, fired_hidden = np.zeros(n), np.zeros(n, bool), np.zeros(n), np.zeros(n, bool)
    chosen = drawn_groups(benign.examples, FITTED, seed)
    fitted, quiet = part_of(benign, np.flatnonzero(chosen)), part_of(benign, np.flatnonzero(~chosen))
    parts = int(folds.max()) + 1
    for fold in range(parts):
        rows = np.flatnonzero(folds == fold)
        train, held = part_of(states, np.flatnonzero(folds != fold)), part_of(states, rows)
        found = find(_joined(train, fitted), permutations=0, seed=seed)
        reader = Reader(Channels.of([Channel.of(strand) for strand in found.strands]), Aggregation("last"), 0)
        threshold = calibrate(reader.of(quiet, None)[:, 0], rate=rate, confidence=confidence, groups=quiet.groups)
        scores[rows] = reader.of(held, None)[:, 0]
        fired[rows] = threshold.alarms(scores[rows])
        if masked:
            hidden[rows] = reader.of(mask(held.examples, evidence_words(train.examples)), subject)[:, 0]
            fired_hidden[rows] = threshold.alarms(hidden[rows])
        if progress is not None:
            progress("monitors without rows" if not masked else "monitors without sources", fold + 1, parts)
    return scores, fired, (hidden, fired_hidden)


def _joined(acts: Activations, benign: Activations) -> Activations:
    """States of a concept's rows with those of benign ones among the negatives."""
    return replace(
        acts,
        states={site: torch.cat([held, benign.at(site)]) for site, held in acts.states.items()},
        examples=beside(acts.examples, benign.examples),
        rows=torch.arange(len(acts) + len(benign)),
        position=torch.cat([acts.position, benign.position]),
        token=torch.cat([acts.token, benign.token]),
    )


def part_of(acts: Activations, rows: Ints) -> Activations:
    """Some rows of activations that hold one state a row."""
    if len(acts) != len(acts.examples):
        raise InputError(
            f"{acts.examples.name}: {len(acts)} states for {len(acts.examples)} rows; capture one a row, such as 'last'"
        )
    index = torch.as_tensor(rows)
    return replace(
        acts,
        states={site: held[index] for site, held in acts.states.items()},
        examples=acts.examples.subset(rows),
        rows=torch.arange(len(rows)),
        position=acts.position[index],
        token=acts.token[index],
    )


def evidence_words(examples: Examples, most: int = _EVIDENCE) -> tuple[str, ...]:
    """The words that a bag-of-words model of these rows weights most, for or against the concept, the heaviest first."""
    vectorizer = CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b")
    features = vectorizer.fit_transform(examples.texts())
    weights = LogisticRegression(C=1.0, solver="liblinear", max_iter=1000, random_state=0).fit(features, examples.labels).coef_[0]
    names = vectorizer.get_feature_names_out()
    return tuple(str(names[place]) for place in np.argsort(-np.abs(weights), kind="stable")[:most])


def mask(examples: Examples, words: Sequence[str]) -> Examples:
    """The same rows with these words (in any case) replaced by an ellipsis; labels, groups and ids stay."""
    hidden = frozenset(words)

    def without(text: str) -> str:
        return _WORD.sub(lambda found: _MASK if found[0].lower() in hidden else found[0], text)

    rows = tuple(
        replace(
            row,
            input=without(row.input)
            if isinstance(row.input, str)
            else tuple({**message, "content": without(message["content"])} for message in row.input),  # type: ignore[union-attr]
        )
        for row in examples.rows
    )
    return replace(examples, rows=rows)


def _asked(subject: Subject, examples: Examples, question: str) -> Reading:
    labels = examples.labels
    try:
        odds = judge(subject, examples.texts(), question)
    except InputError as error:
        return Reading.not_measured(str(error), unit="AUROC", method="log-odds of yes over no as the next word")
    return _auroc(odds, labels, examples.groups, np.zeros_like(labels))


def judge(subject: Subject, texts: Sequence[str], question: str) -> Floats:
    """(rows,) log-odds of yes over no as the network's next word, after each text and a question about it.

    Raises:
        InputError: a network without a tokenizer, or one that cannot say yes and no with one token each.
    """
    if subject.tokenizer is None:
        raise InputError(f"{subject.name}: has no tokenizer, so it cannot be asked")
    asked = [f"{text}\n\n{question} Answer yes or no." for text in texts]
    if subject.chats:
        rows: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": text}]} for text in asked]
    else:
        rows = [{"text": f"{text} Answer:"} for text in asked]
    said = next_token_logprobs(subject, tokenise(subject, Examples.from_rows(rows, "asked")))
    yes, no = (_first_tokens(subject, word) for word in ("yes", "no"))
    if not yes or not no or yes & no:
        raise InputError(f"{subject.name}: yes and no are not one token each; it cannot be asked so")
    odds = said[:, sorted(yes)].double().logsumexp(1) - said[:, sorted(no)].double().logsumexp(1)
    return odds.cpu().numpy()


def _first_tokens(subject: Subject, word: str) -> set[int]:
    assert subject.tokenizer is not None
    forms = [form for plain in (word, word.capitalize()) for form in (plain, f" {plain}")]
    ids = [subject.tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms]
    return {row[0] for row in ids if len(row) == 1}
