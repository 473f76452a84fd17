"""The server by OpenAI's own client: chats, completions, streams, edits, monitors, errors, and clients that leave."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

import tiny_chat
from pushing import opened
from serving import LIMITS, Served, served
from strandscope.cli import options
from strandscope.cli.main import main
from strandscope.control.expression import Expression
from strandscope.control.holding import Benches, prepare
from strandscope.errors import InputError
from strandscope.serve.protocol import Wanted, wanted
from strandscope.serve.run import Server
from strandscope.serve.traffic import Traffic
from strandscope.serve.wire import ApiError, Fields
from strandscope.subject.attach import attach, hooks
from strandscope.subject.scope import prompt_of
from strandscope.subject.subject import Subject

EXPRESSIONS = (
    "1.2lengths*yes",
    "-1.5lengths*no",
    "set(yes,3) + 0.7lengths*no",
    "!no@generation",
    "0.5nats*yes",
    "2lengths*yes@when(no>0.1)",
    "1.5lengths*no@since(yes>0.2) - 0.5lengths*yes@window(3,)",
    "rotate(no,40deg)@except(positions(0))",
)
PROMPTS = ("hello", "what is it?", "a b c d e f g h", "why not", "one, two", "x", "tell me more of this", "no!")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("serve")) as one:
        yield one
        assert one.bench.engine.running == one.bench.engine.positions == 0
        assert hooks(one.subject.module) == one.subject.hooks


def until(true: Callable[[], bool]) -> None:
    last = time.monotonic() + 10
    while not true():
        assert time.monotonic() < last, "it never came about"
        time.sleep(0.005)


def alone(server: Served, content: str, edits: Any, new: int) -> str:
    """The greedy reply by transformers' own loop."""
    subject: Any = server.subject
    text = subject.render([{"role": "user", "content": content}])
    given = subject.tokenizer(text, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad(), prompt_of(given["input_ids"].shape[1]), attach(subject, edits=edits):
        made = subject.module.generate(**given, max_new_tokens=new, do_sample=False, pad_token_id=0)
    return str(subject.tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True))


# --- what is served ---


def test_the_model_is_listed(server: Served) -> None:
    (model,) = server.client.models.list().data
    assert model.id == "tiny" == server.client.models.retrieve("tiny").id
    assert model.model_extra is not None and model.model_extra["strandscope"]["fingerprint"] == server.subject.fingerprint
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny' alone"):
        server.client.models.retrieve("gpt-9")


def test_eight_clients_with_edits_of_their_own_get_what_each_gets_alone(server: Served) -> None:
    shelf = server.bench.shelf
    held = [shelf.prepare(Expression.parse(text)) for text in EXPRESSIONS]
    wanted = [alone(server, text, one.edits, 20) for text, one in zip(PROMPTS, held, strict=True)]
    plain = [alone(server, text, {}, 20) for text in PROMPTS]
    assert sum(a != b for a, b in zip(wanted, plain, strict=True)) >= 6
    together = threading.Barrier(8)
    most = []

    def ask(number: int) -> str:
        together.wait()
        content: list[Any] = [{"role": "user", "content": PROMPTS[number]}]
        extra = {"strandscope": {"edits": EXPRESSIONS[number]}}
        stream = server.client.chat.completions.create(
            model="tiny", messages=content, max_tokens=20, temperature=0, stream=bool(number % 2), extra_body=extra
        )  # type: ignore[call-overload]
        if not number % 2:
            return str(stream.choices[0].message.content)
        made = ""
        for chunk in stream:
            made += chunk.choices[0].delta.content or ""
            most.append(server.bench.engine.running)
        return made

    for _ in range(2):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(8))) == wanted
    assert max(most) > 1  # they stood together


