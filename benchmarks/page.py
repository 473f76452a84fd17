"""The page: the size and first paint of the default audit's report, and the frames per second of a live run of 100,000 points.

The report is that of `strandscope audit smollm2`, opened in headless Chromium as a file, without a network, five times. The run
is a folder with so many losses, followed on the served page while a line of 50 losses is added four times a second; frames are
those in which the page could draw, counted over six seconds, also in the slowest half second of them.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import sync_playwright
from torch import nn

import strandscope as ss
from common import Line, Results, Size, main
from strandscope.serve.address import listen
from strandscope.serve.app import bench_of
from strandscope.serve.run import server

POINTS, MORE = 100_000, 50
WINDOW = 500  # ms
FRAMES = """async (length) => {
  const times = [];
  await new Promise((done) => {
    const begin = performance.now();
    const step = (now) => { times.push(now); now - begin < length ? requestAnimationFrame(step) : done(); };
    requestAnimationFrame(step);
  });
  return times;
}"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def report(subject: ss.Subject, browser: Any, folder: Path, size: Size) -> list[Line]:
    """Of the default audit, or of a small one where little is to be done."""
    ss.audit(subject, None if size.full else ["truth"], folder / "audit", quick=not size.full, calibrate=size.full)
    page = folder / "audit" / "report.html"
    paints, asked = [], []
    for _ in range(5):
        opened = browser.new_page(offline=True)
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(page.as_uri(), wait_until="load")
        while (painted := opened.evaluate(PAINT)) is None:  # the page's policy lets nothing wait inside it
            opened.wait_for_timeout(10)
        paints.append(painted / 1000)
        opened.close()
    others = [url for url in asked if url != page.as_uri()]
    what = "first paint of report.html"
    return [
        Line("size of report.html", page.stat().st_size / 1e6, most=1.5, unit="MB"),
        Line(what, statistics.median(paints), min(paints), max(paints), len(paints), most=1.0, unit="s"),
        Line("requests of report.html for anything else", len(others), most=0),
    ]


def recorded(folder: Path, points: int) -> Path:
    """A run folder as the recorder begins one, with so many losses."""
    ss.Recorder(nn.Linear(2, 2), lambda: torch.ones(64, 2) * torch.arange(64)[:, None], out=folder).close()
    lines = folder / "records.jsonl"
    noise = torch.randn(points, generator=torch.Generator().manual_seed(0)).mul(0.1).exp().tolist()
    with lines.open("a", encoding="utf-8") as file:
        for start in range(0, points, 1000):
            held = [[step, noise[step] / (1 + step) ** 0.2] for step in range(start, min(points, start + 1000))]
            file.write(json.dumps({"kind": "losses", "losses": held}) + "\n")
    return lines


@contextmanager
def growing(lines: Path, points: int) -> Iterator[None]:
    """New losses all the time."""
    over = threading.Event()

    def add() -> None:
        step = points
        while not over.wait(0.25):
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": "losses", "losses": [[step + k, 0.1] for k in range(MORE)]}) + "\n")
            step += MORE

    thread = threading.Thread(target=add)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def served(subject: ss.Subject, run: Path) -> Iterator[str]:
    """The address of the page, with its key."""
    address, sock = listen("127.0.0.1", 0, None)
    up = threading.Event()
    running = server(bench_of(subject, run=run, state=run / "state"), address, up.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        if not up.wait(60):
            raise SystemExit("the server did not start")
        yield f"{address.url}/#key={address.key}"
    finally:
        running.should_exit = True
        thread.join()
        sock.close()


def live(subject: ss.Subject, browser: Any, folder: Path, size: Size) -> list[Line]:
    points, seconds = size.of(POINTS, 2000), size.of(6, 1)
    lines = recorded(folder / "run", points)
    with served(subject, folder / "run") as address, growing(lines, points):
        opened = browser.new_page()
        opened.goto(address)
        opened.wait_for_selector("section:has(#run-title) canvas")
        opened.evaluate("document.getElementById('run-title').scrollIntoView()")
        opened.wait_for_timeout(3000)  # the first answer, with all points
        before = opened.locator("section:has(#run-title) [aria-live]").inner_text()
        times = opened.evaluate(FRAMES, seconds * 1000)
        if opened.locator("section:has(#run-title) [aria-live]").inner_text() == before:
            raise SystemExit("the page did not follow the run")
        opened.close()
    gaps = [later - earlier for earlier, later in pairwise(times)]
    rate = 1000 * len(gaps) / sum(gaps)
    slowest = min(sum(start <= one < start + WINDOW for one in times) for start in times if start + WINDOW <= times[-1])
    note = f"longest gap {max(gaps):.0f} ms; in the slowest half second {2 * slowest} frames/s"
    return [
        Line(f"frames per second with {points:,} points, growing", rate, least=30.0, note=note),
        Line("of the slowest half second", 2.0 * slowest, least=30.0),
    ]


def run(size: Size) -> Results:
    subject = ss.load("smollm2")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium was found; install one, or name it in CHROMIUM")
    with tempfile.TemporaryDirectory() as held, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        lines = [*live(subject, browser, Path(held), size), *report(subject, browser, Path(held), size)]
        about = browser.version
        browser.close()
    return Results((__doc__ or "").partition("\n\n")[2].replace("\n", " ").strip(), tuple(lines), facts={"chromium": about})


if __name__ == "__main__":
    main("page", run, __doc__ or "")
