"""The page about the recorder: its loop runs as it stands there, shows features forming, and is the README's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_loop_runs_shows_features_forming_and_has_the_losses_of_the_same_loop_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    watched, plain = blocks("docs/recorder.md")[0], []
    for line in watched.splitlines():
        if "recorder.read()" not in line:
            plain.append(
                "if True:"
                if "ss.Recorder(" in line
                else line.replace("recorder.step(loss=loss)", "losses.append(float(loss.detach()))")
            )
    assert watched.count("ecorder") == 4 and len(watched.splitlines()) <= 20
    space: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(watched, "docs/recorder.md", "exec"), space)  # noqa: S102
    run, without = space["recorder"].read(), {"losses": []}
    torch.manual_seed(0)
    exec(compile("\n".join(plain).replace("range(4000)", "range(1000)"), "without", "exec"), without)  # noqa: S102
    assert [loss for _, loss in run.losses][:1000] == without["losses"] and len(run.losses) == 4000
    printed = capsys.readouterr().out
    assert "share along the last 4" in printed and "of the training time, of 20% allowed" in printed
    aligned = run.alignment("input")
    assert aligned[0].high < 0.2 and aligned[-1].low > 0.6  # strands form
    assert run.emergence("input").status == ("measured" if len(run.records) > 2 else "not measured")


def test_the_readme_s_loop_is_that_of_the_page() -> None:
    shown = [block for block in blocks("README.md") if "Recorder(" in block]
    assert shown in ([], [blocks("docs/recorder.md")[0]])
