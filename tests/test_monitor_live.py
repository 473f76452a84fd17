"""A monitor while the network reads and writes: the scores of every token, the alarm at its token, and what an alarm does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tiny_chat
import watched
from strandscope.errors import InputError, TrustError
from strandscope.monitor.live import Live, live_of
from strandscope.monitor.monitor import Monitor
from strandscope.subject.attach import Scope, attach, hooks
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

PROMPTS = ("xdo you mind?", "xhello there", "xa b c d e f")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return watched.open_tiny(tiny_chat.save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def monitor(subject: Subject) -> Monitor:
    return made(subject, "max")


@pytest.fixture(autouse=True)
def nothing_is_left(subject: Subject) -> Iterator[None]:
    yield
    assert hooks(subject.module) == subject.hooks


def made(subject: Subject, how: str) -> Monitor:
    quiet = watched.texts(80, seed=1)
    return Monitor.calibrate(watched.three(subject), quiet, subject=subject, false_alarm=0.05, aggregation=how)


def batch(subject: Subject, prompts: tuple[str, ...], side: str) -> dict[str, Tensor]:
    assert subject.tokenizer is not None
    made = subject.tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side=side, return_token_type_ids=False)
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def generated(subject: Subject, prompts: tuple[str, ...] = PROMPTS, new: int = 8, **options: Any) -> list[list[int]]:
    """Greedy replies of a batch, each row with its prompt and without its padding."""
    given = batch(subject, prompts, "left")
    with torch.no_grad():
        ids = subject.module.generate(**given, max_new_tokens=new, do_sample=False, **options)  # type: ignore[operator]
    return [row[int((mask == 0).sum()) :].tolist() for row, mask in zip(ids, given["attention_mask"], strict=True)]


def expected(subject: Subject, ids: list[int]) -> np.ndarray:
    strands = watched.three(subject)
    return np.stack([watched.own_scores(subject, strands, name, ids) for name in ("first", "second")], 1)


# --- scores ---


@pytest.mark.parametrize("how", ["last", "mean", "max", "ema(0.5)", "window(3)"])
def test_every_token_of_prompt_and_reply_is_scored_as_in_one_pass(subject: Subject, how: str) -> None:
    monitor = made(subject, how)
    with monitor.watching(subject) as live:
        rows = generated(subject)
    assert [one.row for one in live.sequences] == [0, 1, 2]
    for ids, one in zip(rows, live.sequences, strict=True):
        scores = expected(subject, ids[:-1])[monitor.reader.skip :]  # the last token was never read
        assert one.tokens.shape == scores.shape and np.allclose(one.tokens, scores, atol=2e-4)
        assert one.score == pytest.approx([watched.together(column, how) for column in scores.T], abs=2e-4)


@pytest.mark.parametrize("how", ["mean", "max", "window(3)"])
def test_channels_by_themselves_are_what_the_concepts_are_means_of(subject: Subject, how: str) -> None:
    monitor = made(subject, how)
    live, reads = live_of(monitor, subject, channels=True)
    with attach(subject, reads=reads):
        rows = generated(subject)
    live.close()
    by_name = {f"{one.name} at {one.site}": one for one in watched.three(subject)}
    assert set(by_name) == set(monitor.reader.channels.names)
    for ids, one in zip(rows, live.sequences, strict=True):
        own = [
            watched.own_scores(subject, [by_name[name]], by_name[name].name, ids[:-1]) for name in monitor.reader.channels.names
        ]
        wanted = [watched.together(scores[monitor.reader.skip :], how) for scores in own]
        assert one.channels == pytest.approx(wanted, abs=2e-4)


def test_from_the_states_on_a_stream_is_the_batch_to_the_bit(subject: Subject, monitor: Monitor) -> None:
    """Tokens one at a time, and all at once, of the same products."""
    channels, draw = monitor.reader.channels, np.random.default_rng(0)
    products = draw.normal(size=(50, len(channels)))
    whole = channels.scores(products)
    assert all((channels.scores(products[token : token + 1])[0] == whole[token]).all() for token in range(50))
    assert (channels.scores(products[::-1])[::-1] == whole).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_token_on_either_side(subject: Subject, monitor: Monitor, side: str) -> None:
    given = batch(subject, PROMPTS, side)
    with monitor.watching(subject) as live, torch.no_grad():
        subject.module(**given)
    for one, ids, mask in zip(live.sequences, given["input_ids"], given["attention_mask"], strict=True):
        scores = expected(subject, ids[mask.bool()].tolist())
        assert np.allclose(one.tokens, scores[monitor.reader.skip :], atol=2e-4)


def test_a_row_ends_at_its_end_token_and_what_its_batch_feeds_it_then_is_not_scored(subject: Subject, monitor: Monitor) -> None:
    plain = generated(subject)
    length = len(plain[1]) - 8
    end = plain[1][length + 2]  # the third token of the second row's reply
    assert subject.tokenizer is not None
    with monitor.watching(subject, ends={end}) as live:
        rows = generated(subject, eos_token_id=end, pad_token_id=subject.tokenizer.pad_token_id)
    for one, ids in zip(live.sequences, rows, strict=True):
        start = length if one.row == 1 else len(plain[one.row]) - 8
        reply = ids[start:]
        read = ids[: start + reply.index(end)] if end in reply[:-1] else ids[:-1]
        assert len(one.tokens) == len(read) - monitor.reader.skip
        assert np.allclose(one.tokens, expected(subject, read)[monitor.reader.skip :], atol=2e-4)
    assert len(live.sequences[1].tokens) == length + plain[1][length:].index(end) - monitor.reader.skip
    with monitor.watching(subject, ends={end}) as alone:
        generated(subject, PROMPTS[1:2], eos_token_id=end, pad_token_id=subject.tokenizer.pad_token_id)
    assert np.allclose(alone.sequences[0].tokens, live.sequences[1].tokens, atol=2e-4)


def test_passes_with_no_cache_begin_sequences_anew(subject: Subject, monitor: Monitor) -> None:
    with monitor.watching(subject) as live:
        generated(subject)
        generated(subject, PROMPTS[:2])
        assert len(live.sequences) == 3 and live.score.shape == (2, 2)
        generated(subject, PROMPTS[:2], new=3)
    assert [one.row for one in live.sequences] == [0, 1, 2, 0, 1, 0, 1]
    assert np.allclose(live.sequences[0].tokens, live.sequences[3].tokens, atol=2e-4)


# --- alarms ---


def reply_threshold(subject: Subject, monitor: Monitor, row: int = 0) -> tuple[float, int]:
    """A threshold that the row's first concept passes inside its reply and nowhere before, and the token that does."""
    ids = generated(subject)
    scores = expected(subject, ids[row][:-1])[:, 0]
    prompt = len(ids[row]) - 8
    highest = prompt + int(scores[prompt:].argmax())
    before = scores[monitor.reader.skip : highest].max()
    assert scores[highest] > before + 0.01, "the reply of this network holds no new maximum: choose another prompt"
    return (float(scores[highest]) + float(before)) / 2, highest


