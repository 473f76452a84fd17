"""report.html in Chromium, opened as a file: drawn, quiet, readable by machine and keyboard, and deaf to hostile texts.

Runs where Chromium, Node's build of the page and axe-core are; elsewhere every test is skipped with what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from browsing import Opened, chromium, needed
from hostile import MARK, STRINGS
from strandscope.report.page.build import page
from strandscope.report.page.html import assets, write
from strandscope.report.page.spec import Axis, Figure, Mark, Page, Rule, Section
from test_report import report

needed(assets() is not None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def several() -> Page:
    """A report of one concept with a second beside it, so that there is something to choose."""
    made = report("some words")
    two = tuple(replace(entry, name="other") for entry in made.concepts)
    findings = tuple(replace(one, id=one.id.replace("harm.", "other.")) for one in made.findings)
    return page(replace(made, concepts=(*made.concepts, *two), findings=(*made.findings, *findings)))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(write(several(), assets()), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_is_drawn_without_a_word_and_fits(browser: Any, file: Path, width: int, scheme: str) -> None:
    with Opened(browser, file.as_uri(), width=width, scheme=scheme) as opened:
        opened.page.wait_for_selector("figure svg")
        assert opened.page.locator("figure svg").count() == opened.page.locator("figure").count() >= 5
        assert opened.said == [] and opened.others() == []
        assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_rule_of_accessibility_fails(browser: Any, file: Path, width: int, scheme: str) -> None:
    with Opened(browser, file.as_uri(), width=width, scheme=scheme, policy=False) as opened:
        opened.page.wait_for_selector("figure svg")
        assert opened.failures() == []
        assert opened.looked > 15


def test_the_rules_of_accessibility_can_fail(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<html><body><img src='data:,'><p style='color:#aaa;background:#fff'>pale</p></body></html>", encoding="utf-8"
    )
    with Opened(browser, path.as_uri(), policy=False) as opened:
        assert {"image-alt", "color-contrast", "html-has-lang"} <= {rule for rule, _ in opened.failures()}


def test_a_concept_and_a_site_are_chosen_everywhere_and_kept_in_the_address(browser: Any, file: Path) -> None:
    with Opened(browser, file.as_uri()) as opened:
        opened.page.wait_for_selector("figure svg")
        whole = opened.page.locator("figure").count()
        opened.page.get_by_role("button", name="other", exact=True).click()
        assert opened.page.locator("figure").count() < whole and opened.page.locator("article.card").count() == 1
        assert "concept=other" in opened.page.url
        curve = opened.page.locator("#figure-curve-other .frame")
        curve.focus()
        for key in ("ArrowRight", "ArrowRight", "Enter"):
            opened.page.keyboard.press(key)
        assert "resid:1: 0.8 [0.75, 0.85] AUROC" in opened.page.locator("#figure-curve-other .told").inner_text()
        assert "site=resid%3A1" in opened.page.url
        assert opened.page.locator("tr.marked").count() >= 2  # in the figure's own table and in the sites'
        address = opened.page.url
    with Opened(browser, file.as_uri()) as again:
        again.page.goto(address)
        again.page.wait_for_selector("figure svg")
        assert again.page.locator("article.card").count() == 1 and again.page.locator("tr.marked").count() >= 2
        again.page.get_by_role("button", name="site resid:1: let go").click()
        assert "site=" not in again.page.url and again.page.locator("tr.marked").count() == 0


def test_an_example_is_chosen_in_every_section_and_one_place_leads_to_the_next(browser: Any, file: Path) -> None:
    with Opened(browser, file.as_uri()) as opened:
        opened.page.wait_for_selector("figure svg")
        marked = opened.page.locator('article[data-marked="true"]')
        assert marked.count() == 0 and opened.page.locator("button.next").count() == 0
        opened.page.locator("article.texts h3 button").first.click()  # one prompt, pushed along either concept
        assert "example=prompt+1" in opened.page.url and marked.count() == 2
        opened.page.get_by_role("button", name="prompt 1, in 2 places: let go").wait_for()
        places = []
        for _ in range(3):
            opened.page.locator("button.next").first.press("Enter") if not places else opened.page.keyboard.press("Enter")
            places.append(opened.page.evaluate("[...document.querySelectorAll('button.next')].indexOf(document.activeElement)"))
        assert places == [1, 0, 1]
        opened.page.get_by_role("button", name="other", exact=True).click()
        opened.page.get_by_role("button", name="prompt 1, in 1 place: let go").wait_for()
        assert marked.count() == 1 and opened.page.locator("button.next").count() == 0  # there is no other place
        opened.page.get_by_role("button", name="prompt 1, in 1 place: let go").click()
        assert "example=" not in opened.page.url and marked.count() == 0
    with Opened(browser, f"{file.as_uri()}#example={quote('<img src=x onerror=alert(1)>')}") as opened:
        opened.page.get_by_role("button", name="<img src=x onerror=alert(1)>, in 0 places: let go").wait_for()
        assert opened.said == [] and opened.others() == []


def test_by_keyboard_alone_from_the_top_to_a_figure(browser: Any, file: Path) -> None:
    with Opened(browser, file.as_uri()) as opened:
        opened.page.wait_for_selector("figure svg")
        opened.page.keyboard.press("Tab")
        assert opened.page.evaluate("document.activeElement.className") == "skip"
        opened.page.keyboard.press("Enter")
        assert opened.page.evaluate("document.activeElement.id") == "verdicts-title"
        for _ in range(60):
            opened.page.keyboard.press("Tab")
            if opened.page.evaluate("document.activeElement.className.includes('frame')"):
                break
        assert opened.page.evaluate("document.activeElement.getAttribute('aria-roledescription')") == "figure"
        assert opened.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        opened.page.keyboard.press("Home")
        told = opened.page.evaluate("document.activeElement.parentElement.querySelector('.told').textContent")
        assert "harm" in told


def test_a_figure_is_saved_as_svg_and_csv(browser: Any, file: Path) -> None:
    with Opened(browser, file.as_uri(), accept_downloads=True) as opened:
        opened.page.wait_for_selector("figure svg")
        figure = opened.page.locator("#figure-curve-harm")
        with opened.page.expect_download() as got:
            figure.get_by_role("button", name="Save CSV").click()
        rows = got.value.path().read_text(encoding="utf-8").splitlines()
        assert got.value.suggested_filename == "curve-harm.csv"
        assert rows[0] == "series,site,held-out AUROC (0.5 is chance),low,high,note" and rows[2].startswith(
            "harm,resid:1,0.8,0.75,"
        )
        with opened.page.expect_download() as got:
            figure.get_by_role("button", name="Save SVG").click()
        text = got.value.path().read_text(encoding="utf-8")
        assert text.startswith("<svg") and "Where harm is read" in text and "#0072b2" in text
        drawn = text.partition("</style>")[2] or text
        assert 'stroke="var(' not in drawn and 'fill="var(' not in drawn
        assert opened.said == [] and opened.others() == []


def _with_one_figure(made: Page, number: int) -> tuple[Section, ...]:
    """Its sections under names of their own, with the figure whose turn it is."""
    figures = [block.id for section in made.sections for block in section.blocks if isinstance(block, Figure)]
    left = figures[number % len(figures)]
    return tuple(
        replace(
            section,
            id=f"{section.id}-{number}",
            blocks=tuple(block for block in section.blocks if not isinstance(block, Figure) or block.id == left),
        )
        for section in made.sections
    )


def test_hostile_texts_run_nothing_and_ask_for_nothing(browser: Any, tmp_path: Path) -> None:
    """All of them, through every field of a report: thirty reports on a page, each with one of its figures in turn."""
    path = tmp_path / "report.html"
    for start in range(0, len(STRINGS), 30):
        made = [page(report(text or "nothing")) for text in STRINGS[start : start + 30]]
        sections = tuple(section for number, whole in enumerate(made) for section in _with_one_figure(whole, number))
        joined = replace(made[0], sections=sections, unmeasured=tuple(line for whole in made for line in whole.unmeasured))
        path.write_text(write(joined, assets()), encoding="utf-8")
        with Opened(browser, path.as_uri()) as opened:
            opened.page.wait_for_selector("figure svg")
            opened.page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
            opened.page.wait_for_timeout(100)
            assert opened.page.evaluate("window.hits") == [] and opened.others() == [] and opened.said == []
            tags = opened.page.evaluate("[...document.querySelectorAll('#app *')].map((one) => one.localName)")
            assert not {"script", "iframe", "object", "embed", "img", "link", "form", "video", "marquee"} & set(tags)


def test_the_net_of_that_test_catches_what_does_run(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(f"<body><img src='http://evil.example/x' onerror='{MARK}()'></body>", encoding="utf-8")
    with Opened(browser, path.as_uri()) as opened:
        opened.page.wait_for_function("window.hits.length > 0")
        assert opened.page.evaluate("window.hits") == [1] and opened.others() == ["http://evil.example/x"]


def test_a_page_of_a_newer_schema_keeps_its_tables(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(write(several(), assets()).replace('strandscope/page/1"', 'strandscope/page/9"', 1), encoding="utf-8")
    with Opened(browser, path.as_uri()) as opened:
        alert = opened.page.get_by_role("alert").inner_text()
        assert "holds strandscope/page/9" in alert and opened.page.locator("table").count() > 5
        assert opened.said == []


def test_without_scripts_the_verdicts_and_tables_are_there(browser: Any, file: Path) -> None:
    with Opened(browser, file.as_uri(), java_script_enabled=False) as opened:
        assert "harm: detected" in opened.page.locator("#verdicts").inner_text()
        assert opened.page.locator("table").count() > 5 and opened.page.locator("svg").count() == 0


def test_print_is_light_and_unfolded(browser: Any, file: Path, tmp_path: Path) -> None:
    with Opened(browser, file.as_uri(), scheme="dark") as opened:
        opened.page.wait_for_selector("figure svg")
        opened.page.emulate_media(media="print")
        assert opened.page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
        assert not opened.page.locator("nav").first.is_visible()
        assert opened.page.locator("details table").first.is_visible()
        opened.page.pdf(path=tmp_path / "report.pdf")
        assert (tmp_path / "report.pdf").stat().st_size > 20_000


def test_a_figure_of_hundreds_of_points_is_drawn(browser: Any, tmp_path: Path) -> None:
    many = tuple(float(number) for number in range(2000))
    figure = Figure(
        id="many", title="Many", caption="Many points.", x=Axis(label="x"), y=Axis(label="y"), python="many",
        marks=(Mark(name="m", shape="line", x=many, y=many),),
    )  # fmt: skip
    made = replace(several(), sections=(Section(id="s", title="S", question="How many?", blocks=(figure,)),))
    path = tmp_path / "report.html"
    path.write_text(write(made, assets()), encoding="utf-8")
    with Opened(browser, path.as_uri()) as opened:
        opened.page.wait_for_selector("figure svg g[aria-label='line'] path", state="attached")
        assert opened.said == []


def gap() -> Page:
    """A line first, then points with one that was not measured and one below the axis's own end."""
    x = ("a", "b", "c", "d")
    axis = Axis(label="site", scale="category", categories=x, link="site")
    line = Mark(name="foretold", role="predicted", shape="line", x=x, y=(0.5, 0.5, 0.5, 0.5))
    said = ("first: 0.6", "second: not measured (the reader slept)", "third: 0.7", "fourth: 0.1")
    points = Mark(name="m", x=x, y=(0.6, None, 0.7, 0.1), said=said)
    one = Figure(
        id="gap",
        title="Gap",
        caption="A gap.",
        x=axis,
        y=Axis(label="y", low=0.3, high=1.0),
        marks=(line, points),
        rules=(Rule(axis="y", at=0.5, label="half"),),
        python="g",
    )
    return replace(several(), sections=(Section(id="s", title="S", question="Where?", blocks=(one,)),))


