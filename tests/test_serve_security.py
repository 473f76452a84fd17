"""Who the server answers, where it listens, and what hostile strings do to it: nothing, in 250 of them through every field."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from hostile import STRINGS
from serving import LIMITS, Served, served
from strandscope.errors import InputError, MissingError
from strandscope.serve.address import PORT, Address, listen
from strandscope.serve.run import Lines
from strandscope.serve.security import HEADERS, OPEN, Guard
from strandscope.serve.wire import dumps


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("secure")) as one:
        yield one


# --- where it listens ---


def test_it_listens_on_loopback_with_a_random_key_on_the_next_free_port() -> None:
    first, one = listen("127.0.0.1", 0, None)
    second, two = listen("127.0.0.1", first.port, None)
    with one, two:
        assert first.host == second.host == "127.0.0.1" and 0 < second.port - first.port < 50
        assert first.key != second.key and min(len(first.key), len(second.key)) >= 40
        assert second.url == f"http://127.0.0.1:{second.port}" and PORT > 1024


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_it_refuses_to_listen_elsewhere_without_a_key(host: str) -> None:
    with pytest.raises(InputError, match=r"give a key of your own|is no address of this machine"):
        listen(host, 0, None)
    if host == "0.0.0.0":
        address, sock = listen(host, 0, "a-key-of-my-own-0123")
        sock.close()
        assert address.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("key", ["", "short", "with a space in it", "zeilen\numbruch-0123", "ключ-0123456789abcd"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="wanted at least 16"):
        listen("127.0.0.1", 0, key)


def test_no_host_and_no_port() -> None:
    with pytest.raises(InputError, match="is no address of this machine"):
        listen("no such host", 0, None)
    with pytest.raises(MissingError, match=r"none from 65535 on is free on 127\.0\.0\.1"):
        taken = socket.create_server(("127.0.0.1", 65535))
        with taken:
            listen("127.0.0.1", 65535, None)


# --- who is answered ---

KEY = "a-key-of-my-own-0123"
ADDRESS = Address("127.0.0.1", 8417, KEY, frozenset({"localhost", "127.0.0.1", "workstation"}))
GOOD = {"host": "127.0.0.1:8417", "authorization": f"Bearer {KEY}"}


def status_of(headers: list[tuple[str, str]], path: str = "/v1/models") -> tuple[int, dict[str, str], Any]:
    """Through the guard alone, before an application that answers 200 to whatever reaches it."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    asyncio.run(Guard(app, ADDRESS)({"type": "http", "method": "POST", "path": path, "headers": raw}, None, send))
    told = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, json.loads(sent[1]["body"])