def test_the_alarm_is_at_the_token_that_raises_it(subject: Subject, monitor: Monitor) -> None:
    threshold, token = reply_threshold(subject, monitor)
    heard: list[Any] = []
    with watched.at(monitor, threshold, 1e9).watching(subject, on_alarm=heard.append) as live:
        rows = generated(subject)
    for one, ids in zip(live.sequences, rows, strict=True):
        scores = expected(subject, ids[:-1])[:, 0]
        above = np.flatnonzero(scores[monitor.reader.skip :] > threshold) + monitor.reader.skip
        assert [fired.token for fired in one.alarms] == above[:1].tolist()
        assert all(
            fired.concept == "first" and fired.score == pytest.approx(scores[fired.token], abs=2e-4) for fired in one.alarms
        )
    assert [fired.token for fired in live.sequences[0].alarms] == [token]
    assert len(heard) == sum(len(one.alarms) for one in live.sequences)


def test_stop_ends_the_row_that_fired_and_no_other(subject: Subject, monitor: Monitor) -> None:
    threshold, token = reply_threshold(subject, monitor)
    plain = generated(subject)
    assert subject.tokenizer is not None
    with watched.at(monitor, threshold, 1e9).watching(subject, action="stop") as live:
        rows = generated(subject, pad_token_id=subject.tokenizer.pad_token_id, **live.options)
    fired = {one.row: one.alarms[0].token for one in live.sequences if one.alarms}
    assert fired[0] == token and len(fired) < 3
    for row, ids in enumerate(rows):
        if row in fired:  # one more token had been chosen when its state was read
            assert ids[: fired[row] + 2] == plain[row][: fired[row] + 2]
            assert set(ids[fired[row] + 2 :]) <= {subject.tokenizer.pad_token_id}
            assert len(live.sequences[row].tokens) == fired[row] + 1 - monitor.reader.skip
        else:
            assert ids == plain[row]


def test_stop_that_nobody_asks_for_is_an_error(subject: Subject, monitor: Monitor) -> None:
    with (
        pytest.raises(InputError, match=r"call generate\(…, \*\*live.options\)"),
        watched.at(monitor, -1e9, 1e9).watching(subject, action="stop"),
    ):
        generated(subject)
    with watched.at(monitor, 1e9, 1e9).watching(subject, action="stop"):
        generated(subject)


def test_subject_generate_stops_too(subject: Subject, monitor: Monitor) -> None:
    with watched.at(monitor, -1e9, 1e9).watching(subject, action="stop") as live:
        subject.generate("hello", 8, chat=False, **live.options)
    (one,) = live.sequences
    assert [fired.token for fired in one.alarms] == [monitor.reader.skip] and len(one.tokens) == len(
        "hello"
    ) - monitor.reader.skip


