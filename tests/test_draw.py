"""Figures as pictures: what stands in them, that no text is anything but text, and reports read back to draw them again."""

from __future__ import annotations

import json
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from hostile import STRINGS
from strandscope.cli.main import main
from strandscope.errors import InputError, MissingError
from strandscope.io import write_json
from strandscope.laws.figure import Figure as LawFigure
from strandscope.laws.figure import Series
from strandscope.report import draw
from strandscope.report.finding import Report
from strandscope.report.page.law import law_figure
from strandscope.report.page.spec import Axis, Band, Figure, Mark, Rule
from strandscope.report.record import as_json
from test_report import report

PAGE = Path(__file__).parents[1] / "web" / "src" / "page.css"
SVG = "{http://www.w3.org/2000/svg}"


def figure(name: str = "spanish", **more: Any) -> Figure:
    given: dict[str, Any] = {
        "id": "curve",
        "title": "Where it is read",
        "caption": "Two of three sites.",
        "x": Axis(label="site", scale="category", categories=("resid:0", "resid:1", "resid:2"), link="site"),
        "y": Axis(label="AUROC", unit="share", low=0.0, high=1.0),
        "marks": (
            Mark(name=name, x=("resid:0", "resid:2"), y=(0.6, 0.9), low=(0.5, 0.8), high=(0.7, 0.95)),
            Mark(name="null", role="null", x=("resid:0", "resid:1"), y=(0.5, None)),
        ),
        "rules": (Rule(axis="y", at=0.5, label="chance"),),
        "bands": (Band(low=0.4, high=0.6, label="by luck"),),
        "python": "report",
    }
    return Figure(**(given | more))


