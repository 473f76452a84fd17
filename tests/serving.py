"""A tiny chat network behind a real HTTP server on loopback, for as long as a block runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai

import tiny_chat
import watched
from pushing import opened, strand_in, vector
from strandscope.monitor.monitor import Monitor
from strandscope.serve.address import Address, listen
from strandscope.serve.app import bench_of
from strandscope.serve.completions import Bench
from strandscope.serve.engine import Limits
from strandscope.serve.run import server
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

LIMITS = Limits(rows=8, waiting=16, tokens=256, seconds=20, body=1 << 18)


@dataclass(frozen=True)
class Served:
    """A server that answers; `folder` holds its strands and monitors, one of them broken."""

    subject: Subject
    bench: Bench
    address: Address
    folder: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.address.key}"}

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.address.url, headers=self.headers, timeout=20, verify=False)  # it reads no certificates

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address.url}/v1", api_key=self.address.key, max_retries=0, timeout=20)

    def chat(self, content: str = "hello", **more: Any) -> httpx.Response:
        body = {"model": self.bench.model, "messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0}
        with self.http as http:
            return http.post("/v1/chat/completions", json={**body, **more})


def fill(folder: Path, subject: Subject) -> Path:
    """Strands `yes` and `no`, a monitor `calm` that never alarms and one `sharp` that always does, and files that are none."""
    folder.mkdir()
    first = replace(strand_in(subject), name="yes")
    first.save(folder / "yes.safetensors")
    replace(strand_in(subject, Site("resid", 2)), name="no", pattern=vector(5, 3.0)[:, None]).save(folder / "no.safetensors")
    replace(first, name="foreign", fingerprint="f" * 64).save(folder / "foreign.safetensors")
    replace(first, pattern=2 * first.pattern).save(folder / "zz-yes-again.safetensors")
    (folder / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{<script>nothing")
    (folder / "notes.txt").write_text("not a strand")
    strands = [replace(one, template={"format": "text"}) for one in watched.three(subject)]
    monitor = Monitor.calibrate(strands, watched.texts(40, 3), subject=subject, false_alarm=0.2, aggregation="max", skip=1)
    watched.at(monitor, 1e9, 1e9).save(folder / "calm.safetensors")
    watched.at(monitor, -1e9, 1e9).save(folder / "sharp.safetensors")
    return folder


@contextmanager
def served(folder: Path, limits: Limits = LIMITS) -> Iterator[Served]:
    subject = opened(tiny_chat.save_model(folder / "tiny"))
    strands = fill(folder / "strands", subject)
    bench = bench_of(subject, strands=[strands], limits=limits, prompts=8, state=folder / "state", run=folder / "run")
    address, sock = listen("127.0.0.1", 0, None)
    up = threading.Event()
    running = server(bench, address, up.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        assert up.wait(20), "the server did not start"
        yield Served(subject, bench, address, strands)
    finally:
        running.should_exit = True
        thread.join(20)
        sock.close()
    assert not thread.is_alive() and not bench.engine.alive
