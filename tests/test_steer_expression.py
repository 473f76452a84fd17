"""`strandscope steer` with an expression: names from files and folders, gates from monitors, and what is refused before work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny_chat
from pushing import SITE, opened, strand_in, vector
from strandscope.cli import held
from strandscope.cli.main import main
from strandscope.control import holding
from strandscope.control.library import load_library
from strandscope.errors import InputError, MissingError
from strandscope.io import save_tensors
from strandscope.strand.erase import fit_eraser
from strandscope.subject.site import Site


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.save_model(tmp_path_factory.mktemp("expression") / "model")


@pytest.fixture(scope="module")
def strands(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strands")
    subject = opened(model)
    replace(strand_in(subject), name="yes").save(folder / "yes.safetensors")
    replace(strand_in(subject, Site("resid", 2)), name="no", pattern=vector(5)[:, None]).save(folder / "no.safetensors")
    drawn = torch.randn(60, 32, generator=torch.Generator().manual_seed(0))
    eraser = fit_eraser(drawn, (drawn[:, 0] > 0).long(), shrinkages=())
    replace(eraser, name="gone", site=str(SITE), fingerprint=subject.fingerprint).save(folder / "gone.safetensors")
    save_tensors(folder / "other.safetensors", {"x": torch.ones(1)}, {"schema": "another/1"})
    return folder


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = holding.Benches
    monkeypatch.setattr(holding, "Benches", lambda subject, **options: plain(subject, **options | {"prompts": 24, "replies": 6}))


def steer(model: Path, *words: str) -> int:
    return main(["steer", str(model), *words, "--max-new-tokens", "5"])


def test_an_expression_is_held_and_told(model: Path, strands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["0.02nats*yes - 0.5lengths*no@generation + !gone@prompt", "hello", "--strands", str(strands), "--json"]
    assert steer(model, *words) == 0
    out, err = capsys.readouterr()
    made = json.loads(out)
    assert made["expression"] == words[0] and set(made) == {
        "network", "chat", "prompt", "plain", "expression", "cost", "doses", "told", "held",
    }  # fmt: skip
    assert [dose["term"] for dose in made["doses"]] == ["0.02nats*yes"]
    assert made["doses"][0]["dose"]["cost"]["value"] == pytest.approx(0.02, rel=0.05) and made["cost"]["value"] > 0
    assert "other.safetensors holds no strand and no eraser, and was left out" in err


def test_a_dose_beyond_the_edge_is_said_everywhere_or_refused(
    model: Path, strands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "0.8nats*yes: the dose lies beyond the edge of its prediction, so its size was solved numerically"
    assert steer(model, "0.8nats*yes", "hello", "--strands", str(strands)) == 0
    out, err = capsys.readouterr()
    assert told in out and told in err
    assert steer(model, "0.8nats*yes", "hello", "--strands", str(strands), "--json") == 0
    assert json.loads(capsys.readouterr().out)["told"] == [told]
    assert steer(model, "0.8nats*yes", "hello", "--strands", str(strands), "--within-the-law") == 2
    out, err = capsys.readouterr()
    assert out == "" and "ask for fewer nats" in err


def test_so_is_one_along_a_strands_file(model: Path, strands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(strands / "yes.safetensors"), "hello", "--nats", "0.8", "--random", "0"]
    assert steer(model, *words) == 0
    out, err = capsys.readouterr()
    assert "beyond the edge" in out and "0.8 nats toward yes lie beyond the edge of the prediction" in err
    assert steer(model, *words, "--within-the-law") == 2
    assert "nats: got 0.8 toward yes: the dose lies beyond the edge" in capsys.readouterr().err


def test_a_cost_that_is_not_measured_says_why(model: Path, strands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert steer(model, "1lengths*yes@when(no>0)", "hello", "--strands", str(strands)) == 0
    out = capsys.readouterr().out
    assert "1lengths*yes@when(no>0), its cost not measured: a term opens by an alarm, or by a site that comes after it" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["0.1nat*yes", "hello"], 2, "at character 4, wanted nats or lengths"),
        (["!yes", "hello"], 2, "no --strands, and there is no audit/strands here; name a folder or files that hold yes"),
        (["!yes", "hello", "--strands", "nowhere"], 3, "nowhere: is not there"),
        (["!yes", "hello", "--nats", "0.1"], 2, "--nats goes with a strand's file"),
        (["!yes", "hello", "--random", "2"], 2, "--random goes with a strand's file"),
        (["x.safetensors", "hello", "--monitor", "m"], 2, "--monitor goes with an expression"),
        (["!yes", "hello", "--monitor", "nowhere.safetensors", "--strands", "STRANDS"], 3, "no such file"),
        (["!joy", "hello", "--strands", "STRANDS"], 2, "no strand of the name 'joy'; there are gone, no, yes"),
        (["0.1nats*yes + !yes", "hello", "--strands", "STRANDS"], 2, "contradict each other"),
        (["!yes@at(resid:9)", "hello", "--strands", "STRANDS"], 2, "resid:0 to resid:3"),
    ],
)
def test_what_cannot_be_held_is_one_sentence(
    model: Path,
    strands: Path,
    words: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where no audit has left its strands
    assert steer(model, *(str(strands) if word == "STRANDS" else word for word in words)) == code
    out, err = capsys.readouterr()
    assert out == "" and said in err and "Traceback" not in err


def test_names_are_looked_for_where_an_audit_puts_them(
    model: Path, strands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "strands").symlink_to(strands)
    monkeypatch.chdir(tmp_path)
    assert steer(model, "set(yes,1)", "hello") == 0
    assert "set(yes,1)" in capsys.readouterr().out


def test_a_library_takes_files_and_folders(strands: Path) -> None:
    found, others = load_library([strands])
    assert [one.name for one in found] == ["gone", "no", "yes"] and others == [str(strands / "other.safetensors")]
    assert [one.name for one in load_library([strands / "no.safetensors", strands / "yes.safetensors"])[0]] == ["no", "yes"]
    with pytest.raises(InputError, match="'another/1', wanted a strand or an eraser"):
        load_library([strands / "other.safetensors"])
    with pytest.raises(MissingError, match="is not there"):
        load_library([strands / "absent.safetensors"])


def test_a_monitor_goes_by_its_files_name_and_its_only_concepts(monkeypatch: pytest.MonkeyPatch) -> None:
    from strandscope.monitor import monitor

    class One:
        concepts = ("harm",)

    class Two:
        concepts = ("harm", "truth")

    monkeypatch.setattr(monitor.Monitor, "load", lambda file: One() if "one" in file else Two())
    assert [names for _, names in held._monitors(("a/one.safetensors", "two.safetensors"))] == [("one", "harm"), ("two",)]