def test_a_stream_says_what_the_whole_says(server: Served) -> None:
    asked: dict[str, Any] = {
        "model": "tiny", "messages": [{"role": "user", "content": "tell me"}], "max_tokens": 12, "temperature": 0.8, "seed": 5,
        "extra_body": {"strandscope": {"edits": "0.5lengths*yes", "monitors": ["calm", "sharp"], "token_texts": True}},
    }  # fmt: skip
    whole = server.client.chat.completions.create(**asked)
    chunks = list(server.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and text
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert whole.usage is not None and whole.usage.completion_tokens == 12
    mine = whole.model_extra["strandscope"]  # type: ignore[index]
    pieces = [chunk.model_extra["strandscope"] for chunk in chunks[:-1]]  # type: ignore[index]
    assert pieces[0]["edits"] == mine["edits"] and pieces[0]["seed"] == mine["seed"] == 5
    assert [piece["token"]["number"] for piece in pieces if "token" in piece] == list(
        range(mine["prompt_tokens"], mine["prompt_tokens"] + 12)
    )
    for name in ("calm", "sharp"):
        said = mine["monitors"][name]
        streamed = [row for piece in pieces if "scores" in piece for row in piece["scores"][name]["tokens"]]
        assert streamed == said["tokens"] and len(streamed) == mine["prompt_tokens"] + 12 - 1 - said["first"]
        assert {key: value for key, value in said.items() if key != "tokens"} == pieces[-1]["monitors"][name]
        firsts = [(piece["scores"][name]["first"], len(piece["scores"][name]["tokens"])) for piece in pieces if "scores" in piece]
        assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(firsts)) and firsts[0][0] == said["first"]
    alarm = {"monitor": "sharp", "concept": "first", "token": 1, "in": "prompt", "text": mine["token_texts"][1]}
    assert mine["monitors"]["calm"]["alarms"] == []
    assert [{k: v for k, v in one.items() if k != "score"} for one in mine["monitors"]["sharp"]["alarms"]] == [alarm]
    assert [one for piece in pieces for one in piece.get("alarms", [])] == mine["monitors"]["sharp"]["alarms"]
    assert len(mine["token_texts"]) == mine["prompt_tokens"] + 12


def test_scores_are_those_that_the_monitor_gives_the_same_tokens(server: Served) -> None:
    said = server.chat("why?", strandscope={"monitors": ["calm"], "token_texts": True}).json()
    mine, monitor = said["strandscope"], server.bench.shelf.monitors["calm"]
    prompt = server.subject.render([{"role": "user", "content": "why?"}])
    ids = server.subject.tokenizer(prompt, add_special_tokens=False)["input_ids"]  # type: ignore[misc]
    made = server.subject.tokenizer.convert_tokens_to_ids(mine["token_texts"][len(ids) :])  # type: ignore[union-attr]
    with monitor.watching(server.subject) as live, torch.no_grad():
        server.subject.module(input_ids=torch.tensor([[*ids, *made[:-1]]]))  # type: ignore[misc]
    wanted = live.sequences[0].tokens
    assert torch.allclose(torch.tensor(mine["monitors"]["calm"]["tokens"]).double(), torch.tensor(wanted), atol=1e-4)


def test_drift_is_of_what_was_watched_and_not_edited(server: Served) -> None:
    def told(**more: Any) -> dict[str, Any]:
        return server.chat("why?", **more).json()["strandscope"]["monitors"]["calm"]["drift"]

    server.bench.traffic._drifts.clear()
    shelf = server.bench.shelf
    monitor = shelf.monitors["calm"]
    assert told(strandscope={"monitors": ["calm"], "edits": "0.5lengths*yes"})["sequences"] == 0
    first, second = (told(strandscope={"monitors": ["calm"]}) for _ in range(2))
    assert (first["sequences"], second["sequences"], second["level"], second["alarm"]) == (1, 2, 0.01, None)
    server.chat("why?", strandscope={"monitors": ["sharp"]})
    assert server.bench.traffic.told("calm", monitor)["sequences"] == 2
    shelf.load()  # the same file again
    assert shelf.monitors["calm"] is not monitor and told(strandscope={"monitors": ["calm"]})["sequences"] == 3
    other = replace(monitor, reference=monitor.reference + 1)
    assert server.bench.traffic.told("calm", other)["sequences"] == 0