def test_an_edit_behind_the_gate_writes_from_the_alarm_on(subject: Subject, monitor: Monitor) -> None:
    """At a later block in the pass of the alarm, in the rows that fired alone."""
    threshold, token = reply_threshold(subject, monitor)
    written: list[np.ndarray] = []
    with watched.at(monitor, threshold, 1e9).watching(subject, action="edit") as live:
        scope = Scope(positions="all", gate=live)

        def edit(state: Tensor) -> Tensor:
            return state

        def look(state: Tensor, moment: Any) -> None:
            mask = scope.select(state, moment)
            shape = state.shape[:2]
            written.append(np.full(shape, mask) if isinstance(mask, bool) else mask.numpy().copy())

        with attach(subject, edits={Site.parse("resid:3"): [(edit, scope)]}, reads={Site.parse("resid:3"): look}):
            rows = generated(subject)
        assert live.fired.tolist() == [bool([one for one in live.alarms if one.row == row]) for row in range(3)]
    assert token >= len(rows[0]) - 8
    first = {one.row: one.alarms[0].token - (len(rows[one.row]) - 8) for one in live.sequences if one.alarms}
    for step, mask in enumerate(written[1:]):  # decoded steps; step s reads token s of the reply
        assert mask[:, -1].tolist() == [row in first and step >= first[row] for row in range(3)]
    assert not written[0][0].any()


def test_a_log_opens_no_gate(subject: Subject, monitor: Monitor) -> None:
    with watched.at(monitor, -1e9, -1e9).watching(subject) as live, torch.no_grad():
        subject.module(**batch(subject, PROMPTS, "left"))
        assert live.fired.all() and not live.open(torch.zeros(3, 1, 32), None).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["last", "mean"])
def test_what_is_sure_of_nothing_before_the_end_is_judged_at_the_prompt_s_end_or_not_at_all(subject: Subject, how: str) -> None:
    monitor = made(subject, how)
    with (
        pytest.raises(InputError, match=f"the {how} over tokens is certain of nothing"),
        monitor.watching(subject, action="stop"),
    ):
        pass
    ids = generated(subject)
    ends = [watched.together(expected(subject, row[:-8])[monitor.reader.skip :, 0], how) for row in ids]
    between = (sorted(ends)[1] + sorted(ends)[2]) / 2
    with watched.at(monitor, between, 1e9).watching(subject, action="stop", judge="prompt") as live:
        rows = generated(subject, **live.options)
    highest = int(np.argmax(ends))
    assert [len(one.alarms) for one in live.sequences] == [int(row == highest) for row in range(3)]
    (fired,) = live.sequences[highest].alarms
    assert fired.token == len(ids[highest]) - 9 and fired.score == pytest.approx(ends[highest], abs=2e-4)
    assert len(live.sequences[highest].tokens) == len(ids[highest]) - 8 - monitor.reader.skip
    assert [row for row in range(3) if rows[row] == ids[row]] == [row for row in range(3) if row != highest]


def test_a_prompt_that_is_judged_is_judged_without_its_reply(subject: Subject, monitor: Monitor) -> None:
    threshold, _ = reply_threshold(subject, monitor)
    with watched.at(monitor, threshold, 1e9).watching(subject, judge="prompt") as live:
        generated(subject)
    ids, alarms = generated(subject), [len(one.alarms) for one in live.sequences]
    assert (
        alarms == [int(expected(subject, row[:-8])[monitor.reader.skip :, 0].max() > threshold) for row in ids] and not alarms[0]
    )


def test_another_network_and_another_word_are_refused(subject: Subject, monitor: Monitor) -> None:
    with pytest.raises(TrustError), replace(monitor, fingerprint="0" * 64).watching(subject):
        pass
    with replace(monitor, fingerprint="0" * 64).watching(subject, force=True):
        pass
    with pytest.raises(InputError, match="wanted log, stop or edit"), monitor.watching(subject, action="shout"):
        pass


# --- the hot path ---


class Calls(TorchDispatchMode):
    """Every operator that is called, and the storages that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_hook_makes_nothing_and_waits_for_nothing(subject: Subject, monitor: Monitor) -> None:
    live = Live(monitor, subject, "log", "sequence", set(), None, False)
    buffers, state = live._buffers, torch.randn(3, 5, 32)
    buffers.write("resid:1", state)
    held = {name: tensor.data_ptr() for name, tensor in buffers.products.items()}
    with Calls() as calls:
        for short in (state, state[:, -1:], state[:1]):
            buffers.write("resid:1", short)
    views = {
        "aten.detach.default",
        "aten.view.default",
        "aten._unsafe_view.default",
        "aten.slice.Tensor",
        "aten._reshape_alias.default",
    }
    assert set(calls.names) - views == {"aten.copy_.default", "aten.mm.out"} and calls.names.count("aten.mm.out") == 3
    assert {name: tensor.data_ptr() for name, tensor in buffers.products.items()} == held
    with pytest.raises(InputError, match="reads 32 numbers at resid:1, and the states are 7 wide"):
        buffers.write("resid:1", torch.randn(9, 9, 7))
