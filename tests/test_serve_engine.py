"""The engine: rows of one batch get what each gets alone, whatever its edits, monitors, length and time of coming and going."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

import families
import tiny_chat
import watched
from pushing import SITE, opened, strand_in, vector
from strandscope.control.edit import Add
from strandscope.control.holding import Benches, prepare
from strandscope.errors import InputError, TrustError
from strandscope.monitor.monitor import Monitor
from strandscope.serve.ask import Ask, Ended, Event, Failed, Watch, Wrote
from strandscope.serve.batch import Batch
from strandscope.serve.engine import Busy, Engine, Limits, beside, ends_of
from strandscope.serve.row import Alarm, Row
from strandscope.serve.sampling import Sampling
from strandscope.subject.attach import Scope, attach, hooks
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

OTHER = Site("resid", 2)


@dataclass
class Heard:
    """What an engine told of one request."""

    events: list[Event] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, Wrote):
            self.over.set()

    def wait(self) -> Ended:
        assert self.over.wait(20), "the engine said nothing more"
        last = self.events[-1]
        assert isinstance(last, Ended), last
        return last

    @property
    def wrote(self) -> list[Wrote]:
        return [event for event in self.events if isinstance(event, Wrote)]

    @property
    def tokens(self) -> list[int]:
        return [event.token for event in self.wrote if event.token is not None]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if not isinstance(event, Failed))

    def scores(self, name: str) -> np.ndarray:
        return np.concatenate([event.scores[name] for event in self.wrote if name in event.scores])

    @property
    def alarms(self) -> list[tuple[str, str, int]]:
        found = [fired for event in self.events if not isinstance(event, Failed) for fired in event.alarms]
        return [(name, one.concept, one.token) for name, one in found]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return opened(tiny_chat.save_model(tmp_path_factory.mktemp("engine") / "model"))


@pytest.fixture(scope="module")
def engine(subject: Subject) -> Iterator[Engine]:
    made = Engine(subject)
    made.start()
    yield made
    made.stop()
    assert hooks(subject.module) == subject.hooks


@pytest.fixture(scope="module")
def library(subject: Subject) -> dict[str, Any]:
    first = replace(strand_in(subject), name="yes")
    return {"yes": first, "no": replace(strand_in(subject, OTHER), name="no", pattern=vector(5, 3.0)[:, None])}


def ids(subject: Subject, text: str) -> tuple[int, ...]:
    assert subject.tokenizer is not None
    return tuple(subject.tokenizer(text, add_special_tokens=False)["input_ids"])


EXPRESSIONS = (
    "0.8lengths*yes",
    "-0.9lengths*no",
    "set(yes,3) + 0.7lengths*no",
    "!no@generation",
    "0.9lengths*yes@prompt + 0.4lengths*no@last",
    "2lengths*yes@when(no>0.1)",
    "1.5lengths*no@since(yes>0.2) - 0.5lengths*yes@window(-2,)",
    "rotate(no,40deg)@except(positions(0))",
)
PROMPTS = ("hello", "what is it?", "a b c d e f g h", "why not", "one, two", "x", "tell me more of this", "no!")


def asks(subject: Subject, library: Any, new: int = 24, **options: Any) -> list[Ask]:
    benches = Benches(subject, prompts=4, replies=4)
    made = [prepare(subject, text, library, benches=benches).edits for text in EXPRESSIONS]
    return [Ask(ids(subject, text), new, edits, **options) for text, edits in zip(PROMPTS, made, strict=True)]


def alone(subject: Subject, ask: Ask) -> list[int]:
    """By transformers' own loop, the edits around it."""
    given = torch.tensor([ask.ids])
    from strandscope.subject.scope import prompt_of

    with torch.no_grad(), prompt_of(len(ask.ids)), attach(subject, edits=ask.edits):
        made = subject.module.generate(  # type: ignore[operator]
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=ask.max_new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return made[0, len(ask.ids) :].tolist()


def together(engine: Engine, given: Sequence[Ask], apart: float = 0.0) -> list[Heard]:
    heard = [Heard() for _ in given]
    for one, ask in zip(heard, given, strict=True):
        engine.submit(ask, one)
        time.sleep(apart)
    for one in heard:
        one.wait()
    return heard


def empty(engine: Engine) -> None:
    """Nothing is under way any more, and nothing is kept of what was."""
    until(lambda: engine.running == engine.waiting == engine.positions == 0)


def until(true: Callable[[], bool]) -> None:
    last = time.monotonic() + 10
    while not true():
        assert time.monotonic() < last, "it never came about"
        time.sleep(0.002)


@pytest.mark.parametrize("apart", [0.0, 0.008])
def test_eight_requests_with_edits_of_their_own_get_what_each_gets_alone(
    subject: Subject, engine: Engine, library: Any, apart: float
) -> None:
    given = asks(subject, library)
    given = [replace(ask, max_new_tokens=10 + 3 * number) for number, ask in enumerate(given)]
    wanted = [alone(subject, ask) for ask in given]
    plain = [alone(subject, replace(ask, edits={})) for ask in given]
    assert sum(a != b for a, b in zip(wanted, plain, strict=True)) >= 6  # the edits are felt
    for _ in range(2):
        heard = together(engine, given, apart)
        assert [one.tokens for one in heard] == wanted
    empty(engine)


@pytest.mark.parametrize("text", ["2lengths*yes@when(no>0.1)", "1.5lengths*no@since(yes>0.2)", "1lengths*yes@since(no>0.3)"])
def test_requests_with_the_same_edits_have_gates_of_their_own(subject: Subject, engine: Engine, library: Any, text: str) -> None:
    edits = prepare(subject, text, library, benches=Benches(subject, prompts=4, replies=4)).edits
    given = [Ask(ids(subject, prompt), 12 + 2 * number, edits) for number, prompt in enumerate(PROMPTS)]
    wanted = [alone(subject, ask) for ask in given]
    assert [one.tokens for one in together(engine, given, 0.004)] == wanted


@dataclass(eq=False)
class Probe:
    """A gate that is never open, and keeps what it is told of its row."""

    seen: list[tuple[int, int, bool]] = field(default_factory=list)  # number, token, whether generated
    reads: dict[Site, Any] = field(default_factory=dict)

    def open(self, state: torch.Tensor, moment: Any) -> torch.Tensor:
        assert state.shape[0] == 1
        numbers, generated = moment.numbers(state)[0].tolist(), moment.generated(state)[0].tolist()
        self.seen += list(zip(numbers, moment.tokens[0].tolist(), generated, strict=True))
        return torch.zeros(state.shape[:2], dtype=torch.bool)


def test_a_gate_is_told_of_its_own_row_alone(subject: Subject, engine: Engine) -> None:
    probes = [Probe() for _ in PROMPTS]
    given = [
        Ask(ids(subject, text), 6 + number, {SITE: [(Add(vector(1), 1.0), Scope(gate=probe))]})
        for number, (text, probe) in enumerate(zip(PROMPTS, probes, strict=True))
    ]
    for ask, probe, heard in zip(given, probes, together(engine, given), strict=True):
        row = [*ask.ids, *heard.tokens[:-1]]
        assert probe.seen == [(number, token, number >= len(ask.ids)) for number, token in enumerate(row)]


def test_a_batch_rounds_as_little_as_padding_does(subject: Subject, engine: Engine, library: Any) -> None:
    """The plain request among seven that are pushed hard is not touched by them."""
    hard = {SITE: [(Add(vector(9), 50.0), Scope())], OTHER: [(Add(vector(8), -30.0), Scope())]}
    given = [Ask(ids(subject, text), 16, hard if number else {}) for number, text in enumerate(PROMPTS)]
    assert together(engine, given)[0].tokens == alone(subject, given[0])


FAMILIES = ("Llama", "Mistral", "Gemma 3", "GPT-2", "Mixtral", "Mamba", "RWKV")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_served_as_it_generates(family: str, subject: Subject) -> None:
    """Also with sliding windows, shorter than the rows; and where rows cannot stand together."""
    other = replace(families.subject(family), tokenizer=subject.tokenizer)
    engine = Engine(other)
    engine.start()
    push = {SITE: [(Add(vector(3), 1.5), Scope())]}
    drawn = np.random.default_rng(0)
    rows = [tuple(drawn.integers(3, 60, size=size).tolist()) for size in (3, 9, 5)]
    given = [Ask(row, 7 + 2 * number, push if number else {}) for number, row in enumerate(rows)]
    try:
        assert [one.tokens for one in together(engine, given, 0.004)] == [alone(other, ask) for ask in given]
    finally:
        engine.stop()


# --- sampling ---


def test_a_draw_depends_on_its_seed_and_not_on_the_batch(subject: Subject, engine: Engine, library: Any) -> None:
    first = Ask(ids(subject, "hello"), 20, sampling=Sampling(1.0, 0.9, 11))
    by_itself = together(engine, [first])[0].tokens
    crowd = asks(subject, library, sampling=Sampling(1.2, 1.0, 3))
    assert together(engine, [*crowd[:5], first])[-1].tokens == by_itself
    assert together(engine, [replace(first, sampling=Sampling(1.0, 0.9, 12))])[0].tokens != by_itself


# --- monitors ---


@pytest.fixture(scope="module")
def monitor(subject: Subject) -> Monitor:
    benign = watched.texts(40, 3)
    strands = [replace(one, template={"format": "text"}) for one in watched.three(subject)]
    made = Monitor.calibrate(strands, benign, subject=subject, false_alarm=0.2, aggregation="max", skip=1)
    return watched.at(made, 1e9, 1e9)


def test_scores_of_each_row_are_those_of_its_own_tokens(subject: Subject, engine: Engine, monitor: Monitor) -> None:
    given = [Ask(ids(subject, text), 9, watches={"m": Watch(monitor)}) for text in PROMPTS]
    for ask, heard in zip(given, together(engine, given, 0.003), strict=True):
        whole = [*ask.ids, *heard.tokens[:-1]]  # the last token is never read
        strands = watched.three(subject)
        wanted = np.stack([watched.own_scores(subject, strands, name, whole) for name in ("first", "second")], 1)[1:]
        assert np.abs(heard.scores("m") - wanted).max() < 1e-4
        assert [event.scored["m"] for event in heard.wrote if event.scored][-1] == len(whole) - 1 and heard.wrote[
            -1
        ].number == len(whole)
        assert heard.wait().score["m"] == pytest.approx(wanted.max(0), abs=1e-4)


def test_an_alarm_is_told_with_its_token_stops_its_own_row_and_opens_its_own_gate(
    subject: Subject, engine: Engine, monitor: Monitor
) -> None:
    plain = Ask(ids(subject, PROMPTS[3]), 16, watches={"m": Watch(monitor)})
    heard = together(engine, [plain])[0]
    scores, prompt = heard.scores("m")[:, 0], len(plain.ids)
    place = int(scores[prompt - 1 :].argmax()) + prompt  # number of the highest generated token, of those after the first
    below = np.sort(np.concatenate([scores[: place - 1], [-1e9]]))[-1]
    if scores[place - 1] <= below:
        place = int(scores.argmax()) + 1
        below = np.sort(scores)[-2]
    sharp = watched.at(monitor, float((scores[place - 1] + below) / 2), 1e9)
    stopped = replace(plain, watches={"m": Watch(sharp, "stop")})
    pushed = {SITE: [(Add(vector(9), 40.0), Scope(gate=Alarm("m")))]}
    opened_ = replace(plain, edits=pushed, watches={"m": Watch(sharp, "edit")})
    found = together(engine, [plain, stopped, replace(plain, edits=pushed, watches={"m": Watch(monitor, "edit")}), opened_])
    assert [one.alarms for one in found] == [[], [("m", "first", place)], [], [("m", "first", place)]]
    made = place - prompt + 1  # tokens there were when it fired
    assert found[1].tokens == heard.tokens[:made] and found[1].wait().why == "alarm"
    assert found[0].tokens == found[2].tokens == heard.tokens
    assert found[3].tokens[: made + 1] == heard.tokens[: made + 1] and found[3].tokens != heard.tokens


def test_a_gate_without_its_watch_is_refused(subject: Subject, engine: Engine) -> None:
    ask = Ask(ids(subject, "a"), 4, {SITE: [(Add(vector(1), 1.0), Scope(gate=Alarm("m")))]})
    with pytest.raises(InputError, match="no such monitor watches; name it in monitors"):
        engine.submit(ask, Heard())


# --- coming and going ---


def test_who_is_given_up_leaves_and_the_others_do_not_notice(subject: Subject, engine: Engine, library: Any) -> None:
    given = asks(subject, library, 40)[:3]
    wanted = alone(subject, given[1])
    heard = [Heard() for _ in given]
    rows = [engine.submit(ask, one) for ask, one in zip(given, heard, strict=True)]
    until(lambda: len(heard[0].wrote) > 3)
    engine.cancel(rows[0])
    engine.cancel(rows[2])
    assert heard[0].wait().why == heard[2].wait().why == "cancelled" and len(heard[0].tokens) < 40
    assert heard[1].wait().why == "length" and heard[1].tokens == wanted
    empty(engine)


def test_who_is_given_up_while_he_waits_makes_room_at_once(subject: Subject) -> None:
    engine = Engine(subject, Limits(rows=1, waiting=1))
    engine.start()
    ask, heard = Ask(ids(subject, "hello"), 600), [Heard() for _ in range(3)]
    first = engine.submit(ask, heard[0])
    until(lambda: engine.running == 1)
    second = engine.submit(ask, heard[1])
    with pytest.raises(Busy):
        engine.submit(ask, heard[2])
    engine.cancel(second)
    assert heard[1].wait().why == "cancelled" and not heard[1].tokens and engine.running == 1
    third = engine.submit(replace(ask, max_new_tokens=3), heard[2])
    engine.cancel(first)
    assert heard[2].wait().tokens == 3 and third.made == heard[2].tokens
    engine.stop()


class Unforeseen(Exception):
    """What nobody thought of."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("where", ["admit", "step", "drop_finished"])
def test_what_nobody_thought_of_leaves_nobody_waiting(subject: Subject, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def failing(*_: Any) -> None:
        if where != "drop_finished" or engine._batch.rows:
            raise Unforeseen

    engine = Engine(subject)
    engine.start()
    heard = [Heard(), Heard()]
    monkeypatch.setattr(engine._batch, where, failing)
    try:
        for one in heard:
            engine.submit(Ask(ids(subject, "hello"), 9), one)
    except TrustError:  # the first one ended it already
        heard = heard[:1]
    assert all(one.over.wait(10) and "has stopped" in str(one.events[-1]) for one in heard)
    until(lambda: not engine.alive)
    with pytest.raises(TrustError, match="start the server again"):
        engine.submit(Ask(ids(subject, "hello"), 9), Heard())


@pytest.mark.parametrize("kind", [IndexError, KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OSError])
@pytest.mark.parametrize("where", ["admit", "step", "drop_finished"])
def test_a_slip_of_any_kind_fails_its_request_and_the_next_are_served(
    subject: Subject, engine: Engine, monkeypatch: pytest.MonkeyPatch, where: str, kind: type[Exception]
) -> None:
    def failing(*_: Any) -> None:
        if where != "drop_finished" or engine._batch.rows:
            raise kind("a slip")

    heard = Heard()
    with monkeypatch.context() as patch:
        patch.setattr(engine._batch, where, failing)
        engine.submit(Ask(ids(subject, "hello"), 9), heard)
        assert heard.over.wait(10) and f"({kind.__name__}: " in str(heard.events[-1])
    assert together(engine, [Ask(ids(subject, "hello"), 9)])[0].wait().tokens == 9
    empty(engine)


def test_a_token_beyond_the_table_fails_alone(subject: Subject, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    heard = [Heard(), Heard()]
    for prompt, one in zip(((5, 64), (5, 6)), heard, strict=True):
        engine.submit(Ask(prompt, 9), one)
    assert heard[1].wait().tokens == 9 and "IndexError" in str(heard[0].events[-1])
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [IndexError]


def test_who_fails_on_coming_in_leaves_the_batch_as_it_was(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, heard = Batch(subject), [Heard(), Heard()]
    rows = [Row(Ask(ids(subject, text), 9), subject, (), one) for text, one in zip(("hello", "so long"), heard, strict=True)]
    batch.admit(rows[0])
    was = batch.positions
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="a slip"):
        patch.setattr("strandscope.serve.batch.edits_of", lambda _: (_ for _ in ()).throw(ValueError("a slip")))
        batch.admit(rows[1])
    assert batch.rows == rows[:1] and batch.positions == was
    for _ in range(8):
        batch.step()
    assert heard[0].tokens == alone(subject, Ask(ids(subject, "hello"), 9)) and heard[0].wait().why == "length"


def test_an_end_is_told_once(subject: Subject) -> None:
    heard = Heard()
    row = Row(Ask(ids(subject, "hello"), 9), subject, (), heard)
    row.end("length")
    row.fail(TrustError("the pass failed for another"))
    assert [type(event) for event in heard.events] == [Ended]


def test_a_pass_that_fails_fails_its_rows_and_the_next_are_served(
    subject: Subject, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise RuntimeError("out of memory\nand more")

    heard = Heard()
    with monkeypatch.context() as patch:
        patch.setattr(engine._batch, "step", full)
        engine.submit(Ask(ids(subject, "hello"), 9), heard)
        assert heard.over.wait(10) and "RuntimeError: out of memory); ask for a shorter" in str(heard.events[-1])
    assert together(engine, [Ask(ids(subject, "hello"), 9)])[0].wait().tokens == 9


def test_a_monitor_of_another_network_watches_only_where_it_is_forced(subject: Subject, engine: Engine, monitor: Monitor) -> None:
    foreign = replace(monitor, fingerprint="f" * 64)
    ask = Ask(ids(subject, "hello"), 4, watches={"m": Watch(foreign)})
    with pytest.raises(TrustError, match="calibrated in the network ffffffffffff"):
        engine.submit(ask, Heard())
    forced = replace(ask, watches={"m": Watch(foreign, force=True)})
    assert len(together(engine, [forced])[0].scores("m")) > 0


def test_time_is_limited(subject: Subject, engine: Engine) -> None:
    heard = together(engine, [Ask(ids(subject, "hello"), 900, seconds=0.15)])[0]
    assert heard.wait().why == "time" and 0 < len(heard.tokens) < 900


def test_who_cannot_be_read_fails_alone(subject: Subject, engine: Engine) -> None:
    wide = Ask(ids(subject, "hello"), 8, {SITE: [(Add(torch.ones(31), 1.0), Scope())]})
    far = Ask(ids(subject, "hello"), 8, {SITE: [(Add(vector(1), 1e40), Scope())]})
    fine = Ask(ids(subject, "hello"), 8)
    heard = [Heard() for _ in range(3)]
    for ask, one in zip((wide, far, fine), heard, strict=True):
        engine.submit(ask, one)
    assert heard[2].wait().tokens == 8
    said = [one.events[-1] for one in heard[:2]]
    assert all(isinstance(event, Failed) for event in said)
    assert "31" in str(said[0]) and "NaN or infinite under these edits" in str(said[1])
    with pytest.raises(InputError, match="a request is one row"):
        Ask((5,), 4, {SITE: [(Add(vector(1), 1.0), Scope(rows=(0,)))]})
    with pytest.raises(InputError, match="the context of"):
        engine.submit(Ask((5,) * 1000, 100), Heard())


def test_more_than_may_wait_are_refused_and_those_that_wait_have_their_turn(subject: Subject) -> None:
    engine = Engine(subject, Limits(rows=2, waiting=2))
    ask, heard = Ask(ids(subject, "hello"), 30), [Heard() for _ in range(9)]
    with pytest.raises(TrustError, match="has stopped"):
        engine.submit(ask, heard[0])
    engine.start()
    busy = 0
    for one in heard:
        try:
            engine.submit(ask, one)
        except Busy as error:
            assert "try again in a moment" in str(error)
            busy += 1
    assert 0 < busy < 9
    taken = [one for one in heard[: 9 - busy] if one.events or one.over.wait(10)]
    assert all(one.tokens == taken[0].tokens for one in taken if one.over.wait(10))
    slow = Heard()
    engine.submit(replace(ask, max_new_tokens=900), slow)
    until(lambda: bool(slow.events))
    engine.stop()
    assert isinstance(slow.events[-1], Failed) and "has stopped" in str(slow.events[-1])


def test_who_comes_while_there_is_room_does_not_count_as_waiting(subject: Subject) -> None:
    """Not even where nobody may wait, and though all come at once."""
    engine = Engine(subject, Limits(rows=3, waiting=0))
    entering, go_on = threading.Event(), threading.Event()
    admit = engine._batch.admit

    def slow(row: Row) -> None:
        entering.set()
        assert go_on.wait(10)
        admit(row)

    engine._batch.admit = slow  # type: ignore[method-assign]
    engine.start()
    ask, heard = Ask(ids(subject, "hello"), 5), [Heard() for _ in range(3)]
    engine.submit(ask, heard[0])
    assert entering.wait(10)
    for one in heard[1:]:
        engine.submit(ask, one)
    with pytest.raises(Busy, match="3 requests run or wait already"):
        engine.submit(ask, Heard())
    go_on.set()
    assert [one.wait().tokens for one in heard] == [5, 5, 5]
    engine.stop()


def test_no_more_rows_than_are_allowed_stand_together(subject: Subject) -> None:
    engine = Engine(subject, Limits(rows=2, waiting=20))
    engine.start()
    seen: list[int] = []
    heard = [Heard() for _ in range(6)]
    for one in heard:
        engine.submit(Ask(ids(subject, "hello"), 12), lambda event, one=one: (seen.append(engine.running), one(event)))  # type: ignore[arg-type,misc]
    for one in heard:
        one.wait()
    engine.stop()
    assert max(seen) == 2


def test_a_network_that_writes_no_text_is_not_served() -> None:
    with pytest.raises(InputError, match="writes no text"):
        Engine(families.subject("Llama"))


def test_work_beside_does_not_touch_what_is_served(subject: Subject, engine: Engine) -> None:
    other = beside(subject)
    assert next(other.module.parameters()) is next(subject.module.parameters())
    ask = Ask(ids(subject, "hello"), 12)
    with attach(other, edits={SITE: [(Add(vector(1), 80.0), Scope())]}):
        pushed = alone(other, ask)
        assert together(engine, [ask])[0].tokens == alone(subject, ask) != pushed


def test_a_reply_ends_at_its_stop_string_and_at_the_token_that_ends(subject: Subject, engine: Engine) -> None:
    ask = Ask(ids(subject, "hello"), 24)
    plain = together(engine, [ask])[0]
    cut = plain.text[4:7]
    stopped = together(engine, [replace(ask, stops=(cut,))])[0]
    assert stopped.text == plain.text[: plain.text.index(cut)] and stopped.wait().why == "stop"
    assert len(stopped.tokens) < 24
    ended = Engine(subject)
    ended._ends = frozenset({plain.tokens[5]})
    ended.start()
    made = together(ended, [ask])[0]
    ended.stop()
    first = plain.tokens.index(plain.tokens[5])
    assert made.tokens == plain.tokens[: first + 1] and made.wait().why == "stop"
    assert made.text == subject.tokenizer.decode(made.tokens[:-1])  # type: ignore[union-attr]
    assert ends_of(subject) == {2}