def test_traffic_that_is_other_raises_the_drift_alarm(server: Served) -> None:
    monitor, traffic = server.bench.shelf.monitors["calm"], Traffic()
    draw = np.random.default_rng(0)
    shifted = monitor.reference.mean(0) + 3 * monitor.reference.std(0) * (1 + 0.1 * draw.standard_normal((60, 3)))
    alone = monitor.drift()
    for row in shifted:
        traffic.take("calm", monitor, row)
        traffic.take("calm", monitor, np.full(3, np.nan))  # no token was scored
        alone.update(row)
        if alone.alarm is not None:
            break
    said = traffic.told("calm", monitor)
    assert alone.alarm is not None and said["sequences"] == alone.rows and said["p"] == alone.p < 0.01
    assert said["alarm"] == {"channel": alone.alarm.channel, "sequence": alone.rows, "p": alone.alarm.p}


def test_the_cost_is_foretold_and_measured(server: Served) -> None:
    held = server.chat(strandscope={"edits": " 0.02nats * yes+!no @generation"}).json()["strandscope"]["edits"]
    assert held["expression"] == "0.02nats*yes + !no@generation"
    (dose,) = held["doses"]
    assert dose["term"] == "0.02nats*yes" and dose["cost"]["value"] == pytest.approx(0.02, rel=0.03)
    assert dose["predicted"]["low"] < dose["predicted"]["value"] < dose["predicted"]["high"] and dose["how"]
    benches = Benches(server.subject, prompts=8, replies=8)
    wanted = prepare(server.subject, held["expression"], server.bench.shelf.strands, benches=benches)
    assert held["cost"]["value"] == pytest.approx(wanted.cost.value) and wanted.doses[0] is not None
    assert dose["scale"]["value"] == pytest.approx(wanted.doses[0].scale.value)


def test_plain_completions_of_texts_and_tokens(server: Served) -> None:
    made = server.client.completions.create(model="tiny", prompt="hello th", max_tokens=6, temperature=0)
    ids = server.subject.tokenizer("hello th")["input_ids"]  # type: ignore[misc]
    again = server.client.completions.create(model="tiny", prompt=ids, max_tokens=6, temperature=0)
    assert made.choices[0].text == again.choices[0].text != "" and made.object == "text_completion"
    parts = server.client.completions.create(model="tiny", prompt="hello th", max_tokens=6, temperature=0, stream=True)
    assert "".join(part.choices[0].text for part in parts) == made.choices[0].text
    assert server.client.completions.create(model="tiny", prompt="hello").usage.completion_tokens <= 16  # type: ignore[union-attr]


