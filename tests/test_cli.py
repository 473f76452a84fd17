"""The program's manners: help without torch, results on stdout and the rest on stderr, exit codes, closed pipes, true help."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import jsonschema
import pytest
import torch

import strandscope as ss
import tiny_audit
import tiny_chat
from strandscope.cli import main as program
from strandscope.cli.main import cli, main
from strandscope.cli.progress import _lines
from strandscope.cli.reference import reference
from strandscope.control.dose import Bench, find_dose
from strandscope.report import finding, stages

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_chat.save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_chat.write_jsonl(tmp_path_factory.mktemp("data") / "told.jsonl", tiny_chat.rows()))


@pytest.fixture(autouse=True)
def quick_push(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "trial", tiny_audit.trial)
    monkeypatch.setattr(stages, "certificate", tiny_audit.certificate)
    monkeypatch.setattr(stages, "use", tiny_audit.use)
    monkeypatch.setattr(stages, "certify", tiny_audit.certify)


def python(code: str, *, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, input=stdin, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["audit", "--help"], ["find", "-h"], ["steer", "-h"], ["doctor", "-h"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from strandscope.cli.main import main
assert main({arguments!r}) == 0
names = ("torch", "transformers", "numpy", "scipy", "sklearn", "pydantic", "rich", "huggingface_hub")
heavy = [name for name in names if name in sys.modules]
assert not heavy, heavy
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "strandscope" in done.stdout


def test_python_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "strandscope", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == f"strandscope, version {ss.__version__}\n"


def test_the_documented_reference_is_what_help_says() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference()


def test_every_command_shows_two_examples() -> None:
    sections = dict(part.split("\n", 1) for part in reference().split("\n## ")[1:])
    for name in cli.commands:
        examples = sections[f"strandscope {name}"].split("Examples:")[1]
        assert examples.count(f"strandscope {name}") >= 2


def test_audit_prints_the_table_and_writes_the_folder(
    model: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["audit", model, "--concept", told, "--out", str(out), "--seed", "3"]) == 0
    shown = capsys.readouterr()
    head, row = shown.out.splitlines()[-2:]
    assert head.split("  ")[0] == "concept" and row.startswith("told     detected")
    assert all(len(line) < 130 for line in shown.out.splitlines()[1:])
    assert "opening" in shown.err and "opening" not in shown.out
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(json.loads(finding.schema_text())).validate(report)
    assert report["provenance"]["command"] == f"strandscope audit {model} --concept {told} --out {out} --seed 3"
    assert sorted(path.name for path in out.iterdir()) == [
        ".work",
        "erasers",
        "report.html",
        "report.json",
        "report.md",
        "strands",
    ]
    assert main(["audit", model, "--concept", told, "--out", str(out), "--seed", "3", "--json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["findings"] == report["findings"]
    assert "taken from an earlier run" in again.err


def test_find_prints_the_curve_and_saves_the_strand(
    model: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "told.safetensors"
    assert main(["find", model, "--concept", told, "--at", "resid:1-2", "--out", str(file)]) == 0
    shown = capsys.readouterr().out
    assert (
        shown.startswith("told: 80 text rows in 16 groups, 40 0, 40 1; 1 is scored high\ntold: detected (p = 0.005), ")
        and "resid:1" in shown
        and "┊ under permuted labels" in shown
        and "resid:0" not in shown
    )
    assert ss.Strand.load(file).name == "told"
    assert main(["find", model, "--concept", told, "--at", "mlp:1", "--permutations", "0", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["verdict"] == "not tested" and made["strand"]["file"] is None and made["strand"]["site"] == "mlp:1"
    assert made["readings"]["detectable"]["status"] == "not measured"


@pytest.fixture
def strand(model: str, told: str, tmp_path: Path) -> Path:
    found = ss.find(ss.capture(ss.load(model), ss.Examples.from_file(told)), permutations=0)
    found.best.save(tmp_path / "told.safetensors")
    return tmp_path / "told.safetensors"


def test_steer_shows_the_plain_text_and_those_of_the_pushes(
    model: str, strand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("strandscope.cli.steer.DOSE_PROMPTS", 30)
    command = ["steer", model, str(strand), "hello", "--max-new-tokens", "5", "--nats", "0.1"]
    assert main([*command, "--away", "--random", "2", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["chat"] and made["plain"] == ss.load(model).generate("hello", 5)
    assert [push["dose"]["along"] for push in made["pushed"]] == ["away", "random 1", "random 2"]
    assert all(push["dose"]["cost"]["value"] == pytest.approx(0.1, rel=0.02) for push in made["pushed"])
    subject, found = ss.load(model), ss.Strand.load(strand)
    with ss.steer(subject, found, dose=find_dose(Bench.of(subject, 30), found.site, -found.pattern[:, 0], 0.1), toward=-1):
        assert made["pushed"][0]["text"] == subject.generate("hello", 5)
    assert main([*command, "--raw", "--positions", "last"]) == 0
    plain, toward, beside = capsys.readouterr().out.rstrip("\n").split("\n\n")
    assert plain == f"plain:\n{subject.generate('hello', 5, chat=False)}"
    told_by = r"0\.10 \[\S+ \S+\] nats per next token \(predicted 0\.\d+ \[\S+ \S+\]\) at resid:\d, last positions, "
    told_by += r"\S+ \[\S+ \S+\] lengths of the direction, (predicted|solved)[^:\n]+(: beyond the edge)?:\n."
    assert re.match(r"toward 1 \(told\), " + told_by, toward)
    assert re.match(r"random 1, " + told_by, beside)
    assert main(["steer", model, str(strand), " \n"]) == 2
    assert "the prompt is empty; write a text" in capsys.readouterr().err


def test_a_strand_forced_on_another_network_is_reported(
    model: str, strand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("strandscope.control.steer.trial", tiny_audit.trial)
    other = str(tiny_chat.save_model(tmp_path / "other", vocabulary=60))
    networks = [ss.load(name).fingerprint for name in (model, other)]
    for name, forced in ((model, False), (other, True)):
        command = ["steer", name, str(strand), "hello", "--max-new-tokens", "5", "--force"]
        assert main([*command, "--json"]) == 0
        made = json.loads(capsys.readouterr().out)
        assert (made["forced"], made["strand_network"], made["network"]) == (forced, networks[0], networks[forced])
        assert main(command) == 0
        line = f"forced: this strand was found in the network {networks[0][:12]}, not in this one ({networks[1][:12]})\n"
        assert capsys.readouterr().out.startswith(line) == forced


def test_a_strand_of_another_width_is_refused_though_forced(
    model: str, strand: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ss.Strand.load(strand)
    wide = {name: torch.zeros(7, 1) for name in ("basis", "pattern")}
    replace(found, **wide).save(strand)
    assert main(["steer", model, str(strand), "hello", "--force"]) == 2
    shown = capsys.readouterr()
    said = f"Error: strand 'told': 7 wide, and {found.site} of {model} is 32 wide; find it again in this network"
    assert shown.out == "" and shown.err.splitlines()[-1] == said


def test_doctor_prints_every_line_and_refuses_what_failed(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", model, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["verdict"] == "passed" and "decoding" in [line["name"] for line in made["subject"]["selfcheck"]]
    from strandscope.subject import selfcheck

    spoilt = (selfcheck.Check("idle", "failed", "with reads attached the answer is another"),)
    monkeypatch.setattr(selfcheck, "selfcheck", lambda subject, full: spoilt)
    assert main(["doctor", model]) == 4
    shown = capsys.readouterr()
    assert "idle  failed" in shown.out and shown.err.splitlines()[-1].startswith("Error: ") and "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (lambda: ss.Strand.load("/nowhere.safetensors"), 3, "Error: /nowhere.safetensors: there is no such file"),
        (lambda: ss.concept("ham"), 2, "Error: concept 'ham': there is no such pack; did you mean harm?"),
        (lambda: 1 / 0, 5, program.BUG),
    ],
)
def test_exit_codes_and_sentences(
    raised: Callable[[], object], code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.commands, "probe", click.Command("probe", callback=raised))
    assert main(["probe"]) == code
    shown = capsys.readouterr()
    assert said in shown.err and shown.out == ""
    assert ("Traceback" in shown.err) == (code == 5)


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["steer", "one"], ["find"], ["audit", "--seed", "x"], ["nonsense"], ["audit", "--out"]):
        assert main(arguments) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_an_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    for name in ("probe", "audit"):
        monkeypatch.setitem(cli.commands, name, click.Command(name, callback=stop))
        assert main([name]) == 130
        said = capsys.readouterr().err
        assert said.startswith("Interrupted; nothing was left half-written") and ("--out" in said) == (name == "audit")


_MANY = """
import click
from strandscope.cli import main
main.cli.add_command(click.Command("probe", callback=lambda: [click.echo("line " * 20) for _ in range(5000)]))
import sys
sys.argv = ["strandscope", "probe"]
main.run()
"""


def test_a_closed_pipe_is_quiet() -> None:
    child = subprocess.Popen([sys.executable, "-c", _MANY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout and child.stderr
    child.stdout.readline()
    child.stdout.close()
    assert (child.wait(timeout=30), child.stderr.read()) == (0, "")
    child.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", _MANY], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3 and done.stderr.startswith("Error: cannot write the result to standard output: No space left")
    assert len(done.stderr.splitlines()) == 1


def test_offline_is_set_before_the_hub_client_is_imported(tmp_path: Path) -> None:
    code = """
