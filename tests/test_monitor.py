"""A monitor: its scores against our own reading of the states, its threshold against what was promised, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import strandscope as ss
import tiny_chat
import watched
from strandscope.audit import _of, _watching
from strandscope.capture.activations import Activations
from strandscope.capture.examples import Example, Examples
from strandscope.errors import InputError, TrustError
from strandscope.io import load_tensors, save_tensors
from strandscope.monitor.benign import benign, conversations, docstrings
from strandscope.monitor.channels import Channel
from strandscope.monitor.held import beside, held_out, parts
from strandscope.monitor.judged import judge
from strandscope.monitor.monitor import Monitor
from strandscope.monitor.probability import platt
from strandscope.monitor.shown import shown
from strandscope.monitor.states import TEMPLATE
from strandscope.monitor.threshold import calibrate
from strandscope.provenance import numpy_generator
from strandscope.report.asked import Asked
from strandscope.report.finding import Meaning, TokenRow
from strandscope.report.record import Unmeasured
from strandscope.statistics.resample import group_folds
from strandscope.strand.find import find
from strandscope.strand.strand import Strand
from strandscope.subject.attach import hooks
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

HOWS = ["last", "mean", "max", "ema(0.5)", "window(3)"]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return watched.open_tiny(tiny_chat.save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def quiet() -> Examples:
    return watched.texts(80, seed=1)


def made(subject: Subject, quiet: Examples, how: str = "max", **options: object) -> Monitor:
    return Monitor.calibrate(watched.three(subject), quiet, subject=subject, false_alarm=0.05, aggregation=how, **options)  # type: ignore[arg-type]


# --- rows to look at ---


@pytest.mark.parametrize("how", ["mean", "max"])
def test_rows_are_shown_token_by_token_less_the_threshold(subject: Subject, quiet: Examples, how: str) -> None:
    monitor, rows = made(subject, quiet, how), watched.labelled(4, 5)
    found = shown(monitor, subject, rows)
    assert [one.id for one in found] == [row.id for row in rows.rows]
    for ids, one in zip(watched.ids_of(subject, rows), found, strict=True):
        kept = list(ids)[monitor.reader.skip :]
        assert one.tokens == tuple(subject.tokenizer.decode([token]) for token in kept)  # type: ignore[union-attr]
        for place, concept in enumerate(monitor.concepts):
            scores = watched.own_scores(subject, watched.three(subject), concept, ids)[monitor.reader.skip :]
            assert one.values[:, place] == pytest.approx(scores - monitor.thresholds[place], abs=1e-3)
    with pytest.raises(InputError, match="last token of a row alone"):
        shown(made(subject, quiet, "last"), subject, rows)
    with pytest.raises(InputError, match="calibrated on states"):
        shown(replace(monitor, template=TEMPLATE), subject, rows)


def test_an_audit_shows_the_first_conversation_and_the_first_row_of_each_class(subject: Subject, quiet: Examples) -> None:
    monitor, pack = made(subject, quiet), watched.labelled(8, 6)
    pack = Examples.from_rows(
        [{"text": row.input, "label": row.label, "group": f"g{i}"} for i, row in enumerate(pack.rows)], "first"
    )
    other = replace(pack, name="no concept of it")
    codes = [row.label for row in pack.rows]
    ids = [pack.rows[codes.index(code)].id for code in range(2)]
    rest = [row.id for row in pack.rows if row.id not in ids]
    why = [(ids[0], "highest"), (rest[0], "highest"), (rest[1], "highest"), (rest[2], "lowest"), (ids[1], "nearest")]
    told = tuple(TokenRow(id=id, text="", label="?", score=0.0, why=why, tokens=(), values=()) for id, why in why)
    meaning = Meaning(examples=told, bound=None, promotes=(), suppresses=(), vocabulary_bound=None)
    absent = Unmeasured(reason="not asked")
    pair = [Asked(one, "?", "here") for one in (pack, other)]
    entry = _watching(monitor, subject, pair, [meaning, meaning])
    assert not isinstance(entry.examples, Unmeasured)
    wanted = [conversations().rows[0].id, *(f"first {one}" for one in ids)]
    placed = entry.examples[: 2 * len(wanted)]
    assert [row.id for row in placed] == [name for name in wanted for _ in monitor.concepts]
    assert [row.concept for row in placed[:2]] == ["first", "second"] and {row.why for row in placed} == {"by its place"}
    assert [row.label for row in placed[::2]] == ["benign", *pack.classes]
    more = [(row.id, row.concept, row.why) for row in entry.examples[len(placed) :]]
    # a row that stands there by its place already does not stand there twice, nor two of one kind
    assert more == [(f"first {rest[0]}", "first", "highest"), (f"first {rest[2]}", "first", "lowest")]
    assert all(len(row.tokens) == len(row.values) > 0 for row in entry.examples)
    alone = _watching(monitor, subject, pair, [absent, absent]).examples
    assert not isinstance(alone, Unmeasured) and [(row.id, row.concept) for row in alone] == [
        (row.id, row.concept) for row in placed
    ]
    told = _watching(made(subject, quiet, "last"), subject, [], []).examples
    with pytest.raises(TrustError, match="calibrated in the network"):
        _of(subject, replace(monitor, fingerprint="f" * 64))
    assert isinstance(told, Unmeasured) and "last token of a row alone" in told.reason


# --- scores ---


@pytest.mark.parametrize("how", HOWS)
def test_scores_are_our_own_reading_of_the_states(subject: Subject, quiet: Examples, how: str) -> None:
    monitor = made(subject, quiet, how)
    rows = watched.texts(12, seed=5)
    found = monitor.scores(rows, subject)
    for number, ids in enumerate(watched.ids_of(subject, rows)):
        for place, concept in enumerate(monitor.concepts):
            scores = watched.own_scores(subject, watched.three(subject), concept, ids)
            assert found[number, place] == pytest.approx(watched.together(scores[monitor.reader.skip :], how), abs=2e-5)


def test_every_text_begins_alike_and_that_is_not_scored(subject: Subject, quiet: Examples) -> None:
    monitor = made(subject, quiet)
    shared = {ids[:1] for ids in watched.ids_of(subject, quiet)}
    assert len(shared) == 1 and monitor.reader.skip == 1
    assert made(subject, quiet, skip=3).reader.skip == 3


@pytest.mark.parametrize("how", ["last", "mean", "max"])
def test_captured_states_give_the_scores_that_the_network_gives(subject: Subject, quiet: Examples, how: str) -> None:
    monitor = made(subject, quiet, how)
    rows = watched.texts(12, seed=5)
    captured = ss.capture(subject, rows, "resid:1-2", "all")
    assert np.allclose(monitor.scores(captured), monitor.scores(rows, subject), atol=1e-6)
    from_states = Monitor.calibrate(
        watched.three(subject), ss.capture(subject, quiet, "resid:1-2", "all"), false_alarm=0.05, aggregation=how
    )
    assert from_states.reader.skip == monitor.reader.skip
    assert np.allclose(from_states.thresholds, monitor.thresholds, atol=1e-6)


def test_class_means_are_at_minus_one_and_one(tmp_path: Path) -> None:
    """Of a strand that was found: that is what the unit of a score means."""
    acts, direction = _told(40, 0)
    strand = find(acts, permutations=0).best
    channel = Channel.of(strand)
    coordinates = acts.at(strand.site) @ channel.direction - channel.bias
    means = [float(coordinates[torch.as_tensor(acts.labels == label)].mean()) for label in (0, 1)]
    assert means == pytest.approx([-1, 1], abs=1e-4)
    assert float(channel.direction @ direction) > 0


# --- the threshold ---


def test_benign_rows_that_alarm_are_one_fewer_than_the_order(subject: Subject, quiet: Examples) -> None:
    """Alarms are strictly above the k-th largest; of several concepts, of any of them together."""
    one = Monitor.calibrate(watched.strand(subject), quiet, subject=subject, false_alarm=0.2, aggregation="max")
    assert one.threshold.order > 1 and one.alarms(one.scores(quiet, subject)).sum() == one.threshold.order - 1
    two = made(subject, watched.texts(120, seed=1), seed=3)
    assert two.threshold.sequences == 120 - 120 // 8, "an eighth of the groups sets the levels"
    alarms = two.alarms(two.scores(watched.texts(120, seed=1), subject)).any(1)
    assert two.threshold.order - 1 <= alarms.sum() <= two.threshold.order - 1 + 120 // 8


def test_the_rate_of_any_alarm_is_kept_as_often_as_stated() -> None:
    """200 calibrations of two concepts that depend on each other, each with its true rate from 20,000 further rows."""
    strands = [_on_axis("a", 0), _on_axis("b", 1)]
    draw, kept = np.random.default_rng(0), 0
    fresh = _heavy(draw, 20000)
    for seed in range(200):
        monitor = Monitor.calibrate(strands, _captured(_heavy(draw, 120)), false_alarm=0.05, seed=seed)
        assert monitor.threshold.sequences == 105
        kept += int(((fresh @ [[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]) > monitor.thresholds).any(1).mean() <= 0.05)
    assert kept >= 182


def test_too_few_sequences_are_refused_before_the_network_reads_any(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strandscope.monitor.scoring.stream", lambda *_: pytest.fail("the network was run"))
    few = watched.texts(200, groups=40)
    with pytest.raises(InputError, match=r"got 40 groups of sequences, wanted at least 59 for a false-alarm rate of 0.05 at"):
        Monitor.calibrate(watched.strand(subject), few, subject=subject, false_alarm=0.05)
    with pytest.raises(InputError, match=r"got 35 groups of sequences beside 5 that set the concepts' levels, wanted "):
        Monitor.calibrate(watched.three(subject), few, subject=subject)


# --- what is refused ---


def test_a_strand_that_may_run_either_way_is_refused(subject: Subject, quiet: Examples) -> None:
    unsure = watched.strand(subject, low=0.45)
    with pytest.raises(InputError, match="does not show which way it runs"):
        Monitor.calibrate(unsure, quiet, subject=subject, false_alarm=0.05)
    rows = _by_score(subject, watched.strand(subject))
    monitor = Monitor.calibrate(unsure, quiet, subject=subject, false_alarm=0.05, positives=rows)
    assert monitor.judged["made up"].recall.value is not None
    turned = replace(rows, rows=tuple(replace(row, label=1 - row.label) for row in rows.rows))  # type: ignore[operator]
    with pytest.raises(InputError, match="run against the labels"):
        Monitor.calibrate(unsure, quiet, subject=subject, false_alarm=0.05, positives=turned)
    lowest = Examples(tuple(replace(row, label=None) for row in rows.rows if row.label == 0), (), "text", "lowest")
    with pytest.raises(InputError, match="against benign sequences: scores: run against the labels"):
        Monitor.calibrate(unsure, quiet, subject=subject, false_alarm=0.05, positives=lowest)


def test_rows_that_the_strand_was_found_on_are_no_evidence(subject: Subject, quiet: Examples) -> None:
    rows = _by_score(subject, watched.strand(subject))
    strand = replace(watched.strand(subject), provenance={"data": rows.digest})
    with pytest.raises(InputError, match="are the rows that its strand was found on"):
        Monitor.calibrate(strand, quiet, subject=subject, false_alarm=0.05, positives=rows)


def test_other_networks_templates_and_strands_are_refused(subject: Subject, quiet: Examples) -> None:
    with pytest.raises(TrustError, match="was found in the network"):
        made_of = replace(watched.strand(subject), fingerprint="f" * 64)
        Monitor.calibrate(made_of, quiet, subject=subject, false_alarm=0.05)
    chats = Examples.from_rows([{"messages": [{"role": "user", "content": f"hello {i}"}]} for i in range(30)], "chats")
    with pytest.raises(InputError, match="chat rows in another template than the benign text ones"):
        Monitor.calibrate(watched.strand(subject), quiet, subject=subject, false_alarm=0.05, positives=chats)
    monitor = made(subject, quiet)
    with pytest.raises(InputError, match="chat rows, and the monitor was calibrated on text rows"):
        monitor.scores(chats, subject)
    with pytest.raises(InputError, match=r"'made up' at resid:1 is there twice"):
        Monitor.calibrate([watched.strand(subject)] * 2, quiet, subject=subject, false_alarm=0.05)
    with pytest.raises(InputError, match="give subject="):
        Monitor.calibrate(watched.strand(subject), quiet, false_alarm=0.05)
    assert hooks(subject.module) == subject.hooks


# --- held-out rows ---


def test_recall_and_probabilities_are_of_the_held_out_rows(subject: Subject, quiet: Examples) -> None:
    strand = watched.strand(subject)
    rows = _by_score(subject, strand)
    monitor = Monitor.calibrate(strand, quiet, subject=subject, false_alarm=0.2, positives=rows)
    scores, judged = monitor.scores(rows, subject)[:, 0], monitor.judged["made up"]
    hits = scores > monitor.thresholds[0]
    assert 0 < hits[rows.labels == 1].mean() < 1
    assert judged.recall.value == pytest.approx(hits[rows.labels == 1].mean()) and judged.false_alarms.value == 0
    assert judged.probability is not None and judged.error.value is not None and sum(one.rows for one in judged.bins) == len(rows)
    chance = judged.probability(scores)
    assert chance[rows.labels == 1].mean() > 0.6 > 0.4 > chance[rows.labels == 0].mean()
    assert monitor.judged["made up"].error.method.startswith("cross-fitted Platt")


def test_probabilities_are_judged_by_fits_that_had_not_seen_the_row() -> None:
    draw = np.random.default_rng(3)
    truth = np.arange(60) % 2 == 1
    scores, groups = draw.normal(size=60) + truth, np.arange(60)
    threshold = calibrate(draw.normal(size=100), rate=0.05)
    judged = judge("x", scores, truth, groups, threshold, (draw.normal(size=100), np.arange(100)), seed=5)
    folds = group_folds(truth.astype(np.int64), groups, 5, numpy_generator(5, "probabilities", "x"))
    chance = np.empty(60)
    for fold in range(5):
        chance[folds == fold] = platt(scores[folds != fold], truth[folds != fold])(scores[folds == fold])
    order = np.argsort(chance)
    wanted = sum(abs(truth[part].mean() - chance[part].mean()) * len(part) for part in np.array_split(order, 10)) / 60
    assert judged.error.value == pytest.approx(wanted)


def test_parts_share_no_group_and_leave_every_concept_the_same_benign_rows(quiet: Examples) -> None:
    one = parts(watched.labelled(80, 0), quiet, seed=4)
    other = parts(replace(watched.labelled(60, 1), name="other"), quiet, seed=4)
    assert one.benign.ids == other.benign.ids and len(one.benign) == len(quiet) - round(len(quiet) / 6)
    found = set(one.found.ids)
    assert not found & set(one.held.ids) and not {f"benign:{name}" for name in one.benign.ids} & found
    assert len(one.found) + len(one.held) + len(one.benign) == 80 + len(quiet)
    names = {row.group for row in one.held.rows}
    assert not any(row.group.removeprefix("held:") in names for row in one.found.rows)
    assert all(row.label == 0 for row in one.found.rows if row.id.startswith("benign:"))
    train, held = held_out(watched.labelled(80, 0), 0.25, seed=1)
    assert len(held) == 20 and len(train) == 60
    with pytest.raises(InputError, match="chat rows, and the benign ones are text"):
        parts(ss.concept("harm"), quiet)
    assert beside(watched.labelled(8, 0, groups=4), quiet).classes == ("no", "yes")


# --- files ---


def test_a_saved_monitor_is_the_same_monitor(subject: Subject, quiet: Examples, tmp_path: Path) -> None:
    rows = {"first": watched.labelled(40, 9)}
    rows["first"] = _by_score(subject, watched.three(subject)[0], "first", watched.three(subject))
    monitor = made(subject, quiet, "window(3)", positives=rows)
    monitor.save(tmp_path / "m.safetensors")
    again = Monitor.load(tmp_path / "m.safetensors")
    assert str(again) == str(monitor) and again.judged == monitor.judged and again.threshold == monitor.threshold
    assert (again.thresholds == monitor.thresholds).all() and (again.reference == monitor.reference).all()
    fresh = watched.texts(9, seed=8)
    assert (again.scores(fresh, subject) == monitor.scores(fresh, subject)).all()
    assert again.reader.channels.names == ("first at resid:1", "second at resid:2", "first at resid:2")
    drift = again.drift()
    assert drift.channels == again.reader.channels.names and drift.calibrated == 80
    with pytest.raises(TrustError, match="was calibrated in the network"):
        again.check("0" * 64)
    again.check("0" * 64, force=True)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda t, m: m.update(schema="strandscope/strand/1"), "wanted a monitor"),
        (lambda t, m: m.pop("threshold"), "lacks or garbles 'threshold'"),
        (lambda t, m: t.update(reference=t["reference"][:, :1]), "lacks or garbles reference"),
        (lambda t, m: t.pop("direction:1"), "lacks or garbles 'direction:1'"),
        (lambda t, m: t.update(spreads=-t["spreads"]), "lacks or garbles threshold"),
    ],
)
def test_a_file_that_is_no_monitor_is_refused(subject: Subject, quiet: Examples, tmp_path: Path, spoil, sentence: str) -> None:
    made(subject, quiet).save(tmp_path / "m.safetensors")
    tensors, manifest = load_tensors(tmp_path / "m.safetensors")
    spoil(tensors, manifest)
    save_tensors(tmp_path / "bad.safetensors", tensors, manifest)
    with pytest.raises(InputError, match=rf"^bad.safetensors: .*{sentence}"):
        Monitor.load(tmp_path / "bad.safetensors")


# --- benign sequences ---


def test_the_project_s_benign_sequences_are_enough_for_one_in_a_hundred() -> None:
    chats, plain = benign(), benign(chat=False)
    assert (chats.kind, plain.kind) == ("chat", "text") and chats.ids == plain.ids
    assert [row.group for row in chats.rows] == [row.group for row in plain.rows] and not chats.labelled
    groups = len(set(chats.groups.tolist()))
    assert groups == len({row.group for row in chats.rows}), "no two groups share a row"
    assert groups - groups // 6 >= 299
    assert len(conversations()) >= 60 and conversations().copies == 0
    assert docstrings().ids == docstrings().ids and docstrings(each=3, longest=40).copies == 0


# --- helpers ---


def _by_score(
    subject: Subject, strand: Strand, concept: str = "made up", strands: list[Strand] | None = None, rows: int = 60
) -> Examples:
    """Texts whose label is whether their last token scores high, but for some."""
    plain = watched.texts(rows, seed=21)
    scores = [watched.own_scores(subject, strands or [strand], concept, ids)[-1] for ids in watched.ids_of(subject, plain)]
    order = np.argsort(np.argsort(scores))
    made_of = [Example(row.input, int(order[i] >= rows // 2), f"own {i}", row.id) for i, row in enumerate(plain.rows)]
    swapped = [
        replace(row, label=1 - row.label) if order[i] in (rows // 2, rows // 2 - 1) else row for i, row in enumerate(made_of)
    ]  # type: ignore[operator]
    return Examples(tuple(swapped), ("no", "yes"), "text", "held")


def _told(rows: int, seed: int) -> tuple[Activations, torch.Tensor]:
    """States whose classes lie apart along one direction."""
    draw = torch.Generator().manual_seed(seed)
    direction = torch.randn(8, generator=draw)
    labels = torch.arange(rows) % 2
    states = torch.randn(rows, 8, generator=draw) + labels[:, None] * direction
    rows_ = [{"text": f"row {i}", "label": int(label), "group": f"g{i // 2}"} for i, label in enumerate(labels)]
    return _captured(states.numpy(), Examples.from_rows(rows_, "told")), direction


def _captured(states: np.ndarray, examples: Examples | None = None) -> Activations:
    n = len(states)
    examples = examples or Examples.from_rows([{"text": f"row {i}"} for i in range(n)], "simulated")
    state = {Site.parse("resid:0"): torch.from_numpy(states).float()}
    none = torch.full((n,), -1)
    return Activations(state, examples, "last", torch.arange(n), none, none, {}, "f" * 64, {"format": "text"})


def _heavy(draw: np.random.Generator, n: int) -> np.ndarray:
    """(n, 3): heavy tails, the second coordinate leaning on the first and four times as wide."""
    first, second = draw.standard_t(3, n), draw.standard_t(3, n)
    return np.stack([first, 4 * (0.6 * first + 0.8 * second), draw.normal(size=n)], 1)


def _on_axis(name: str, axis: int) -> Strand:
    basis = torch.eye(3)[:, axis : axis + 1]
    evidence = given(0.9, 0.8, 0.95)
    return Strand(name, "yes", "resid:0", "last", basis, basis, torch.ones(1), torch.zeros(1), "by hand", evidence, "f" * 64)


def given(value: float, low: float, high: float):
    from strandscope.reading import Reading

    return Reading(value, low, high, 0.95, 80, "AUROC", None, "given")