def test_stops_seeds_and_the_likeliest(server: Served) -> None:
    plain = server.chat(max_tokens=20).json()["choices"][0]["message"]["content"]
    cut = server.chat(max_tokens=20, stop=[plain[6:9], "never"]).json()["choices"][0]
    assert cut["message"]["content"] == plain[: plain.index(plain[6:9])] and cut["finish_reason"] == "stop"
    assert server.chat(max_tokens=20, temperature=1, top_p=0).json()["choices"][0]["message"]["content"] == plain
    drawn = [server.chat(max_tokens=20, temperature=1, seed=seed).json()["choices"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    free = server.chat(max_tokens=20, temperature=1).json()
    again = server.chat(max_tokens=20, temperature=1, seed=free["strandscope"]["seed"]).json()
    assert free["choices"] == again["choices"]  # the seed that was drawn is told


def test_an_alarm_ends_its_reply_before_another_token(server: Served) -> None:
    said = server.chat(strandscope={"monitors": [{"name": "sharp", "action": "stop"}]}).json()
    assert said["choices"][0]["finish_reason"] == "content_filter" and said["choices"][0]["message"]["content"] == ""
    assert said["strandscope"]["ended"] == "alarm" and said["usage"]["completion_tokens"] == 0
    gated = server.chat(strandscope={"edits": "3lengths*yes@when(sharp)"}, max_tokens=16).json()
    shut = server.chat(strandscope={"edits": "3lengths*yes@when(calm)"}, max_tokens=16).json()
    assert shut["choices"][0]["message"]["content"] == alone(server, "hello", {}, 16)
    assert gated["choices"][0]["message"]["content"] != shut["choices"][0]["message"]["content"]
    assert gated["strandscope"]["monitors"]["sharp"]["alarms"] and gated["strandscope"]["edits"]["cost"]["value"] is None


def test_what_is_broken_is_reported_and_the_rest_is_served(server: Served) -> None:
    shelf = server.bench.shelf
    assert sorted(shelf.files) == ["no.safetensors", "yes.safetensors"] and sorted(shelf.monitors) == ["calm", "sharp"]
    said = {broken.file: broken.sentence for broken in shelf.broken}
    assert sorted(said) == ["broken.safetensors", "foreign.safetensors", "zz-yes-again.safetensors"]
    assert "found in the network ffffffffffff" in said["foreign.safetensors"]
    assert "yes.safetensors holds 'yes' at resid:1 already" in said["zz-yes-again.safetensors"]


# --- what is refused ---

REFUSED: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"model": "gpt-9"}, 404, "this server has 'tiny' alone", "model_not_found"),
    ({"messages": []}, 400, "wanted one message at least", None),
    ({"messages": [{"role": "king", "content": "x"}]}, 400, "system, developer, user or assistant", None),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "wanted a text", None),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "texts alone", None),
    ({"messages": "hello"}, 400, "a list of at most", None),
    ({"max_tokens": 0}, 400, "a whole number from 1 to 256", None),
    ({"max_tokens": 10**6}, 400, "a whole number from 1 to 256", None),
    ({"max_tokens": True}, 400, "a whole number", None),
    ({"temperature": 9}, 400, "a number from 0 to 2", None),
    ({"temperature": "hot"}, 400, "a number from 0 to 2", None),
    ({"top_p": -1}, 400, "a number from 0 to 1", None),
    ({"stop": [""]}, 400, "1 to 256 characters", None),
    ({"stop": ["x"] * 17}, 400, "at most 16", None),
    ({"n": 2}, 400, "gives one reply", "unsupported_parameter"),
    ({"tools": [{"type": "function"}]}, 400, "does not have it", "unsupported_parameter"),
    ({"logprobs": True}, 400, "does not have it", "unsupported_parameter"),
    ({"logprobs": 0}, 400, "does not have it", "unsupported_parameter"),
    ({"temperatur": 0}, 400, "did you mean temperature", "unknown_parameter"),
    ({"strandscope": []}, 400, "wanted an object", None),
    ({"strandscope": {"edit": "x"}}, 400, "did you mean strandscope.edits|did you mean edits", "unknown_parameter"),
    ({"strandscope": {"edits": "0.1nats*"}}, 400, "got the end at character 9", None),
    ({"strandscope": {"edits": "!joy"}}, 400, "no strand of the name 'joy'; there are no, yes", None),
    ({"strandscope": {"edits": "!yes@rows(0)"}}, 400, "leave out @rows", None),
    ({"strandscope": {"edits": "!yes + 1lengths*yes"}}, 400, "one holds the coordinate", None),
    ({"strandscope": {"edits": "!yes@when(loud)"}}, 400, "none of the name 'loud'", "unknown_monitor"),
    ({"strandscope": {"edits": "!yes@when(loud>1)"}}, 400, "no strand of the name 'loud'", None),
    ({"strandscope": {"edits": "1.5nats*yes", "within_the_law": True}}, 400, "beyond the edge", None),
    ({"strandscope": {"monitors": ["loud"]}}, 400, "none of the name 'loud'; there are calm, sharp", "unknown_monitor"),
    ({"strandscope": {"monitors": ["calm", "calm"]}}, 400, "is there twice", None),
    ({"strandscope": {"monitors": [{"name": "calm", "action": "shout"}]}}, 400, "log, stop or edit", None),
    ({"strandscope": {"monitors": ["calm"], "edits": "!yes@when(calm)"}}, 400, "whose action has to be edit", None),
]


