"""report.html as a file: what is on it without a script, what its policy allows, and that no text can be anything but text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest

import strandscope.report.page
from hostile import STRINGS
from strandscope.errors import InputError
from strandscope.reading import Reading
from strandscope.report.page.build import page
from strandscope.report.page.html import NOT_BUILT, Assets, _tokens, embedded, html, write
from strandscope.report.page.spec import Figure, Mark, NotMeasured, Page, Table, Tokens, schema_text
from strandscope.report.record import as_json
from test_report import report

BUILT = Assets("console.log('the page')", "p{color:red}", ("sha256-x",))


class Read(HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(one == tag for one, _ in self.tags)


def test_the_published_schema_is_that_of_the_page_and_a_page_conforms() -> None:
    published = Path(strandscope.report.page.__file__).with_name("page.schema.json")
    assert published.read_text(encoding="utf-8") == schema_text()
    made = json.loads(json.dumps(as_json(page(report("text"))), allow_nan=False))
    jsonschema.Draft202012Validator(json.loads(schema_text())).validate(made)


def test_everything_is_there_without_a_script() -> None:
    made = page(report("some words"))
    read = Read(write(made, BUILT))
    text = " ".join(read.text)
    for section in made.sections:
        assert section.title in text and section.question in text
        for block in section.blocks:
            if isinstance(block, Table):
                for row in block.rows:
                    assert all(cell in text for cell in row)
            if isinstance(block, Figure):
                assert block.caption in text
    assert "harm: detected" in text and "0.80 [0.70, 0.90] AUROC" in text and "permuted labels" in text
    assert read.count("h1") == 1 and read.count("main") == 1


def test_tokens_far_below_are_marked_only_where_both_sides_count() -> None:
    tokens = {"tokens": ("low", "mid", "high"), "values": (-9.0, 0.1, 9.0), "bound": 1.0, "step": 1.0}
    both, above = (
        _tokens(Tokens(id="t", example="e", title="T", beyond="out there", above=side, **tokens)) for side in (False, True)
    )
    assert "Tokens out there: low (-9.0), high (+9.0)." in both
    assert "Tokens out there: high (+9.0)." in above


def test_what_was_not_measured_says_so_and_why() -> None:
    made = page(report("nobody asked"))
    assert "census (nobody asked)" in made.unmeasured and "certificate (not calibrated)" in made.unmeasured
    blocks = [block for section in made.sections for block in section.blocks if isinstance(block, NotMeasured)]
    assert {"Census", "Certificate of the estimators"} <= {block.what for block in blocks}
    none = Reading.not_measured("the reader slept", unit="AUROC", method="m")
    whole = report()
    findings = tuple(
        replace(one, reading=none, verdict="not tested") if one.id == "harm.decodable" else one for one in whole.findings
    )
    card = page(replace(whole, findings=findings)).cards[0]
    assert card.tone == "not measured" and card.facts[0].status == "not measured"
    assert card.facts[0].value == "not measured: the reader slept"


def test_the_policy_names_the_script_and_the_style_and_allows_no_connection() -> None:
    text = write(page(report()), BUILT)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    for inner in (BUILT.script, BUILT.style):
        assert base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode() in policy[1] and inner in text
    assert "default-src 'none'" in policy[1] and "connect-src" not in policy[1] and "'sha256-x'" in policy[1]
    assert "unsafe" not in policy[1] and "http" not in policy[1]
    attributes = {name for _, attrs in Read(text).tags for name in attrs}
    assert not {name for name in attrs_of(text) if name.startswith("on") or name in ("style", "src")} and "id" in attributes


def attrs_of(text: str) -> set[str]:
    return {name for _, attrs in Read(text).tags for name in attrs}


def test_a_build_that_would_close_its_own_block_is_refused() -> None:
    with pytest.raises(InputError, match="closing tag"):
        write(page(report()), Assets("'</script>'", "", ()))


def test_without_the_build_the_page_says_so_and_has_no_script() -> None:
    text = write(page(report()), None)
    assert NOT_BUILT in " ".join(Read(text).text) and "<script" not in text and "script-src" not in text


@pytest.mark.parametrize("start", range(0, len(STRINGS), 30))
def test_no_text_in_any_field_becomes_markup(start: int) -> None:
    """The same tags, whatever the texts are, and each text there to be read."""
    wanted = [tag for tag, _ in Read(write(page(report("x")), BUILT)).tags]
    for text in STRINGS[start : start + 30]:
        text = text or "nothing"  # a reason that says nothing is refused where it is made
        made = write(page(report(text)), BUILT)
        read = Read(made)
        assert [tag for tag, _ in read.tags] == wanted, text
        assert made.count("</script") == 2 and not any(c in made for c in "\u2028\u2029\u202e\x1b\x00\ufeff"), text


def test_embedded_json_is_the_same_value_and_ends_no_block() -> None:
    value = {"a": "</script><!--&\u2028\u2029", "b": [1.5, None, "é"]}
    text = embedded(value)
    assert json.loads(text) == value and not set("<>&\u2028\u2029") & set(text)
    with pytest.raises(ValueError, match="JSON compliant"):
        embedded(float("nan"))


def test_the_python_line_of_every_figure_gives_its_figures(tmp_path: Path) -> None:
    """Run as it stands, with report.json read; names are quoted so that none can leave its quotes."""
    whole = report("x")
    name = 'harm"); import os; ("'
    behind = tuple(replace(entry, name=name) for entry in whole.concepts)
    findings = tuple(replace(one, id=one.id.replace("harm", name)) for one in whole.findings)
    whole = replace(whole, concepts=behind, findings=findings)
    space = {"report": json.loads(json.dumps(as_json(whole)))}
    lines = [block.python for section in page(whole).sections for block in section.blocks if isinstance(block, Figure)]
    assert len(lines) >= 5
    for line in lines:
        assert eval(line, {"__builtins__": {}}, space), line


def test_marks_have_as_many_of_each() -> None:
    with pytest.raises(ValueError, match="as many"):
        Mark(name="m", x=(1.0, 2.0), y=(1.0,))


def test_the_whole_file_is_small() -> None:
    assert len(html(report())) < 1_500_000
    assert isinstance(page(report()), Page)