def with_(**headers: str | None) -> list[tuple[str, str]]:
    given = {**GOOD, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return [(name, value) for name, value in given.items() if value is not None]


@pytest.mark.parametrize(
    "headers",
    [
        with_(),
        with_(host="localhost:9000"),
        with_(host="LOCALHOST"),
        with_(host="[::1]:8417"),
        with_(host="192.168.1.7:80"),
        with_(host="workstation"),
        with_(origin="http://127.0.0.1:8417"),
        with_(origin="http://localhost:9000", host="localhost:9000", sec_fetch_site="same-origin"),
        with_(origin="https://workstation", host="workstation"),
        with_(sec_fetch_site="none"),
        with_(authorization=f"bearer {KEY}"),
    ],
)
def test_tools_of_this_machine_and_its_own_page_are_answered(headers: list[tuple[str, str]]) -> None:
    assert status_of(headers)[0] == 200


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        (with_(host="rebound.invalid:8417"), 403, "wrong_host"),
        (with_(host="127.0.0.1.rebound.invalid"), 403, "wrong_host"),
        (with_(host="localhost.rebound.invalid"), 403, "wrong_host"),
        (with_(host=None), 403, "wrong_host"),
        (with_(host=""), 403, "wrong_host"),
        (with_(host="127.0.0.1:8417@rebound.invalid"), 403, "wrong_host"),
        (with_(host="127.0.0.1:x"), 403, "wrong_host"),
        (with_(host="127.0.0.1, rebound.invalid"), 403, "wrong_host"),
        ([*with_(), ("host", "rebound.invalid")], 403, "wrong_host"),
        (with_(origin="http://rebound.invalid"), 403, "wrong_origin"),
        (with_(origin="null"), 403, "wrong_origin"),
        (with_(origin=""), 403, "wrong_origin"),
        (with_(origin="http://127.0.0.1:8418"), 403, "wrong_origin"),
        (with_(origin="http://localhost:8417"), 403, "wrong_origin"),
        (with_(origin="http://127.0.0.1:8417.rebound.invalid"), 403, "wrong_origin"),
        ([*with_(origin="http://127.0.0.1:8417"), ("origin", "http://rebound.invalid")], 403, "wrong_origin"),
        (with_(sec_fetch_site="cross-site"), 403, "wrong_origin"),
        (with_(sec_fetch_site="same-site"), 403, "wrong_origin"),
        (with_(authorization=None), 401, "invalid_api_key"),
        (with_(authorization=""), 401, "invalid_api_key"),
        (with_(authorization="Bearer "), 401, "invalid_api_key"),
        (with_(authorization=f"Bearer {KEY}x"), 401, "invalid_api_key"),
        (with_(authorization=f"Bearer {KEY[:-1]}"), 401, "invalid_api_key"),
        (with_(authorization="Bearer \xe9\xff"), 401, "invalid_api_key"),
        (with_(authorization=f"Basic {KEY}"), 401, "invalid_api_key"),
        ([*with_(), ("authorization", "Bearer x")], 401, "invalid_api_key"),
        (with_(authorization=None, cookie=f"key={KEY}"), 401, "invalid_api_key"),
    ],
)
def test_pages_of_other_sites_and_who_has_no_key_are_not(headers: list[tuple[str, str]], status: int, code: str) -> None:
    found, told, body = status_of(headers)
    assert (found, body["error"]["code"]) == (status, code) and KEY not in json.dumps(body)
    assert told["content-type"] == "application/json" and all(told[name.lower()] == HEADERS[name] for name in HEADERS)
    if status == 403:  # the same without a key, so that nobody learns by the answer whether one is right
        assert status_of([pair for pair in headers if pair[0] != "authorization"])[0] == 403


def test_health_needs_no_key_and_yet_a_host() -> None:
    assert status_of(with_(authorization=None), "/healthz")[0] == 200
    assert status_of(with_(authorization=None, host="rebound.invalid"), "/healthz")[0] == 403
    assert status_of(with_(authorization=None), "/healthz/")[0] == 401


def test_every_route_is_guarded(server: Served) -> None:
    from strandscope.serve.app import routes_of

    routes = routes_of(server.bench)
    assert len(routes) >= 6
    for route in routes:
        for method in route.methods or ():
            for headers, status in (({}, 401), ({"Host": "rebound.invalid"}, 403), ({"Origin": "http://rebound.invalid"}, 403)):
                path = re.sub(r"\{[^}]*\}", "x", route.path)
                if status == 401 and path in OPEN:
                    continue
                answer = httpx.request(method, server.address.url + path, headers=headers, verify=False)
                assert answer.status_code == status, (method, path, headers)
                assert "access-control-allow-origin" not in answer.headers and "set-cookie" not in answer.headers