from strandscope.cli.main import main
code = main(['doctor', 'nobody/no-such-model', '--offline'])
from huggingface_hub import constants
assert constants.is_offline_mode()
raise SystemExit(code)
"""
    done = python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(
        "Error: nobody/no-such-model is not in the local cache and this run is offline"
    )


def test_without_a_terminal_progress_is_a_line_every_30_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 10.0, 29.0, 31.0, 32.0, 59.0, 62.0])
    report = _lines(lambda: next(times))
    for done in range(5):
        report("harm: states", done, 9)
    report("harm: kept", 0, 0)
    assert capsys.readouterr().err == "harm: states 2 of 9 (31 s)\nharm: kept\n"


def test_on_a_terminal_there_is_a_bar_and_no_colour_when_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    pty = pytest.importorskip("pty")
    code = """
from strandscope.cli.progress import progress
with progress() as report:
    for done in range(4):
        report("harm: [bold]states", done, 3)
    report("told: kept", 0, 0)
"""
    for wanted, colours in (("", True), ("1", False)):
        leader, follower = pty.openpty()
        environment = (
            {**os.environ, "TERM": "xterm-256color", "NO_COLOR": wanted} if wanted else {**os.environ, "TERM": "xterm-256color"}
        )
        child = subprocess.Popen([sys.executable, "-c", code], stderr=follower, env=environment)
        assert child.wait(timeout=30) == 0
        os.close(follower)
        text = os.read(leader, 65536).decode()
        os.close(leader)
        assert "harm: [bold]states" in text and "told: kept" in text
        assert ("\x1b[38" in text or "\x1b[32m" in text or "\x1b[35m" in text or "\x1b[33m" in text) == colours


def test_help_is_quick() -> None:
    """Held loosely here, for a busy machine: the figure itself is in the benchmarks."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "strandscope", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0
