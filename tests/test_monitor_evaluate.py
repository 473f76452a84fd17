"""The table that a monitor is judged in: nothing sees its own rows, masked words are gone; and the records of a report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import strandscope as ss
import tiny_chat
import watched
from strandscope.capture.examples import Examples
from strandscope.errors import InputError
from strandscope.monitor import evaluate as evaluation
from strandscope.monitor.evaluate import Evaluation, evaluate, evidence_words, judge, mask, part_of
from strandscope.monitor.monitor import Monitor
from strandscope.report.monitored import MonitorEntry, entry, lines, section
from strandscope.report.record import as_json, from_json
from strandscope.subject.subject import Subject

RATE = 0.05


@pytest.fixture(scope="module", autouse=True)
def few_folds() -> Iterator[None]:
    """Each fold is a search of its own, with baselines that are looked at by nobody here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_FOLDS", 2)
        patch.setattr(evaluation, "_PARTS", 2)
        yield


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return ss.load(tiny_chat.save_model(tmp_path_factory.mktemp("model"), chat=False), dtype="float32", check="none")


@pytest.fixture(scope="module")
def told() -> Examples:
    """A positive row ends in an exclamation mark; half of them hold the word wow too."""
    rows = tiny_chat.rows(n=48, groups=12)
    return Examples.from_rows(
        [{**row, "text": f"wow {row['text']}" if i % 4 == 1 else row["text"]} for i, row in enumerate(rows)]
    )


@pytest.fixture(scope="module")
def quiet(subject: Subject) -> ss.Activations:
    return ss.capture(subject, watched.texts(90, seed=1), "resid:*", "last")


@pytest.fixture(scope="module")
def made(subject: Subject, told: Examples, quiet: ss.Activations) -> Evaluation:
    return evaluate(subject, told, quiet, question="Is it loud?", false_alarm=RATE, at="resid:3")


def test_every_way_to_tell_stands_in_one_table(made: Evaluation) -> None:
    assert [line.how for line in made.lines] == [
        "the monitor, rows left out at random",
        "the monitor, sources left out",
        "the same, evidence words masked",
        "bag of words, sources left out",
        "length, sources left out",
        "the network asked as a judge",
    ]
    monitor, outside, hidden, words, length, asked = made.lines
    assert all(line.auroc.n == 48 for line in made.lines[:-1])
    assert monitor.auroc.value > 0.9 and outside.auroc.value > 0.9, "it is there to be told"
    assert monitor.recall.value > 0 and monitor.recall.n == 12 and outside.recall.n == 12
    assert words.auroc.value < 0.85 and words.recall.value is None and length.recall.reason == "no threshold was set for it"
    assert hidden.auroc.value > 0.8 and hidden.recall.value is not None, "a mark is no word, so it is not masked"
    assert asked.auroc.reason.endswith("yes and no are not one token each; it cannot be asked so")


def test_labels_that_nothing_tells_are_told_by_nothing(subject: Subject, quiet: ss.Activations) -> None:
    """A row that had been in the fit of its own score would be told."""
    chance = Examples.from_rows(tiny_chat.rows(n=48, groups=12, told=False, seed=3))
    for line in evaluate(subject, chance, quiet, question="Is it loud?", false_alarm=RATE, at="resid:3").lines[:-1]:
        assert line.auroc.low < 0.5 < line.auroc.high and abs(line.auroc.value - 0.5) < 0.25, line.how


def test_sources_are_left_out_whole(subject: Subject, quiet: ss.Activations) -> None:
    """Each source spells the class in its own way: other rows of the source tell it, other sources do not."""
    rows = []
    for number, (source, letters) in enumerate([("s", "bc"), ("t", "cb")]):
        for i, row in enumerate(tiny_chat.rows(n=40, seed=number, told=False)):
            label = i % 2
            text = f"{row['text'][:-2]} {letters[label] * 3}"
            rows.append({"text": text, "label": label, "source": source, "id": f"{source}{i}"})
    both = evaluate(subject, Examples.from_rows(rows), quiet, question="Is it loud?", false_alarm=RATE, at="resid:3")
    inside, outside = both.lines[0].auroc, both.lines[1].auroc
    assert outside.value < 0.2, "what one source taught is wrong in the other"
    assert inside.value > outside.value + 0.2