@pytest.mark.parametrize(("wrong", "status", "sentence", "code"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_told_as_openai_tells_it(
    server: Served, wrong: dict[str, Any], status: int, sentence: str, code: str | None, stream: bool
) -> None:
    answer = server.chat(**wrong, stream=stream)
    assert answer.status_code == status and answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == code
    assert any(one in error["message"] for one in sentence.split("|")), error["message"]


def test_a_chat_that_is_too_long_and_a_text_that_is_none(server: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="the context of") as told:
        server.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a b " * 600}])
    assert told.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="wanted one text, or one list of token ids below 64"):
        server.client.completions.create(model="tiny", prompt=[3, 64])
    with pytest.raises(openai.BadRequestError, match="no token is left"):
        server.client.completions.create(model="tiny", prompt="")
    with pytest.raises(openai.BadRequestError, match="logprobs: got 0, and this server does not have it"):
        server.client.completions.create(model="tiny", prompt="a", logprobs=0)


def test_a_token_that_the_network_has_no_row_for_is_refused(tmp_path: Path) -> None:
    subject = opened(tiny_chat.save_model(tmp_path / "model"))
    assert subject.tokenizer is not None and subject.vocabulary == 64
    subject.tokenizer.add_tokens([f"§{number}" for number in range(20)])
    first = subject.tokenizer.convert_tokens_to_ids("§0")
    fine, beyond = f"a §{63 - first} b", f"a §{64 - first} b"  # type: ignore[operator]
    for chat in (True, False):

        def asked(text: str, chat: bool = chat) -> Wanted:
            own = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
            return wanted(Fields({"model": "m", **own}), subject, LIMITS, "m", chat=chat)

        assert 63 in asked(fine).ids
        with pytest.raises(ApiError, match=r"token 64 of .*, and the table of .* has 64") as told:
            asked(beyond)
        assert told.value.status == 400 and told.value.param == ("messages" if chat else "prompt")


BODIES = [
    (b"{", 400), (b"", 400), (b"[1]", 400), (b"null", 400), (b'{"model": NaN}', 400), (b'{"a": 1e999}', 400),
    (b"\xff\xfe{}", 400), (b'{"model": "\\ud800"}', 400), (b"[" * 100_000, 400), (b'{"n": ' + b"9" * 5000 + b"}", 400),
    (b'{"model": "' + b"x" * (1 << 18) + b'"}', 413),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status"), BODIES, ids=[str(n) for n in range(len(BODIES))])
def test_a_body_that_is_no_request_is_refused(server: Served, body: bytes, status: int) -> None:
    with server.http as http:
        answer = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status and answer.json()["error"]["type"] == "invalid_request_error"
        chunked = http.post(
            "/v1/chat/completions", content=iter([body]), headers={"Content-Type": "application/json"}
        )  # without a length
        assert chunked.status_code == status
        assert http.post("/v1/chat/completions", content=body, headers={"Content-Type": "text/plain"}).status_code == 415


def test_other_paths_and_methods_are_json_too(server: Served) -> None:
    with server.http as http:
        for method, path, status in (("GET", "/nothing", 404), ("GET", "/v1/chat/completions", 405), ("DELETE", "/metrics", 405)):
            answer = http.request(method, path)
            assert answer.status_code == status and answer.json()["error"]["code"] == "no_such_route"


# --- clients that leave, and too many of them ---


def test_a_client_that_leaves_takes_its_reply_along(server: Served) -> None:
    engine = server.bench.engine
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 250,
        "temperature": 0,
    }
    before = engine.counts.tokens
    stream = server.client.chat.completions.create(**asked, stream=True)
    next(iter(stream))
    stream.close()
    until(lambda: engine.running == engine.positions == 0)
    with pytest.raises(httpx.ReadTimeout), server.http as http:
        http.post("/v1/chat/completions", json=asked, timeout=httpx.Timeout(20, read=0.08))
    until(lambda: engine.running == engine.positions == 0)
    assert engine.counts.tokens - before < 2 * 240
    assert server.chat().status_code == 200


def test_more_than_may_wait_are_told_to_come_again(server: Served) -> None:
    streams, busy = [], 0
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 250,
        "temperature": 0,
    }
    client = server.client

    def ask(_: int) -> Any:
        try:
            return client.chat.completions.create(**asked, stream=True)
        except openai.RateLimitError as error:
            assert error.code == "busy" and error.response.headers["retry-after"] == "1"
            return None

    with ThreadPoolExecutor(40) as pool:
        streams = list(pool.map(ask, range(LIMITS.rows + LIMITS.waiting + 8)))
    busy = sum(one is None for one in streams)
    for one in streams:
        if one is not None:
            one.close()
    assert 0 < busy <= 8 + 4
    until(lambda: server.bench.engine.running == server.bench.engine.waiting == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_who_waits_for_a_dose_that_is_cancelled_is_told(server: Served, stream: bool) -> None:
    go_on, said = threading.Event(), []
    server.bench.jobs.submit("something long", lambda _: go_on.wait(10))
    asking = threading.Thread(target=lambda: said.append(server.chat(stream=stream, strandscope={"edits": "0.31lengths*yes"})))
    asking.start()
    try:
        until(lambda: any(job.what == "dose of 0.31lengths*yes" for job in server.bench.jobs.all()))
        (job,) = [job for job in server.bench.jobs.all() if job.what.startswith("dose of")]
        with server.http as http:
            assert http.delete(f"/api/jobs/{job.id}").json()["status"] == "cancelled"
        asking.join(10)
    finally:
        go_on.set()
    assert said[0].status_code == 409 and said[0].json()["error"]["code"] == "cancelled"
    assert "'0.31lengths*yes' was cancelled; ask again" in said[0].json()["error"]["message"]


# --- metrics ---


def test_metrics_count_what_was_done(server: Served) -> None:
    def read() -> dict[tuple[str, str], float]:
        with server.http as http:
            answer = http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        families = text_string_to_metric_families(answer.text)
        return {(s.name, json.dumps(s.labels, sort_keys=True)): s.value for family in families for s in family.samples}

    before = read()
    server.chat(max_tokens=5, strandscope={"monitors": ["sharp"]})
    server.chat(model="<b>")
    after = read()

    def grown(name: str, **labels: str) -> float:
        key = (name, json.dumps(labels, sort_keys=True))
        return after[key] - before.get(key, 0)

    route = "/v1/chat/completions"
    assert grown("strandscope_tokens_total") == 5 and grown("strandscope_requests_total") == 1
    assert grown("strandscope_answers_total", route=route, status="200") == 1
    assert grown("strandscope_answers_total", route=route, status="404") == 1
    assert grown("strandscope_alarms_total") == 1 and grown("strandscope_replies_total", why="length") == 1
    assert grown("strandscope_first_token_seconds_count") == 1 and after["strandscope_rows", "{}"] == 0


def test_it_is_healthy_without_a_key(server: Served) -> None:
    assert httpx.get(f"{server.address.url}/healthz").json() == {"status": "ok"}


# --- the command ---


def test_the_command_serves_until_it_is_stopped(
    server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the next free port, with what is broken named on stderr; the address, key and model are JSON on stdout."""
    for name in ("uvicorn.error", "strandscope.serve"):
        for what in ("handlers", "propagate", "level"):  # put back afterwards
            monkeypatch.setattr(logging.getLogger(name), what, getattr(logging.getLogger(name), what))
    running: list[Server] = []
    run = Server.run
    monkeypatch.setattr(Server, "run", lambda self, sockets: (running.append(self), run(self, sockets))[1])
    words = ["serve", str(server.folder.parent / "tiny"), "--strands", str(server.folder), "--dtype", "float32", "--json"]
    words += ["--port", str(server.address.port), "--key", "a-key-of-my-own-0123", "--rows", "2", "--state", str(tmp_path)]
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(words)))
    thread.start()
    until(lambda: bool(running) and running[0].started)
    told, said = capsys.readouterr()
    about = json.loads(told)
    assert about["key"] == "a-key-of-my-own-0123" and about["model"] == "tiny" and f":{server.address.port}/" not in about["url"]
    assert (
        f"port {server.address.port} is taken" in said and "left out: broken.safetensors" in said and "strands: no, yes" in said
    )
    client = openai.OpenAI(base_url=about["url"], api_key=about["key"], max_retries=0)
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 8,
        "temperature": 0,
    }
    assert client.chat.completions.create(**asked).choices[0].finish_reason == "length"
    with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer KEY"):
        openai.OpenAI(base_url=about["url"], api_key="wrong", max_retries=0).chat.completions.create(**asked)
    running[0].should_exit = True
    thread.join(20)
    assert codes == [0]


def test_the_network_is_opened_in_a_thread_that_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def opened_in(*_: Any, **__: Any) -> Subject:
        raise InputError(f"opened in {threading.current_thread().name}")

    monkeypatch.setattr(options, "open_subject", opened_in)
    assert main(["serve", "smollm2", "--port", "0"]) == 2
    assert "opened in strandscope work" in capsys.readouterr().err
