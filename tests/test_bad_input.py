"""Bad input, from the command line: one sentence, the exit code of the design, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import strandscope as ss
import tiny_audit
import tiny_chat
from strandscope.cli import options
from strandscope.cli.main import main
from strandscope.report import stages

Made = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def quick_push(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "trial", tiny_audit.trial)
    monkeypatch.setattr(stages, "certificate", tiny_audit.certificate)
    monkeypatch.setattr(stages, "use", tiny_audit.use)
    monkeypatch.setattr(stages, "certify", tiny_audit.certify)


def refused(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with this code and, on stderr, one sentence that says this; stdout stays empty."""
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert shown.out == "" and "Traceback" not in shown.err
    errors = [line for line in shown.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and said in errors[0], shown.err
    assert shown.err.rstrip().endswith(errors[0])


def text(*rows: dict[str, Any] | str) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


GOOD = tiny_chat.rows()
FILES: dict[str, tuple[str | bytes, str]] = {
    "an empty file": ("", "data.jsonl: the file has no rows"),
    "blank lines only": ("\n\n", "data.jsonl: the file has no rows"),
    "one class only": (text(*[{**row, "label": 1} for row in GOOD]), "one class only"),
    "a missing label": (text(*GOOD[:16], {"text": "no label here"}, *GOOD[17:]), 'data.jsonl:17: missing "label"'),
    "a line that is not JSON": (text(*GOOD[:4], "{not json", *GOOD[4:]), "data.jsonl:5: not JSON"),
    "not UTF-8": (text(*GOOD[:2]).encode() + b'{"text": "caf\xe9", "label": 1}\n', "data.jsonl:3: not UTF-8"),
    "half a character": (text(*GOOD[:3], '{"text": "a \\ud800", "label": 1}', *GOOD[3:]), "data.jsonl:4: 'text' holds half"),
    "objects without end": (text(*GOOD[:3], '{"text": ' * 100_000, *GOOD[3:]), "data.jsonl:4: objects nested too deeply"),
    "fewer groups than folds": (text(*[{**row, "group": f"g{i % 3}"} for i, row in enumerate(GOOD)]), "3 groups for 5 folds"),
    "a class with fewer than ten rows": (
        text(*[row for i, row in enumerate(GOOD) if i % 2 == 0 or i < 12]),
        "class 1 has 6 rows",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_used(name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, said = FILES[name]
    data = tmp_path / "data.jsonl"
    data.write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in (["audit", "--out", str(tmp_path / "out")], ["find", "--out", str(tmp_path / "strand.safetensors")]):
        refused([command[0], str(model), "--concept", str(data), *command[1:]], 2, said, capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl"]


def test_labels_that_change_between_files(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = tiny_chat.write_jsonl(tmp_path / "first.jsonl", GOOD)
    second = tiny_chat.write_jsonl(tmp_path / "second.jsonl", [{**row, "label": "yes" if row["label"] else "no"} for row in GOOD])
    refused(["find", str(model), "--concept", f"{first},{second}"], 2, "second.jsonl", capsys)


def test_a_text_longer_than_the_context(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = tiny_chat.write_jsonl(
        tmp_path / "long.jsonl", [*GOOD, {"id": "endless", "text": "a" * 2000, "label": 1, "group": "g0"}]
    )
    refused(["find", str(model), "--concept", str(long)], 2, "endless", capsys)


def test_concepts_that_are_not_there(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["find", str(model), "--concept", "spannish"], 2, "did you mean spanish?", capsys)
    refused(["find", str(model), "--concept", str(tmp_path / "none.jsonl")], 3, "there is no such file", capsys)
    refused(["find", str(model), "--concept", "neutral"], 2, 'no row has a "label"', capsys)
    told = str(tiny_chat.write_jsonl(tmp_path / "told.jsonl", GOOD))
    refused(
        ["audit", str(model), "--concept", told, "--concept", told, "--out", str(tmp_path / "out")],
        2,
        "concept 'told': given twice",
        capsys,
    )
    assert not (tmp_path / "out").exists()


def test_a_strand_that_could_not_be_saved_is_told_before_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = tiny_chat.write_jsonl(tmp_path / "told.jsonl", GOOD)
    nothing = str(tmp_path / "no-such-model")
    command = ["find", nothing, "--concept", str(told), "--out"]
    refused([*command, str(tmp_path / "made.txt")], 2, "wanted a file name that ends in .safetensors", capsys)
    there, below = tmp_path / "there.safetensors", told / "x.safetensors"
    there.mkdir()
    for out, why in ((there, "there is a folder of that name"), (below, "Not a directory")):
        refused([*command, str(out)], 3, f"cannot write {out}: {why}", capsys)
    refused([*command, str(tmp_path / "new" / "x.safetensors")], 3, f"{nothing}: there is no such model", capsys)
    assert not (tmp_path / "new").exists()
    refused(["audit", *command[1:], str(told)], 3, f"cannot write {told / 'report.json'}: Not a directory", capsys)
    refused(
        [*command[:-1], "--permutations", "18"],
        2,
        "permutations: got 18, wanted at least 19 (fewer can never show p = 0.05), or 0",
        capsys,
    )


@pytest.mark.parametrize(
    ("site", "said"), [("resid:99", "resid:99"), ("layer12", "is not understood"), ("resid:2-9", "blocks 0 to 3")]
)
def test_an_unknown_site(site: str, said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = tiny_chat.write_jsonl(tmp_path / "told.jsonl", GOOD)
    refused(["find", str(model), "--concept", str(told), "--at", site], 2, said, capsys)


def test_models_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # what --offline sets is put back after the test
    refused(["doctor", "nobody/no-such-model", "--offline"], 3, "this run is offline", capsys)
    refused(["doctor", str(tmp_path / "nothing")], 3, "there is no such model folder", capsys)
    refused(["doctor", str(tmp_path)], 2, "holds no config.json", capsys)


def test_a_truncated_model(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(["doctor", str(folder)], 2, "safetensors", capsys)
    file = tmp_path / "cut.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\x00" * 20)
    refused(["doctor", str(file)], 2, "cut.gguf", capsys)


@pytest.fixture
def strand(model: Path, tmp_path: Path) -> Path:
    file = tmp_path / "told.safetensors"
    ss.find(ss.capture(ss.load(model), ss.Examples.from_rows(GOOD, name="told")), permutations=0).best.save(file)
    return file


def test_strands_that_cannot_be_used(model: Path, strand: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(strand.read_bytes()[:-10])
    refused(["steer", str(model), str(cut), "hello"], 2, "cut.safetensors: not a whole safetensors file", capsys)
    refused(["steer", str(model), str(model / "model.safetensors"), "hello"], 2, "without a Strandscope manifest", capsys)
    refused(["steer", str(model), str(tmp_path / "none.safetensors"), "hello"], 3, "there is no such file", capsys)
    other = tiny_chat.save_model(tmp_path / "other", vocabulary=60)
    refused(["steer", str(other), str(strand), "hello"], 4, "was found in the network", capsys)


@pytest.fixture
def opened(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands get the network opened and checked once."""
    monkeypatch.setattr(options, "open_subject", lambda name, **_: checked(name))


@cache
def checked(name: str) -> ss.Subject:
    return ss.load(name, check="full")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("spare", range(0, 12))
def test_a_full_disk_leaves_nothing_half_written(
    spare: int, model: Path, opened: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk takes `spare` more files and is then full; what is there is whole, and with room again the audit goes on."""
    told = str(tiny_chat.write_jsonl(tmp_path / "told.jsonl", GOOD))
    out = tmp_path / "out"
    flush, written = os.fsync, []

    def fsync(handle: int) -> None:
        if len(written) >= spare:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(handle)
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    command = ["audit", str(model), "--concept", told, "--out", str(out)]
    refused(command, 3, "the disk is full; free some room and run the same command again", capsys)
    left = files(out)
    assert len(left) == min(spare, 8) and not any(Path(name).name.startswith(".") for name in left)
    assert not any(name.startswith(("report", "strands", "erasers")) for name in left)  # these appear together or not at all
    monkeypatch.setattr(os, "fsync", flush)
    assert main(command) == 0
    assert {"report.html", "report.json", "report.md", "strands/told.safetensors", "erasers/told.safetensors"} <= files(out)
    resumed = json.loads((out / "report.json").read_text(encoding="utf-8"))["provenance"]["resumed"]
    assert ("told: find" in resumed) == (spare >= 3)  # about.txt, strand.safetensors, found.json


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(
    model: Path, opened: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = str(tiny_chat.write_jsonl(tmp_path / "told.jsonl", GOOD))
    monkeypatch.setattr(stages, "capture", lambda *_, **__: pytest.fail("measured"))
    refused(["audit", str(model), "--concept", told, "--out", told], 3, "cannot write", capsys)
    assert Path(told).read_text(encoding="utf-8") == text(*GOOD)


@pytest.mark.parametrize("stage", ["capture", "find", "trial"])
def test_an_interrupt_at_any_stage_leaves_nothing_half_written(
    stage: str, model: Path, opened: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = str(tiny_chat.write_jsonl(tmp_path / "told.jsonl", GOOD))
    out = tmp_path / "out"
    work = getattr(stages, stage)

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, stage, interrupted)
    command = ["audit", str(model), "--concept", told, "--out", str(out)]
    assert main(command) == 130
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.splitlines()[-1].startswith("Interrupted") and "Traceback" not in shown.err
    assert not [name for name in files(out) if not name.startswith(".work")]
    monkeypatch.setattr(stages, stage, work)
    assert main(command) == 0
    assert ("told: find: taken from an earlier run" in capsys.readouterr().err) == (stage == "trial")