def test_a_cross_site_form_is_refused_before_it_is_read(server: Served) -> None:
    """What a browser sends without asking first: a form, or a text, with the origin that it cannot leave out."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        headers = {"Origin": "http://x.invalid", "Content-Type": kind}
        answer = httpx.post(f"{server.address.url}/v1/completions", content=b"{}", headers=headers, verify=False)
        assert answer.status_code == 403
    preflight = httpx.options(f"{server.address.url}/v1/completions", headers={"Origin": "http://x.invalid"}, verify=False)
    assert preflight.status_code == 403 and not any(name.startswith("access-control") for name in preflight.headers)


# --- hostile strings ---


def inert(answer: httpx.Response, sent: str) -> Any:
    """The answer's JSON, found to be nothing else, and its headers free of what was sent."""
    kind = answer.headers["content-type"]
    assert answer.status_code < 500, answer.text
    assert kind in ("application/json", "text/event-stream; charset=utf-8")
    assert not re.search(rb"[<>&\x80-\xff]", answer.content) and answer.headers["x-content-type-options"] == "nosniff"
    known = {name.lower() for name in HEADERS} | {
        "content-type",
        "content-length",
        "date",
        "retry-after",
        "transfer-encoding",
        "allow",
    }
    assert {name.lower() for name in answer.headers} <= known
    if len(sent.strip()) > 3:
        assert all(sent.strip() not in value for value in answer.headers.values())
    if kind == "application/json":
        return answer.json()
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("part", range(6))
def test_hostile_strings_are_words_and_nothing_else(server: Served, part: int, caplog: pytest.LogCaptureFixture) -> None:
    """Each through fields of each kind; what a field takes as text is taken, and everything else is refused with a sentence."""
    model = server.bench.model
    user = [{"role": "user", "content": "a"}]
    fields: list[Any] = [
        lambda s: {"messages": [{"role": "user", "content": s}]},
        lambda s: {"messages": [{"role": s, "content": "a"}]},
        lambda s: {"model": s},
        lambda s: {s: s},
        lambda s: {"stop": [s[:256]], "stream": True},
        lambda s: {"temperature": s, "user": s},
        lambda s: {"strandscope": {"edits": s}},
        lambda s: {"strandscope": {"edits": '!"' + s.replace('"', "").replace("\n", "") + '"'}},
        lambda s: {"strandscope": {"monitors": [s]}},
        lambda s: {"strandscope": {s: s}},
    ]
    with server.http as http:
        for number, sent in enumerate(STRINGS[part::6]):
            for place in {number % len(fields), (number // 2 + 5) % len(fields), (3 * number + 1) % len(fields)}:
                body = {"model": model, "messages": user, "max_tokens": 1, **fields[place](sent)}
                inert(http.post("/v1/chat/completions", json=body), sent)
            header = re.sub(r"[^ -~]", "", sent).strip()[:500]
            inert(http.get("/v1/models/" + quote(sent[:300], safe="")), sent)
            odd = http.get(
                "/healthz", params={"q": sent[:300]}, headers={"X-Odd": header, "Referer": header, "Cookie": f"a={header}"}
            )
            assert inert(odd, header) == {"status": "ok"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    with server.http as http:
        assert http.get("/metrics").text.isascii()
    assert server.bench.engine.alive and not logging.getLogger("uvicorn.access").propagate


def test_what_a_network_writes_goes_out_escaped() -> None:
    for sent in STRINGS:
        made = dumps({sent: [sent]})
        assert json.loads(made) == {sent: [sent]} and made.isascii() and not set("<>&") & set(made) and "\n" not in made


def test_a_line_of_the_log_is_the_servers(caplog: pytest.LogCaptureFixture) -> None:
    del caplog
    for sent in STRINGS:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "x", 1, "failed: %s", (f"{sent}\nERROR forged",), None)
        first, *others = Lines("%(levelname)s %(message)s").format(record).split("\n")
        assert first.startswith("ERROR failed: ") and all(line.startswith("    ") for line in others) and others
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e\u2028]", first)


# --- limits ---


def test_a_body_that_does_not_come_is_not_waited_for(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strandscope.serve.wire.BODY_SECONDS", 0.1)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.address.key}\r\n"
    with socket.create_connection(("127.0.0.1", server.address.port), timeout=10) as sock:
        sock.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{{".encode())
        assert b"408" in sock.recv(4096).split(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", server.address.port), timeout=10) as sock:
        sock.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {LIMITS.body + 1}\r\n\r\n".encode())
        assert b"413" in sock.recv(4096).split(b"\r\n")[0]  # before any of it has come


def test_without_the_extra_one_sentence_says_what_to_install() -> None:
    program = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "uvicorn" else found(name, *a)
from strandscope.cli.main import main
code = main(["serve"])
assert "torch" not in sys.modules
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    wanted = "Error: serve needs uvicorn, which is not installed: pip install 'strandscope[page]'\n"
    assert (done.returncode, done.stderr) == (3, wanted)


def test_the_command_line_refuses_other_hosts_before_it_opens_anything() -> None:
    program = """
import sys
from strandscope.cli.main import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "--host", "0.0.0.0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("Error: host: 0.0.0.0 can be reached from other machines")
    assert threading.active_count() < 20
