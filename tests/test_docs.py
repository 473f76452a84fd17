"""The documentation is true: its links lead somewhere, its commands exist, and its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from strandscope.capture.examples import Examples
from strandscope.cli.main import cli
from strandscope.control import holding
from strandscope.laws.catalogue.registry import ENTRIES
from strandscope.monitor import monitor

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
PAGES = [page for page in PAGES if ".venv" not in page.parts]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_make_targets_that_the_pages_name_exist() -> None:
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        target for page in PAGES for block in blocks(page, "sh") for target in re.findall(r"^make (\w+)", block, re.MULTILINE)
    }
    assert {"audit", "test", "check", "bench"} <= made
    assert named and named <= made
    assert set(re.findall(r"step make (\w+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))) <= made


def test_commands_and_options_that_the_readme_names_exist() -> None:
    lines = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines() if line.startswith("strandscope ")]
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line)
        command: click.Command = cli
        for word in words[1:]:
            if not isinstance(command, click.Group):
                break
            command = command.commands[word]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_law_has_its_page_with_the_last_run() -> None:
    index = (ROOT / "docs" / "laws" / "README.md").read_text(encoding="utf-8")
    for entry in ENTRIES:
        (page,) = re.findall(rf"\[{re.escape(entry.name)}\]\(([^)]+)\)", index)
        text = (ROOT / "docs" / "laws" / page).read_text(encoding="utf-8")
        assert entry.law.formula in text and entry.about in text and entry.control in text and "**Last run**" in text


def test_the_readme_opens_with_the_two_commands() -> None:
    first = blocks(ROOT / "README.md", "sh")[0]
    assert [line.split("  ")[0] for line in first.splitlines()] == ["make audit", "make test"]


@pytest.mark.real
def test_the_readme_s_python_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As it stands there, one block after the other; on fewer prompts and benign sequences, which it does not name."""
    monkeypatch.chdir(tmp_path)
    plain, whole = holding.Benches, monitor.project_benign
    monkeypatch.setattr(holding, "Benches", lambda subject: plain(subject, prompts=16, replies=4))
    monkeypatch.setattr(monitor, "project_benign", lambda chats: one_a_group(whole(chats), 70))
    space: dict[str, Any] = {}
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), space)  # noqa: S102
    printed = capsys.readouterr().out
    assert "nats per next token" in printed and "share of sequences" in printed
    assert "AUROC" in printed and "sentiment at resid:" in printed and "of 20% allowed" in printed


def one_a_group(rows: Examples, groups: int) -> Examples:
    """The shortest row of each of so many groups."""
    shortest: dict[int, int] = {}
    for number, (group, row) in enumerate(zip(rows.groups.tolist(), rows.rows, strict=True)):
        if group not in shortest or len(str(row.input)) < len(str(rows.rows[shortest[group]].input)):
            shortest[group] = number
    return rows.subset(sorted(shortest.values())[:groups])
