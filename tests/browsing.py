"""A page in Chromium, with everything that it said or asked for; and what keeps such tests from running."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hostile import MARK

ROOT = Path(__file__).parents[1]
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


def needed(built: bool) -> None:
    """Skip the module, with a sentence, where something is missing."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium was found; install Debian's chromium, or name one in CHROMIUM", allow_module_level=True)
    if not built or not AXE.is_file():
        pytest.skip("the page is not built (`make page` needs Node)", allow_module_level=True)


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """An address in a window of its own, without any network where it is a file's."""

    def __init__(
        self, browser: Any, address: str, *, width: int = 1280, scheme: str = "light", policy: bool = True, **more: Any
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            bypass_csp=not policy,
            offline=address.startswith("file:"),
            **more,
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.add_init_script(f"window.hits = []; window.{MARK} = () => window.hits.push(1)")
        self.address = address

    def __enter__(self) -> Opened:
        self.page.goto(self.address)
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def others(self) -> list[str]:
        """Requests for anything but the page itself and what is under it."""
        own = self.address.partition("#")[0]
        return [url for url in self.asked if not url.startswith((own, "blob:", "data:"))]

    def failures(self) -> list[tuple[str, str]]:
        """The rules of WCAG 2.2 AA that fail, each with a piece of the page that fails it; needs `policy=False`."""
        self.page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate(f"axe.run(document, {{runOnly: {json.dumps(RULES)}}})")
        self.looked = len(found["passes"])
        return [(one["id"], one["nodes"][0]["html"][:200]) for one in found["violations"]]
