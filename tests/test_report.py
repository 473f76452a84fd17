"""The report: findings and nothing looser, a published shape, verdicts that follow from readings, pages that no text breaks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from markdown_it import MarkdownIt
from pydantic import ValidationError

import strandscope.report
from strandscope.errors import InputError
from strandscope.reading import Null, Reading
from strandscope.report import finding as f
from strandscope.report import table
from strandscope.report.effects import (
    AgainstEntry,
    CostEntry,
    EffectEntry,
    EffectTexts,
    PreflightEntry,
    ReadEntry,
)
from strandscope.report.erasure import ErasureEntry, LeakEntry, PlaceEntry
from strandscope.report.markdown import markdown
from strandscope.report.monitored import ConceptMonitorEntry, EvaluationLine, MonitorEntry, WatchedRow
from strandscope.report.text import curve_lines, fenced, plain, sparkline, visible
from strandscope.report.verdict import brief, concept_findings

HOSTILE = (
    "```\n# Owned\n~~~\n"
    + "<script>alert(1)</script> | a | [x](javascript:alert) ![i](http://x/y)\n- item\n\x1b[31mred \u202eevil\n---\n"
)


def auroc(value: float, low: float, high: float, p: float = 0.005) -> Reading:
    return Reading(value, low, high, 0.95, 240, "AUROC", Null(0.5, 0.4, 0.6, 0.95, 200, p, "permuted labels"), "nested")


def difference(low: float, high: float) -> Reading:
    return Reading((low + high) / 2, low, high, 0.95, 240, "AUROC difference", None, "paired")


def measured(name: str = "harm", p: float = 0.005, words: tuple[float, float] = (0.1, 0.3), text: str = "plain") -> f.Measured:
    decodable = auroc(0.8, 0.7, 0.9, p)
    bare = replace(decodable, null=None)
    data = f.Data(
        source=text,
        digest="d" * 64,
        rows=240,
        groups=24,
        kind="text",
        counts={text: 120, "other": 120},
        positive=text,
        template={},
    )
    strand = f.StrandEntry(
        file="strands/harm.safetensors", line=text, site="resid:1", position="last", rank=1, method="ridge", combined=("resid:1",)
    )
    points = tuple(
        f.Point(site=f"resid:{i}", reading=auroc(value, value - 0.05, value + 0.05)) for i, value in enumerate((0.55, 0.8, 0.7))
    )
    readings = f.Readings(
        decodable=decodable,
        best_site=decodable,
        words=bare,
        length=bare,
        beyond_words=difference(*words),
        beyond_length=difference(0.1, 0.2),
        detectable=replace(bare, value=0.62, low=0.61, high=0.63),
        examples_needed=Reading(200.0, 150.0, 260.0, 0.95, 240, "examples a class", None, "few-shot law"),
    )
    return f.Measured(
        name=name,
        question=f"Can {name} be read?",
        data=data,
        readings=readings,
        strand=strand,
        curve=f.Curve(points=points, band=0.63),
        choices=("resid:1 by ridge",),
        skipped=(),
    )


def pushes(text: str = "words", cost: float = 0.1) -> f.Pushes:
    scale = Reading(0.5, 0.4, 0.6, 0.95, 100, "classes' distances", None, "bisection")
    spent = Reading(cost, cost * 0.9, cost * 1.1, 0.95, 100, "nats per next token", None, "mean KL")
    doses = tuple(
        f.Push(
            along=along,
            site="resid:1",
            positions="all",
            target=0.1,
            scale=scale,
            cost=spent,
            rounding=spent,
            prompts=100,
            predicted=spent,
            edge=Reading.not_measured("no price", unit="lengths", method="none"),
            how="predicted and confirmed",
        )
        for along in ("toward", "away")
    )
    return f.Pushes(
        doses=doses, texts=(f.Texts(prompt=text, plain=text, pushed=dict.fromkeys(("toward", "away"), text)),), chat=True
    )


def meaning(text: str = "word") -> f.Meaning:
    row = f.TokenRow(id=text, text=text, label=text, score=1.0, why="highest", tokens=(text, " more"), values=(2.0, -1.0))
    word = f.Word(token=text, effect=3.0, beyond_null=False)
    return f.Meaning(examples=(row,), bound=2.5, promotes=(word,), suppresses=(word,), vocabulary_bound=4.0)


NOT = f.Unmeasured(reason="not detected")


def used(text: str = "why") -> f.UseEntry:
    null = Null(1.0, 0.4, 2.0, 0.95, 100, 0.01, "matched directions")
    look = Reading(3.0, 2.0, 4.0, 0.95, 64, "of matched directions'", null, "susceptibility")
    absent = Reading.not_measured(text, unit="nats per next token", method="ablation")
    readings = {"susceptibility": look, "beyond": look, "share": replace(look, level=None), "ablation": look}
    readings |= {"ablation_whole": look, "ablation_own": absent}
    return f.UseEntry(verdict="read and used", why=text, spread=0.1, agreement=0.7, times=2.0, nats=0.01, **readings)


def look(unit: str, value: float = 0.7) -> Reading:
    return Reading(value, value - 0.1, value + 0.1, 0.95, 64, unit, Null(0.5, 0.4, 0.6, 0.95, 19, 0.05, "permuted"), "by hand")


def erasure(text: str = "text") -> ErasureEntry:
    leak = LeakEntry(probe="linear", before=look("AUROC", 0.9), after=look("AUROC"), verdict="leaks", reason=text)
    readings = {name: look("nats") for name in ("less", "moved", "kl", "loss", "added", "needed")}
    return ErasureEntry(
        name=text, classes=(text, "b"), site=text, position="last", verdict="leaks", rank=1, shrinkages=(0.5,), how="given",
        file=text, places=(PlaceEntry(site=text, later=0, leaks=(leak,)), PlaceEntry(site=text, later=1, leaks=(leak,))),
        bound=72_828, fitted_rows=40, fitted_groups=8, certified_rows=40, certified_groups=8, permutations=19, seed=0,
        digest="0" * 64, fingerprint="a" * 64, **readings,  # type: ignore[arg-type]
    )  # fmt: skip


def effect(text: str = "text") -> EffectEntry:
    move = look("class distances")
    against = AgainstEntry(kind="matched", move=move, beyond=move, wrong=look("share"), quantiles=(move, move, move))
    read = ReadEntry(reader=text, told=text, auroc=look("AUROC"), against=(against,), instruction=move, reason="")
    cost = CostEntry(**{name: look("nats") for name in ("perplexity", "entropy", "accuracy", "repetition", "reply")})
    ahead = PreflightEntry(verdict="cannot tell", why=text, use=text, agreement=move, predicted=move, edge=move)
    said = EffectTexts(prompt=text, said={"plain": text, "pushed": text})
    return EffectEntry(
        site=text, positions="all", nats=0.3, cost_measured=0.3, prompts=60, topics=20, empty=0, reads=(read,), next_token=read,
        cost=cost, window=None, preflight=ahead, texts=(said,),
    )  # fmt: skip


def watched(text: str = "text") -> MonitorEntry:
    line = EvaluationLine(how=text, auroc=look("AUROC"), recall=look("share"))
    one = ConceptMonitorEntry(
        concept=text, positive=text, sites=(text,), threshold=1.0, recall=look("share"), others=look("share"),
        error=look("calibration error"), slope=1.0, intercept=0.0, evaluation=(line,),
    )  # fmt: skip
    return MonitorEntry(
        aggregation="max", skip=0, template={"description": text}, fingerprint="a" * 64, rate=0.01, confidence=0.95, order=1,
        sequences=300, rows=300, false_alarms=look("share"), concepts=(one,),
        examples=(WatchedRow(id=text, label=text, concept=text, tokens=(text, text), values=(0.2, 1.3)),),
    )  # fmt: skip


def report(text: str = "text", mode: str = "full", **more: object) -> f.Report:
    one = measured(text=text)
    behind = f.ConceptEntry(
        name=one.name,
        data=one.data,
        strand=one.strand,
        curve=one.curve,
        choices=(),
        skipped=(),
        meaning=meaning(text),
        use=used(text),
        steering=pushes(text),
        effect=effect(text),
        erasure=erasure(text),
    )
    anatomy = f.Anatomy(family=text, blocks=3, width=8, sites=("resid",))
    lines = (f.Line(name="idle", status="passed", detail=text),)
    provenance = f.Provenance(
        versions={"strandscope": "0"},
        seed=0,
        permutations=200,
        command=text,
        date="2026-01-01",
        mode=mode,  # type: ignore[arg-type]
        resumed=(text,),
        limits=(text,),
    )
    return f.Report(
        subject=f.SubjectEntry(
            name=text,
            source={"what": text},
            fingerprint="a" * 64,
            dtype="bfloat16",
            device="cpu",
            anatomy=anatomy,
            selfcheck=lines,
        ),
        certificate=f.Certificate(status="not measured", reason="not calibrated"),
        findings=concept_findings(one, 0.005, 1, used(text), pushes(text), effect(text), erasure(text)),
        concepts=(behind,),
        census=f.Unmeasured(reason=text),
        monitor=watched(text),
        provenance=provenance,
        **more,  # type: ignore[arg-type]
    )


def test_the_table_says_below_it_what_could_have_been_detected_where_nothing_was() -> None:
    made = report()
    assert "not detected" not in str(table.lines(made))
    absent = replace(made, findings=concept_findings(measured(p=0.4), 0.4, 1, NOT, NOT, NOT, NOT))
    assert table.lines(absent)[-2:] == [
        "",
        "harm was not detected: these 240 rows would have shown an AUROC from 0.62 [0.61, 0.63] on (power 0.8, asked alone)",
    ]
    few = measured(p=0.4)
    none = Reading.not_measured("so few rows would have detected none", unit="AUROC", method="power")
    few = replace(few, readings=replace(few.readings, detectable=none))
    short = replace(made, findings=concept_findings(few, 0.4, 1, NOT, NOT, NOT, NOT))
    assert table.lines(short)[-1] == "harm was not detected: so few rows would have detected none"


def test_published_schema_is_that_of_the_models_and_a_report_conforms() -> None:
    published = Path(strandscope.report.__file__).with_name("schema.json")
    assert published.read_text(encoding="utf-8") == f.schema_text()
    made = json.loads(json.dumps(f.as_json(report(HOSTILE)), allow_nan=False))
    jsonschema.Draft202012Validator(json.loads(f.schema_text())).validate(made)
    assert list(made) == ["schema", "subject", "certificate", "findings", "concepts", "census", "monitor", "provenance"]
    assert set(made["findings"][0]) == {"id", "question", "verdict", "reading", "detail"}
    assert set(made["findings"][0]["reading"]) == {
        "value", "low", "high", "level", "n", "unit", "null", "method", "status", "reason",
    }  # fmt: skip
    assert f.from_json(f.Report, json.dumps(made), "report.json") == report(HOSTILE)


def test_a_report_accepts_nothing_but_findings() -> None:
    with pytest.raises(ValidationError):
        f.Finding(id="harm.decodable", question="q", verdict="v", reading=0.8)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        f.Finding(id="decodable", question="q", verdict="v", reading=auroc(0.8, 0.7, 0.9))
    good = f.as_json(report())
    for spoil in (
        lambda made: made["findings"].append("harm was found"),
        lambda made: made["findings"][0].update(note="unasked"),
        lambda made: made["findings"][0]["reading"].update(low=0.95),
        lambda made: made["findings"][0]["reading"].update(value=None),
        lambda made: made.update(schema="strandscope/report/2"),
    ):
        made = json.loads(json.dumps(good))
        spoil(made)
        with pytest.raises(InputError, match=r"report\.json: "):
            f.from_json(f.Report, json.dumps(made), "report.json")


def found(p: float, corrected: float, concepts: int = 6, **more: object) -> dict[str, f.Finding]:
    made = concept_findings(measured(p=p, **more), corrected, concepts, used(), pushes(), NOT, NOT)  # type: ignore[arg-type]
    return {one.id: one for one in made}


def test_the_corrected_p_decides_and_a_miss_says_what_would_have_been_seen() -> None:
    assert [one.rpartition(".")[2] for one in found(0.005, 0.03)] == [
        "decodable", "best_site", "words", "length", "beyond_words", "beyond_length", "detectable", "examples_needed",
        "used", "steer", "effect", "erasable",
    ]  # fmt: skip
    here = found(0.005, 0.03)["harm.decodable"]
    assert here.verdict == "detected" and "0.03" in here.detail and "6 concepts" in here.detail
    missed = found(0.02, 0.12)["harm.decodable"]
    assert missed.verdict == "not detected"
    assert (
        "The smallest AUROC that these 240 rows would have called detected with power 0.8 is 0.62 [0.61, 0.63]." in missed.detail
    )
    untested = concept_findings(measured(), None, 1, used(), pushes(), NOT, NOT)[0]
    assert untested.verdict == "not tested"


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.01, 0.2), "knows beyond the words"), ((-0.2, -0.01), "less than the words"), ((-0.1, 0.1), "no difference shown"),
     ((0.0, 0.1), "no difference shown")],
)  # fmt: skip
def test_beyond_words_needs_an_interval_that_excludes_zero(interval: tuple[float, float], verdict: str) -> None:
    assert found(0.005, 0.005, words=interval)["harm.beyond_words"].verdict == verdict


def test_a_push_is_priced_and_not_scored() -> None:
    here = found(0.005, 0.005)["harm.steer"]
    assert here.verdict == "moved at 0.1 nats; read the texts" and here.reading.unit == "nats per next token"
    assert "effect: not measured (texts only)" in here.detail
    without = concept_findings(measured(), 0.005, 1, NOT, f.Unmeasured(reason="it was not asked for"), NOT, NOT)[-3]
    assert without.verdict == "not measured" and without.reading.reason == "it was not asked for"


def test_hostile_text_stays_text_in_the_page() -> None:
    """Same headings, tables and lists as with harmless text; every hostile line inside a fence; no HTML, links or images."""
    parser = MarkdownIt("commonmark").enable("table")
    calm, hostile = (parser.parse(markdown(report(text))) for text in ("calm", HOSTILE))
    # A list item or a table cell holds escaped text; the structure of the page is the same whatever the text is.
    assert [token.type for token in hostile] == [token.type for token in calm]
    inside = [child.type for token in hostile for child in token.children or []]
    assert not {"html_inline", "link_open", "image"} & set(inside)
    fences = [token.content for token in hostile if token.type == "fence"]
    shown = visible(HOSTILE) + "\n"
    assert fences.count(shown) == 7  # one prompt, three texts of a push; one prompt, two texts of its effect
    page = markdown(report(HOSTILE))
    assert "\x1b" not in page and "\u202e" not in page and "\\x1b[31mred \\u202eevil" in page


@pytest.mark.parametrize(
    "text",
    [
        "",
        "`",
        "a\n````\nb",
        "~~~",
        "<b>",
        "1. one",
        "    indented",
        "| a |",
        "&amp; &copy;",
        "*a* _b_",
        "a  \nb",
        "- a",
        "12) a",
        "# a",
        "===",
        "+ b",
    ],
)
def test_escapes_give_the_text_back(text: str) -> None:
    parser = MarkdownIt("commonmark")
    (block,) = parser.parse(fenced(text))
    assert block.type == "fence" and block.content == text + "\n"
    line = visible(text, lines=False).strip()
    for before in ("x ", "- ", "| "):
        tokens = parser.parse(f"{before}{plain(text)}x")
        assert not {"heading_open", "ordered_list_open", "hr"} & {token.type for token in tokens}
        assert "".join(child.content for token in tokens for child in token.children or []).endswith(f"{line}x")


def test_invisible_characters_are_written_out() -> None:
    assert visible("a\x1b]0;t\x07b\u202ec\u2028d\te\n") == "a\\x1b]0;t\\x07b\\u202ec\\u2028d\te\n"
    assert visible("a\nb", lines=False) == "a\\nb"
    assert visible("naïve – “ñ” 🎉") == "naïve – “ñ” 🎉"


def test_table_holds_what_a_reader_needs_and_quick_is_said_everywhere() -> None:
    (row,) = table.rows(report())
    assert row == (
        "harm",
        "detected",
        "0.80 [0.70, 0.90]",
        "0.50 [0.40, 0.60]",
        "resid:1",
        "+0.20 [0.10, 0.30]",
        "used",
        "0.1 nats",
    )
    quick = report(mode="quick")
    assert "QUICK" in table.headline(quick) and "**Quick audit**" in markdown(quick) and "mode: quick" in markdown(quick)
    assert "QUICK" not in table.headline(report()) and "Quick audit" not in markdown(report())


def test_curve_is_drawn_where_its_figures_are() -> None:
    curve = measured().curve
    assert sparkline(curve.points) == "▂▅▄"
    lines = curve_lines(curve, width=71, low=0.3, high=1.0)  # a column is 0.01
    start = lines[1].index("─")
    assert lines[1].index("●") - start == 5 and lines[1][start:].count("─") == 10
    assert lines[2].index("●") - lines[1].index("●") == 25
    assert lines[3].index("┊") - lines[1].index("●") == 8 and "0.630 in 5 %" in lines[-1]


def test_brief_shows_the_interval() -> None:
    assert brief(auroc(0.9993, 0.9984, 1.0)) == "0.999 [0.998, 1.000]"
    assert brief(Reading.not_measured("why", unit="u", method="m")) == "not measured"


@pytest.mark.parametrize(("needed", "verdict"), [(100.0, "enough"), (400.0, "too few"), (None, "not measured")])
def test_examples_that_are_there_are_held_against_those_that_are_needed(needed: float | None, verdict: str) -> None:
    one = measured()
    reading = Reading.not_measured("the pilot cannot tell", unit="examples a class", method="few-shot law")
    if needed is not None:
        reading = replace(one.readings.examples_needed, value=needed, low=needed, high=needed)
    one = replace(one, readings=replace(one.readings, examples_needed=reading))
    made = {each.id: each.verdict for each in concept_findings(one, 0.005, 1, NOT, NOT, NOT, NOT)}
    assert made["harm.examples_needed"] == verdict


def test_what_was_erased_moved_and_watched_is_in_findings_and_page() -> None:
    made = report()
    assert made.finding("harm.erasable").verdict == "leaks" and made.finding("harm.erasable").reading == look("AUROC")
    assert made.finding("harm.effect").verdict == "moves the texts"
    page = markdown(made)
    assert "## Erasure" in page and "### The effect on generated text" in page and "## Monitor" in page
    unasked = f.Unmeasured(reason="nobody asked")
    behind = replace(made.concepts[0], effect=unasked, erasure=unasked)
    bare = markdown(replace(made, concepts=(behind,), monitor=unasked))
    assert bare.count("Not measured: nobody asked.") == 2 and "harm: not measured (nobody asked)." in bare
    none = concept_findings(measured(), 0.005, 1, NOT, NOT, unasked, unasked)
    assert [found.verdict for found in none[-2:]] == ["not measured", "not measured"]
    assert all(found.reading.reason == "nobody asked" for found in none[-2:])
