"""The bench in Chromium over a real server with a tiny network: by keyboard alone, in both themes, and deaf to hostile texts."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from browsing import Opened, chromium, needed
from hostile import STRINGS
from serving import Served, served
from strandscope.report.page.html import assets
from strandscope.serve.jobs import Job
from strandscope.serve.page import bench

needed(assets() is not None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("bench")) as one:
        yield one


def at(browser: Any, server: Served, **more: Any) -> Opened:
    return Opened(browser, f"{server.address.url}/#key={server.address.key}", **more)


_NAMED = "(document.activeElement.labels?.[0] ?? document.activeElement).textContent.trim()"


def ready(opened: Opened) -> Any:
    opened.page.wait_for_selector(".dose input")
    return opened.page


def done(page: Any, replies: int) -> None:
    status = page.locator(f".turns li:last-child .ways > div:nth-child({replies}) [aria-live]")
    status.filter(has_text=re.compile("^done")).wait_for()


def test_the_page_is_given_without_a_key_and_its_policy_lets_it_ask_this_server_alone(server: Served) -> None:
    answer = httpx.get(server.address.url + "/", verify=False)
    policy = answer.headers["content-security-policy"]
    script = re.search(r"<script>(.*)</script>", answer.text, re.DOTALL)
    assert script is not None and base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode() in policy
    assert "connect-src 'self'" in policy and "unsafe" not in policy and server.address.key not in answer.text
    assert (answer.text, policy) == bench()
    assert httpx.get(server.address.url + "/api/strands", verify=False).status_code == 401
    assert httpx.get(server.address.url + "/", headers={"Host": "evil.example"}, verify=False).status_code == 403


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_says_nothing_and_fails_no_rule(browser: Any, server: Served, width: int, scheme: str) -> None:
    with at(browser, server, width=width, scheme=scheme) as opened:
        page = ready(opened)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and opened.said == [] and opened.others() == []
        assert server.address.key not in page.evaluate("location.href")  # taken out of the address
    with at(browser, server, width=width, scheme=scheme, policy=False) as opened:
        ready(opened)
        assert opened.failures() == [] and opened.looked > 12


def test_the_good_strands_are_there_and_the_broken_file_is_named(browser: Any, server: Served) -> None:
    with at(browser, server) as opened:
        page = ready(opened)
        assert page.locator(".dose").count() == 2
        assert "broken.safetensors was left out" in page.locator("header").inner_text()


def test_held_and_plain_stand_side_by_side_and_are_what_the_server_gives(browser: Any, server: Served) -> None:
    with at(browser, server) as opened:
        page = ready(opened)
        page.locator(".dose input").first.fill("0.5")
        page.get_by_label("tokens").fill("12")
        page.locator("#prompt").fill("hello")
        page.get_by_role("button", name="Ask", exact=True).click()
        done(page, 1)
        done(page, 2)
        plain, held = (page.locator(".turns .coloured").nth(number).inner_text() for number in (0, 1))
        name = page.locator(".turns h4").nth(1).inner_text()
    assert re.fullmatch(r"0\.5nats\*(yes|no)", name)
    wanted = [
        server.chat("hello", max_tokens=12, seed=0, **({"strandscope": {"edits": edits}} if edits else {})).json()
        for edits in ("", name)
    ]
    assert [text["choices"][0]["message"]["content"].split() for text in wanted] == [plain.split(), held.split()]


def test_by_keyboard_alone_find_hold_ask_and_save(browser: Any, server: Served) -> None:
    with at(browser, server) as opened:
        page = ready(opened)

        def tab_to(name: str) -> None:
            for _ in range(80):
                page.keyboard.press("Tab")
                if page.evaluate("(document.activeElement.labels?.[0] ?? document.activeElement).textContent.trim()").startswith(
                    name
                ):
                    return
            raise AssertionError(f"the keyboard does not reach {name!r}")

        def write(lines: list[str]) -> None:
            page.keyboard.insert_text("\n".join(lines))

        tab_to("Name")
        write(["byhand"])
        tab_to("With it")
        write([f"yes {word} yes" for word in "a b c d e f g h i j k l".split()])
        tab_to("Without it")
        write([f"no {word} no" for word in "a b c d e f g h i j k l".split()])
        tab_to("Find")
        page.keyboard.press("Enter")
        page.locator("section:has(#find-title) dl, section:has(#find-title) [role=alert]").wait_for(timeout=60_000)
        assert page.locator("section:has(#find-title) [role=alert]").count() == 0
        page.locator(".dose", has_text="byhand").wait_for()
        tab_to("byhand")
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        assert "0.20 nats" in page.locator(".dose", has_text="byhand").inner_text()
        tab_to("save as")
        write(["mine"])
        page.keyboard.press("Enter")
        page.get_by_text("saved as mine").wait_for()
        page.reload()
        ready(opened)
        tab_to("saved")
        page.keyboard.press("m")
        tab_to("Load")
        page.keyboard.press("Enter")
        page.get_by_text("loaded mine").wait_for()
        assert "0.20 nats" in page.locator(".dose", has_text="byhand").inner_text()
        assert opened.said == []
    (server.folder / "byhand.safetensors").unlink()
    server.bench.shelf.load()


def test_a_name_that_is_no_plain_word_stands_in_quotes(browser: Any, server: Served) -> None:
    with server.http as http:
        assert http.put("/api/settings/odd", json={"doses": {"my strand": 0.1, "yes": -0.2}}).status_code == 200
    with at(browser, server) as opened:
        page = ready(opened)
        page.get_by_label("saved").select_option("odd")
        page.get_by_role("button", name="Load").click()
        page.get_by_text("loaded odd").wait_for()
        assert page.locator("section:has(#doses-title) code").inner_text() == '0.1nats*"my strand" - 0.2nats*yes'


def test_a_network_that_does_not_chat_is_continued(browser: Any, server: Served) -> None:
    with at(browser, server) as opened:
        opened.page.route("**/api/subject", lambda route: route.fulfill(json={**route.fetch().json(), "chats": False}))
        page = opened.page
        page.reload()
        ready(opened)
        page.get_by_label("tokens").fill("6")
        page.locator("#prompt").fill("hello")
        with page.expect_request("**/v1/completions") as sent:
            page.get_by_role("button", name="Ask", exact=True).click()
        done(page, 1)
        assert sent.value.post_data_json["prompt"] == "hello" and "messages" not in sent.value.post_data_json
        with server.http as http:
            whole = http.post("/v1/completions", json={**sent.value.post_data_json, "stream": False}).json()
        assert page.locator(".coloured").inner_text().split() == whole["choices"][0]["text"].split() != []


def test_a_server_that_is_gone_is_said_to_be(browser: Any, server: Served) -> None:
    with at(browser, server) as opened:
        page = ready(opened)
        page.route("**/v1/**", lambda route: route.abort())
        page.locator("#prompt").fill("hello")
        page.get_by_role("button", name="Ask", exact=True).click()
        alert = page.locator(".turns [role=alert]")
        alert.wait_for()
        assert "the server cannot be reached" in alert.inner_text()


def test_a_monitor_colours_tokens_and_tells_alarms(browser: Any, server: Served) -> None:
    with at(browser, server) as opened:
        page = ready(opened)
        page.get_by_label("sharp").check()
        page.get_by_label("tokens").fill("8")
        page.locator("#prompt").fill("hello")
        page.get_by_role("button", name="Ask", exact=True).click()
        done(page, 1)
        assert page.locator(".alarm").count() >= 1 and opened.said == []
        assert page.locator(".coloured [data-step='p5']").count() >= 6  # its threshold lies below 0, and every score above it
        whole = server.chat("hello", max_tokens=8, seed=0).json()["choices"][0]["message"]["content"]
        assert page.locator(".coloured").inner_text().split() == whole.split()


def test_drift_goes_on_with_what_nothing_holds_and_an_alarm_is_told(browser: Any, server: Served) -> None:
    server.bench.traffic._drifts.clear()
    monitor = server.bench.shelf.monitors["calm"]
    with at(browser, server) as opened:
        page = ready(opened)
        page.get_by_label("calm", exact=False).first.check()
        drift = page.locator(".drift", has_text="calm")
        assert "not measured" in drift.inner_text()
        page.get_by_label("tokens").fill("2")

        def chat() -> None:
            page.locator("#prompt").fill("hello")
            page.get_by_role("button", name="Ask", exact=True).click()
            done(page, 1)

        chat()
        drift.get_by_text("over 1 reply").wait_for()
        for row in monitor.reference.mean(0) + 4 * monitor.reference.std(0) * np.linspace(0.9, 1.1, 60)[:, None]:
            server.bench.traffic.take("calm", monitor, row)
        chat()
        page.locator(".alarm", has_text="drift").wait_for()
        alarm = server.bench.traffic.told("calm", monitor)["alarm"]
        assert f"{alarm['channel']} at reply {alarm['sequence']}" in page.locator(".alarm", has_text="drift").inner_text()
        assert opened.said == []
    server.bench.traffic._drifts.clear()


def test_a_cost_that_is_no_longer_wanted_is_cancelled(browser: Any, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    go, report = threading.Event(), Job.report

    def slow(job: Job, stage: str, done: int, of: int) -> None:
        report(job, stage, done, of)
        if stage.startswith("dose of"):
            assert go.wait(20)

    monkeypatch.setattr(Job, "report", slow)
    with at(browser, server) as opened:
        page = ready(opened)
        page.locator(".dose input").first.fill("0.35")
        page.get_by_role("button", name="what does it cost?").click()
        page.get_by_text("dose of", exact=False).first.wait_for()
        page.get_by_role("button", name="Cancel").click()
        go.set()
        page.get_by_role("button", name="what does it cost?").wait_for()
        assert server.bench.jobs.all()[-1].status == "cancelled" and opened.said == []


def test_the_folders_are_read_again(browser: Any, server: Served) -> None:
    with at(browser, server) as opened:
        page = ready(opened)
        replace(server.bench.shelf.strands[0], name="fresh").save(server.folder / "fresh.safetensors")
        assert page.locator(".dose", has_text="fresh").count() == 0
        page.get_by_role("button", name="Read the folders again").click()
        page.locator(".dose", has_text="fresh").wait_for()
    (server.folder / "fresh.safetensors").unlink()
    server.bench.shelf.load()


def test_a_stopped_reply_leaves_the_server_idle(browser: Any, server: Served) -> None:
    with at(browser, server) as opened:
        page = ready(opened)
        page.get_by_label("tokens").fill("250")
        page.locator("#prompt").fill("hello")
        page.get_by_role("button", name="Ask", exact=True).click()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("stopped").wait_for()
    with server.http as http:
        for _ in range(100):
            if server.bench.engine.running == 0:
                break
            http.get("/healthz")
        assert server.bench.engine.running == 0


def test_hostile_prompts_and_names_are_words(browser: Any, server: Served) -> None:
    with at(browser, server) as opened:
        page = ready(opened)
        page.get_by_label("tokens").fill("1")
        for start in range(0, len(STRINGS), 110):
            page.locator("#prompt").fill("\n".join(STRINGS[start : start + 110])[:8000])
            page.get_by_role("button", name="Ask", exact=True).click()
            page.locator(".turns li").nth(start // 110).locator("[aria-live]").filter(
                has_text=re.compile("done|refused")
            ).wait_for()
        tags = page.evaluate("[...document.querySelectorAll('#app *')].map((one) => one.localName)")
        assert page.evaluate("window.hits") == [] and opened.others() == []
        assert [line for line in opened.said if "400 (Bad Request)" not in line] == []  # what was too long was refused
        assert not {"script", "iframe", "object", "embed", "img", "link", "video"} & set(tags)


def test_without_the_key_it_says_what_to_do(browser: Any, server: Served) -> None:
    with Opened(browser, f"{server.address.url}/") as opened:
        alert = opened.page.get_by_role("alert")
        alert.wait_for()
        assert "The server cannot be asked" in alert.inner_text()