def texts(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_a_picture_has_every_name_and_the_same_data_give_the_same_file() -> None:
    drawn = figure().svg()
    assert drawn == figure().svg()
    said = texts(drawn)
    for word in ("Where it is read", "site", "AUROC (share)", "spanish", "null", "chance", "by luck", "resid:1"):
        assert word in said
    assert "Two of three sites." in drawn and "<script" not in drawn


def test_another_point_gives_another_picture() -> None:
    moved = replace(figure().marks[0], y=(0.6, 0.7))
    assert figure(marks=(moved, figure().marks[1])).svg() != figure().svg()


def test_no_text_is_mathematics_or_markup_and_none_is_left_out() -> None:
    for name in ("$x^2$", "_hidden", "</svg><script>alert(1)</script>", "a\nb", "\x00\u202e"):
        svg = figure(name).svg()
        shown = name.replace("\n", "\\n").replace("\x00", "\\x00").replace("\u202e", "\\u202e")
        assert shown in texts(svg), name
        assert "<script" not in svg


def test_hostile_texts_everywhere_leave_a_whole_picture_without_a_script() -> None:
    for text in STRINGS[::6]:
        axis = Axis(label=text, unit=text, scale="category", categories=(text, text + "2"))
        marks = (Mark(name=text, x=(text,), y=(1.0,)), Mark(name=text, x=(text,), y=(2.0,)))
        held = figure(title=text, caption=text, x=axis, marks=marks, rules=(Rule(axis="y", at=1.0, label=text),), bands=())
        root = ElementTree.fromstring(held.svg())
        assert not [one for one in root.iter() if one.tag.rpartition("}")[2] in ("script", "foreignObject", "a", "image")]
        page = held._repr_html_()
        assert "<script" not in page and page.count("<svg") == 1


def test_gaps_zeros_and_nothing_at_all_are_drawn_on_logarithms() -> None:
    axes = {"x": Axis(label="n", scale="log"), "y": Axis(label="cost", scale="log"), "bands": ()}
    x = (1.0, 10.0, 100.0)
    for y, low, high in (
        ((0.1, 1.0, 10.0), (0.0, 0.5, 5.0), (0.2, 2.0, 20.0)),
        ((None, 0.0, 1.0), (None, 0.0, 0.5), (None, 0.0, 2.0)),
        ((None, None, None), (), ()),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            svg = figure(marks=(Mark(name="one", x=x, y=y, low=low, high=high),), rules=(), **axes).svg()
        assert "$" not in svg and "mathdefault" not in svg
        assert y[2] is None or any(re.fullmatch(r"[\d.]+", one) for one in texts(svg))


def test_a_file_is_what_its_ending_says(tmp_path: Path) -> None:
    figure().save(tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    figure().save(tmp_path / "one.svg")
    assert (tmp_path / "one.svg").read_text() == figure().svg()
    with pytest.raises(InputError, match=r"ends in \.svg or \.png"):
        figure().save(tmp_path / "one.pdf")


def test_without_matplotlib_a_file_is_refused_and_a_notebook_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingError, match=r"strandscope\[figures\]"):
        figure().save(tmp_path / "one.svg")
    page = figure(caption="<b>what</b>")._repr_html_()
    assert "strandscope[figures]" in page and "&lt;b&gt;what" in page and list(tmp_path.iterdir()) == []


def test_nothing_of_the_user_s_settings_is_changed() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure().svg()
    assert dict(matplotlib.rcParams) == before


def test_the_colours_are_those_of_the_page() -> None:
    light = PAGE.read_text(encoding="utf-8").partition("@media")[0]
    named = dict(re.findall(r"--(\w+): (#\w+);", light))
    held = draw.COLOURS | {"ink": draw.INK, "shade": draw.SHADE, "quiet": draw.QUIET}
    assert held == {name: named[name] for name in held}


@pytest.mark.parametrize(
    ("value", "said"), [(1000, "1000"), (0.02, "0.02"), (1e6, "1e6"), (2e-7, "2e-7"), (1e12, "1e12"), (1e-10, "1e-10")]
)
def test_ticks_are_short(value: float, said: str) -> None:
    assert draw._plain(value) == said


# --- laws ---


def test_a_law_s_figure_has_predictions_as_lines_and_measurements_as_points() -> None:
    series = (
        Series.of("theory", "predicted", [1, 2], [1, 2]),
        Series.of("seen", "measured", [1, 2], [1, 2], [0.9, 1.8], [1.1, 2.2]),
        Series.of("also seen", "measured", [1, 2], [1, 3]),
        Series.of("a curve", "measured", range(100), range(100)),
        Series.of("here and there", "guide", [3, 1, 2], [1, 2, 3]),
        Series.of("bound", "guide", [0, 99], [3, 3]),
        Series.of("wrong", "control", [1], [3]),
    )
    made = law_figure("price of a push", LawFigure.of("Title", "c (1)", "cost (nats)", series, "log y"))
    assert [(one.name, one.role, one.shape) for one in made.marks] == [
        ("theory", "predicted", "line"), ("seen", "first", "points"), ("also seen", "second", "points"),
        ("a curve", "third", "line"), ("here and there", "null", "points"), ("wrong", "control", "points"),
    ]  # fmt: skip
    assert [(one.at, one.label) for one in made.rules] == [(3, "bound")]
    assert (made.x.scale, made.y.scale, made.marks[1].low) == ("linear", "log", (0.9, 1.8))
    assert "bound" in texts(made.svg())


# --- a report read back ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json(tmp_path / "audit" / "report.json", as_json(report("text")))
    return tmp_path / "audit"


def test_a_report_is_read_from_its_folder_or_file_and_has_its_figures(folder: Path) -> None:
    read = Report.load(folder)
    assert read == report("text") == Report.load(folder / "report.json")
    assert "curve-harm" in read.figures and all(one.id == name for name, one in read.figures.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "strandscope/report/2"}, "report.json: holds 'strandscope/report/2'.*update strandscope"),
        ({"schema": "strandscope/page/1"}, "wanted|name the report.json"),
        ({"schema": None}, "holds 'None'"),
        ({"more": 1}, "more"),
    ],
)
def test_another_schema_is_a_sentence(folder: Path, change: dict[str, Any], said: str) -> None:
    held = json.loads((folder / "report.json").read_text())
    write_json(folder / "report.json", held | change)
    with pytest.raises(InputError, match=said):
        Report.load(folder)


def test_the_command_writes_the_page_again_and_the_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "harm: detected" in page
    (folder / "report.html").unlink()
    assert main(["report", str(folder), "--figures", str(folder / "figures")]) == 0
    drawn = sorted(path.name for path in (folder / "figures").iterdir())
    assert drawn == sorted(f"{name}.svg" for name in Report.load(folder).figures)
    assert not (folder / "report.html").exists() and f"{len(drawn)} pictures" in capsys.readouterr().err


def test_the_command_says_what_is_wrong(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    for words, code, said in (
        ([str(tmp_path / "none")], 3, "there is no such file"),
        ([str(folder), "--figures", str(tmp_path / "file")], 3, "cannot write"),
        ([str(folder), "--out", str(tmp_path / "file" / "page.html")], 3, "cannot write"),
        ([str(folder), "--format", "png"], 2, "goes with --figures"),
    ):
        assert main(["report", *words]) == code
        shown = capsys.readouterr().err
        assert said in shown and "Traceback" not in shown
