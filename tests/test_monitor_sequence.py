"""Scores of sequences, each against its definition written out, token by token and all at once."""

from __future__ import annotations

import numpy as np
import pytest

from strandscope.errors import InputError
from strandscope.monitor.sequence import Aggregation, Running, sequence_scores


def generator(seed=0):
    return np.random.default_rng(seed)


FORMS = ["last", "mean", "max", "ema(0.9)", "ema(0.0)", "window(1)", "window(4)", "window(7)", "window(17)"]


def by_definition(scores, form):
    """The score of one sequence (tokens,), written out."""
    aggregation = Aggregation.parse(form)
    if aggregation.kind == "ema":
        averages = [scores[0]]
        for score in scores[1:]:
            averages.append(aggregation.decay * averages[-1] + (1 - aggregation.decay) * score)
        return max(averages)
    if aggregation.kind == "window":
        width = min(aggregation.width, len(scores))
        return np.lib.stride_tricks.sliding_window_view(scores, width).mean(1).max()
    return {"last": scores[-1], "mean": scores.mean(), "max": scores.max()}[aggregation.kind]


def ragged(seed, channels=()):
    rng = generator(seed)
    lengths = rng.integers(1, 23, 40)
    return rng.normal(size=(int(lengths.sum()), *channels)) * 10.0 ** rng.integers(-6, 6), lengths


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_batch_is_what_its_definition_says(form, channels):
    scores, lengths = ragged(7, channels)
    found = sequence_scores(scores, lengths, Aggregation.parse(form))
    parts = np.split(scores, np.cumsum(lengths)[:-1])
    wanted = [np.apply_along_axis(by_definition, 0, part, form) for part in parts]
    np.testing.assert_allclose(found, np.array(wanted), rtol=1e-12, atol=1e-13 * np.abs(scores).max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_token_by_token_gives_the_same_bits_as_the_batch(form, seed):
    aggregation = Aggregation.parse(form)
    scores, lengths = ragged(seed)
    batch = sequence_scores(scores, lengths, aggregation)
    threshold = float(np.sort(batch)[20])  # the score of one of them: alarms are strict in both ways
    for part, whole in zip(np.split(scores, np.cumsum(lengths)[:-1]), batch, strict=True):
        running = Running(aggregation)
        early = False
        for number, score in enumerate(part):
            running.update([score])
            prefix = sequence_scores(part[: number + 1], [number + 1], aggregation)
            assert running.score()[0] == prefix[0]
            assert running.certain()[0] <= whole
            early |= bool(running.alarms(threshold)[0])
        assert running.score()[0] == whole
        assert (early or running.alarms(threshold, ended=True)[0]) == (whole > threshold)


def test_sequences_side_by_side_do_not_touch_each_other():
    scores, lengths = ragged(8, (2,))
    for form in FORMS:
        running = Running(Aggregation.parse(form), len(lengths), (2,))
        parts = np.split(scores, np.cumsum(lengths)[:-1])
        assert np.isnan(running.score()).all()
        for token in range(lengths.max()):
            running.update(np.array([part[token] for part in parts if len(part) > token]), lengths > token)
        np.testing.assert_array_equal(running.score(), sequence_scores(scores, lengths, running.aggregation))


def test_an_alarm_is_raised_at_the_token_that_makes_it_certain():
    fired = {}
    for form in ("max", "window(2)", "mean", "last"):
        running = Running(Aggregation.parse(form))
        alarms = []
        for score in (0.0, 4.0, 4.0, 0.0):
            running.update([score])
            alarms.append(bool(running.alarms(3.0)[0]))
        fired[form] = alarms
    assert fired["max"] == [False, True, True, True]
    assert fired["window(2)"] == [False, False, True, True]
    assert fired["mean"] == fired["last"] == [False] * 4


def test_memory_does_not_grow_with_the_sequence():
    running = Running(Aggregation.parse("window(5)"))
    for score in np.arange(100.0):
        running.update([score])
    assert sum(part.size for part in (running._now, running._best, running._recent, running.tokens)) == 8


@pytest.mark.parametrize("form", [*FORMS, "ema(1e-05)"])
def test_an_aggregation_prints_what_it_parses(form):
    assert str(Aggregation.parse(form)) == form


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        *(
            (lambda text=text: Aggregation.parse(text), "aggregation: ")
            for text in ("median", "ema", "ema(x)", "ema(1)", "max(2)")
        ),
        *(
            (lambda text=text: Aggregation.parse(text), "aggregation: ")
            for text in ("window(0)", "window(1.5)", "", "ema(1.2.3)")
        ),
        (lambda: Aggregation("max", decay=0.5), "a decay is of ema"),
        (lambda: Aggregation("Max"), "wanted last, mean"),  # type: ignore[arg-type]
        (lambda: sequence_scores([1.0], [0, 1], Aggregation("max")), "lengths: sequence 0 has none"),
        (lambda: sequence_scores([1.0], [2], Aggregation("max")), "lengths: add up to 2 tokens, but there are scores of 1"),
        (lambda: sequence_scores([1.0, np.nan], [2], Aggregation("max")), "scores: row 1"),
        (lambda: sequence_scores([1.0], [], Aggregation("max")), "lengths: shape"),
        (lambda: sequence_scores([[1.0], [1.0, 2.0]], [2], Aggregation("max")), "scores: .*, wanted numbers alike in shape"),
        (lambda: sequence_scores(np.ones((2, 1, 1)), [2], Aggregation("max")), "scores: got shape .*, wanted 1 or 2 dim"),
        (lambda: Running(Aggregation("max"), 0), "sequences: got 0"),
        (lambda: Running(Aggregation("max"), 2).update([1.0]), "scores: got shape"),
        (lambda: Running(Aggregation("max"), 2).update([1.0], np.array([1])), "active: got int64 of shape"),
    ],
)
def test_bad_input_to_a_sequence_score_is_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
