"""The server beside `generate` in this process, and beside `transformers serve`: one chat, and eight at once.

One network in bf16 in each of the processes, of which one works at a time. Chats are of our neutral pack, those whose greedy
replies go on for all the tokens asked; eight are steered each by another push, of which no dose has to be found. A chat over
HTTP is streamed to its end by a client of this process, which reads lines and looks into them at the end: on two cores
that the network fills, what a client does is time of the server. What a chat costs over `generate` is told of the whole chat, its
prompt's pass included in both. The peer steers nothing, so it is asked the same chats plainly.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

import strandscope as ss
from common import Line, Results, Size, main, messages_of, paired, timed
from strandscope.control.edit import Add
from strandscope.reading import Reading
from strandscope.strand.strand import Strand
from strandscope.subject.attach import Scope, attach
from strandscope.subject.site import Site

AT_ONCE = 8
Chat = list[dict[str, str]]


def strand(subject: ss.Subject) -> Strand:
    """A direction at random in the middle block, about a fifth of a state long."""
    drawn = torch.randn(subject.d, generator=torch.Generator().manual_seed(0))
    unit = drawn / drawn.norm()
    nothing = Reading.not_measured("made up for a benchmark", unit="AUROC", method="none")
    made = {"basis": unit[:, None], "pattern": 32 * unit[:, None], "spectrum": torch.ones(1), "offset": torch.zeros(1)}
    where = {"site": str(Site("resid", subject.blocks // 2)), "position": "last", "method": "random"}
    return Strand(name="push", positive="yes", evidence=nothing, fingerprint=subject.fingerprint, **made, **where)  # type: ignore[arg-type]


def chats(subject: ss.Subject, tokens: int, count: int) -> list[Chat]:
    """Those of the pack, in its order, whose replies do not end before so many tokens, plain or pushed."""
    found: list[Chat] = []
    for row in ss.concept("neutral").rows:
        chat = messages_of(row)
        if len(tokenised(subject, generate(subject, chat, tokens))) >= tokens - 1:
            found.append(chat)
        if len(found) == count:
            return found
    raise SystemExit(f"{len(found)} chats go on for {tokens} tokens, wanted {count}")


def generate(subject: ss.Subject, chat: Chat, tokens: int) -> str:
    return subject.generate(chat, tokens)


def tokenised(subject: ss.Subject, text: str) -> list[int]:
    assert subject.tokenizer is not None
    return list(subject.tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]


def _has_text(chunk: dict[str, Any]) -> bool:
    return bool(chunk["choices"] and chunk["choices"][0]["delta"].get("content"))


class Client:
    """Chats over HTTP, streamed."""

    def __init__(self, url: str, key: str, model: str, tokens: int) -> None:
        self.url, self.model, self.tokens = httpx.URL(url), model, tokens
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def ask(self, chat: Chat, edits: str | None = None) -> int:
        """Chunks with text that came."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": chat,
            "max_tokens": self.tokens,
            "temperature": 0,
            "stream": True,
        }
        if edits is not None:
            body["strandscope"] = {"edits": edits}
        connection = http.client.HTTPConnection(self.url.host, self.url.port, timeout=600)
        with closing(connection):
            connection.request("POST", f"{self.url.path.rstrip('/')}/chat/completions", json.dumps(body), self.headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise SystemExit(answer.read().decode())
            return sum(_has_text(json.loads(line[6:])) for line in list(answer) if line.startswith(b"data: {"))

    def together(self, given: Sequence[tuple[Chat, str | None]]) -> None:
        with ThreadPoolExecutor(len(given)) as pool:
            for chunks in pool.map(lambda one: self.ask(*one), given):
                if chunks < self.tokens // 2:
                    raise SystemExit(f"a reply came in {chunks} chunks, wanted about {self.tokens}")


@contextmanager
def process(command: Sequence[str], ready: Callable[[subprocess.Popen[str]], Any]) -> Iterator[Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as log:
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            yield ready(running)
        finally:
            running.terminate()
            running.wait(30)


@contextmanager
def ours(folder: Path, tokens: int) -> Iterator[Client]:
    command = [sys.executable, "-m", "strandscope", "serve", "--json", "--port", "0", "--offline", "--strands", str(folder)]

    def ready(running: subprocess.Popen[str]) -> Client:
        assert running.stdout is not None
        said = ""
        while not said.rstrip().endswith("}"):
            line = running.stdout.readline()
            if not line:
                raise SystemExit("strandscope serve did not start")
            said += line
        told = json.loads(said)
        return Client(told["url"], told["key"], told["model"], tokens)

    with process(command, ready) as client:
        yield client


@contextmanager
def theirs(model: Path, tokens: int, *, batched: bool) -> Iterator[Client]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(model), "--port", str(port), "--device", "cpu"]
    command += ["--dtype", "bfloat16", *(["--continuous-batching"] if batched else [])]

    def ready(running: subprocess.Popen[str]) -> Client:
        for _ in range(600):
            if running.poll() is not None:
                raise SystemExit("transformers serve did not start")
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", verify=False)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        return Client(f"http://127.0.0.1:{port}/v1", "none", str(model), tokens)

    with process(command, ready) as client:
        yield client


def rates(client: Client, one: Chat, many: Sequence[tuple[Chat, str | None]], repeats: int) -> tuple[list[float], list[float]]:
    """Tokens/s of one chat, and of all together; both once to warm up, then alternately."""
    first = many[0][1]
    client.ask(one, first)
    client.together(many)
    alone, together = [], []
    for _ in range(repeats):
        alone.append(client.tokens / timed(lambda: client.ask(one, first)))
        together.append(len(many) * client.tokens / timed(lambda: client.together(many)))
    return alone, together


def run(size: Size) -> Results:
    subject = ss.load("smollm2", offline=True)
    tokens, repeats = size.of(32, 8), size.of(3, 1)
    given = chats(subject, tokens, AT_ONCE)
    made = strand(subject)
    edits = [f"{0.1 * (number + 1):.1f}lengths*push" for number in range(AT_ONCE)]
    steered: list[tuple[Chat, str | None]] = list(zip(given, edits, strict=True))
    push = {Site.parse(made.site): [(Add(made.direction(), 0.1), Scope())]}

    def in_process() -> None:
        with attach(subject, edits=push):
            generate(subject, given[0], tokens)

    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder) / "push.safetensors")
        with ours(Path(folder), tokens) as client:
            pairs = paired(lambda: client.ask(*steered[0]), in_process, size.of(15, 1))
            lines.append(pairs.line("one steered chat: seconds over HTTP / generate in-process", 1.03))
            alone, together = rates(client, given[0], steered, repeats)
    lines += _lines("ours, steered", alone, together, least=3.0)
    weights = Path.home() / ".cache/strandscope/models"
    model = next(path for path in sorted(weights.iterdir()) if path.name.startswith(subject.fingerprint))
    plainly: list[tuple[Chat, str | None]] = [(chat, None) for chat in given]
    for batched in (False, True):
        name = "transformers serve" + (", continuous batching" if batched else "")
        try:
            with theirs(model, tokens, batched=batched) as peer:
                lines += _lines(f"{name}, plain", *rates(peer, given[0], plainly, repeats))
        except (SystemExit, httpx.HTTPError) as error:
            lines.append(Line(f"{name}: did not run here", float("nan"), note=str(error)[:200]))
    about = f"Chats of {tokens} new tokens of SmolLM2-135M-Instruct in bf16, greedy, streamed; eight of them are at once."
    return Results(about, tuple(line for line in lines if line.value == line.value), facts=_failed(lines))


def _failed(lines: Sequence[Line]) -> dict[str, Any]:
    return {line.what: line.note for line in lines if line.value != line.value}


def _lines(name: str, alone: Sequence[float], together: Sequence[float], least: float | None = None) -> list[Line]:
    ratios = [b / a for a, b in zip(alone, together, strict=True)]
    unit = "tokens/s"
    return [
        Line(f"{name}: one chat", statistics.median(alone), min(alone), max(alone), len(alone), unit),
        Line(f"{name}: eight at once", statistics.median(together), min(together), max(together), len(together), unit),
        Line(f"{name}: eight at once / one", statistics.median(ratios), min(ratios), max(ratios), len(ratios), least=least),
    ]


if __name__ == "__main__":
    main("serve", run, __doc__ or "")