def test_what_is_told_by_one_word_is_not_told_without_it(subject: Subject, quiet: ss.Activations) -> None:
    rows = [
        {**row, "text": f"{row['text'][:-2]} {'bdb' if row['label'] else 'geg'}"} for row in tiny_chat.rows(48, 12, told=False)
    ]
    lines = evaluate(subject, Examples.from_rows(rows), quiet, question="Is it?", false_alarm=RATE, at="resid:3").lines
    assert lines[1].auroc.value > 0.95 and lines[3].auroc.value > 0.95
    assert lines[2].auroc.value < lines[1].auroc.value - 0.2


def test_evidence_words_are_those_for_or_against_and_are_masked_in_any_case() -> None:
    rows = [{"text": f"the plan {'blooms' if i % 2 else 'withers'} on day {i}", "label": i % 2} for i in range(40)]
    examples = Examples.from_rows(rows)
    words = evidence_words(examples, 3)
    assert set(words[:2]) == {"blooms", "withers"} and len(words) == 3
    chats = Examples.from_rows([{"messages": [{"role": "user", "content": "Blooms, and reblooms: BLOOMS"}]}])
    assert mask(chats, ["blooms"]).texts() == ["…, and reblooms: …"]
    assert mask(examples, ["blooms"]).ids == examples.ids and (mask(examples, words).labels == examples.labels).all()


def test_the_judge_is_asked_for_its_next_word(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny tokenizer spells letters, so y and n stand for the words: log-odds by hand."""
    with pytest.raises(InputError, match="yes and no are not one token each"):
        judge(subject, ["abc"], "Is it?")
    tokenizer = subject.tokenizer
    assert tokenizer is not None
    codes = {word: tokenizer(word[0], add_special_tokens=False)["input_ids"][0] for word in ("yes", "no")}
    monkeypatch.setattr(evaluation, "_first_tokens", lambda _, word: {codes[word]})
    found = judge(subject, ["abc", "d"], "Is it?")
    for text, odds in zip(("abc", "d"), found, strict=True):
        asked = f"{text}\n\nIs it? Answer yes or no. Answer:"
        ids = watched.ids_of(subject, Examples.from_rows([{"text": asked}]))[0]
        with torch.no_grad():
            logits = subject.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        assert odds == pytest.approx(float(logits[codes["yes"]] - logits[codes["no"]]), abs=1e-4)


def test_only_one_state_a_row_can_be_divided(subject: Subject) -> None:
    rows = watched.texts(6)
    acts = ss.capture(subject, rows, "resid:1", "last")
    some = part_of(acts, np.array([4, 1]))
    assert some.ids == (rows.ids[4], rows.ids[1]) and torch.equal(some.at("resid:1"), acts.at("resid:1")[[4, 1]])
    with pytest.raises(InputError, match="capture one a row"):
        part_of(ss.capture(subject, rows, "resid:1", "all"), np.array([0]))


def test_a_monitor_in_a_report_is_what_was_measured(subject: Subject, made: Evaluation, quiet: ss.Activations) -> None:
    monitor = Monitor.calibrate(watched.three(subject), quiet, false_alarm=RATE)
    recorded = entry(monitor, (replace(made, concept="first"),))
    again = from_json(MonitorEntry, json.dumps(as_json(recorded)), "here")
    assert again == recorded and [one.concept for one in again.concepts] == ["first", "second"]
    first = recorded.concepts[0]
    assert first.sites == ("resid:1", "resid:2") and first.threshold == monitor.threshold_of("first").value
    assert [line.auroc for line in first.evaluation] == [line.auroc for line in made.lines] and not recorded.concepts[
        1
    ].evaluation
    shown = "\n".join(lines(recorded))
    assert (
        f"{monitor.false_alarms.value:.2%} to expect, at most 0.05 with confidence 0.95 (the largest of 79 benign groups" in shown
    )
    page = "\n\n".join(section(recorded))
    assert page.startswith("## Monitor\n\nCalibrated on 79 benign groups") and page.count("not measured") >= 4
    assert "| the network asked as a judge |" in page