def test_what_was_not_measured_is_a_gap_that_says_why_and_nothing_is_drawn_where_it_is_not(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(write(gap(), assets()), encoding="utf-8")
    with Opened(browser, path.as_uri()) as opened:
        dots = opened.page.locator("figure svg g[aria-label='dot'] > *")
        dots.first.wait_for(state="attached")
        assert dots.count() == 3
        told = opened.page.locator(".told")
        opened.page.locator("figure").scroll_into_view_if_needed()
        for number, wanted in ((0, "first: 0.6"), (1, "third: 0.7"), (2, "fourth: 0.1")):  # a click tells the dot that it is on
            box = dots.nth(number).bounding_box()
            assert box is not None
            opened.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            assert told.inner_text() == wanted
        frame = opened.page.locator(".frame")
        frame.focus()
        opened.page.keyboard.press("End")
        opened.page.keyboard.press("ArrowLeft")
        opened.page.keyboard.press("ArrowLeft")
        assert told.inner_text() == "second: not measured (the reader slept)"
        opened.page.locator("details summary").click()
        assert "not measured" in opened.page.locator("details table").inner_text()
        with opened.page.expect_download() as got:
            opened.page.get_by_role("button", name="Save CSV").click()
        assert "m,b,,,,second: not measured (the reader slept)" in got.value.path().read_text(encoding="utf-8")
        assert opened.page.locator(".legend").inner_text().split() == ["foretold", "m", "half"]
        ticks = opened.page.locator("figure svg g[aria-label='y-axis tick label'] text").all_text_contents()
        assert min(map(float, ticks)) <= 0.1  # the axis goes down to the lowest point
        heights = [box["y"] for box in (dots.nth(number).bounding_box() for number in range(3)) if box]
        assert heights[2] > max(heights[:2]) and opened.said == []
