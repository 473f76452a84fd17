"""`strandscope export`: what it writes computes what was asked for, and what it refuses it refuses in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pushing
import strandscope as ss
import tiny_chat
from strandscope.cli.main import main
from strandscope.control.edit import Add
from strandscope.control.leave.gguf_vector import read_control_vector
from strandscope.control.leave.plan import ablation
from strandscope.strand.strand import Strand
from strandscope.subject.attach import Scope, attach
from test_leave_adapter import with_adapter

IDS = torch.tensor([[5, 9, 3, 17, 22, 8]])
SCALE = 0.3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def subject(model: Path) -> ss.Subject:
    return ss.load(model, dtype="float32", check="none")


@pytest.fixture(scope="module")
def strand(subject: ss.Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("strand") / "made.safetensors"
    pushing.strand_in(subject).save(path)
    return path


def run(*words: Any) -> int:
    return main(["export", *map(str, words)])


def logits(module: Any) -> Tensor:
    with torch.no_grad():
        return module(input_ids=IDS).logits


def under(subject: ss.Subject, edits: Any) -> Tensor:
    with attach(subject, edits=edits):
        return logits(subject.module)


def pushed(scale: float) -> dict[Any, Any]:
    return {pushing.SITE: [(Add(pushing.PATTERN, scale), Scope())]}


def test_a_push_leaves_in_every_format(
    subject: ss.Subject, model: Path, strand: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = under(subject, pushed(SCALE))
    for kind, out in (("gguf", tmp_path / "push.gguf"), ("folder", tmp_path / "folder"), ("peft", tmp_path / "peft")):
        assert run(strand, "--to", kind, "--scale", SCALE, "--model", model, "--dtype", "float32", "--out", out) == 0
        assert f"written to {out}" in capsys.readouterr().out
    torch.testing.assert_close(under(subject, read_control_vector(tmp_path / "push.gguf").edits()), wanted)
    torch.testing.assert_close(logits(ss.load(tmp_path / "folder", check="none").module), wanted)
    torch.testing.assert_close(logits(with_adapter(subject, tmp_path / "peft")), wanted)
    assert not torch.allclose(logits(subject.module), wanted, atol=1e-3)


def test_away_and_a_control_vector_for_another_format(subject: ss.Subject, model: Path, strand: Path, tmp_path: Path) -> None:
    vector = tmp_path / "away.gguf"
    assert run(strand, "--to", "gguf", "--scale", SCALE, "--away", "--model", model, "--out", vector) == 0
    torch.testing.assert_close(read_control_vector(vector).pushes[pushing.SITE], -SCALE * pushing.PATTERN)
    assert run(vector, "--to", "folder", "--scale", 2, "--model", model, "--dtype", "float32", "--out", tmp_path / "folder") == 0
    torch.testing.assert_close(logits(ss.load(tmp_path / "folder", check="none").module), under(subject, pushed(-2 * SCALE)))


def test_an_ablation_leaves_as_what_the_strand_reads(subject: ss.Subject, model: Path, strand: Path, tmp_path: Path) -> None:
    wanted = under(subject, ablation(subject, Strand.load(strand).basis))
    for kind in ("folder", "peft"):
        assert run(strand, "--to", kind, "--ablate", "--model", model, "--dtype", "float32", "--out", tmp_path / kind) == 0
    torch.testing.assert_close(logits(ss.load(tmp_path / "folder", check="none").module), wanted)
    torch.testing.assert_close(logits(with_adapter(subject, tmp_path / "peft")), wanted)


def test_a_dose_in_nats_is_found_and_told(
    subject: ss.Subject, model: Path, strand: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dosed.gguf"
    assert run(strand, "--to", "gguf", "--nats", 0.05, "--model", model, "--dtype", "float32", "--out", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dose"]["cost"]["value"] == pytest.approx(0.05, rel=0.03)
    assert told["scale"] == told["dose"]["scale"]["value"]
    torch.testing.assert_close(read_control_vector(out).pushes[pushing.SITE], told["scale"] * pushing.PATTERN)
    assert told["directions"]["direction.1"] == pytest.approx(told["scale"] * float(pushing.PATTERN.norm()), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--to", "gguf", "--nats", "1", "--scale", "1"], 2, "got --nats and --scale, wanted one of them"),
        (["--to", "gguf", "--ablate"], 2, "a control vector can only add"),
        (["--to", "folder", "--ablate", "--away"], 2, "got --ablate with a push"),
        (["--to", "onnx"], 2, "'onnx' is not one of"),
        (["--to", "folder"], 2, "is there already, wanted a new or an empty folder"),
    ],
)
def test_bad_wishes_are_refused_before_the_network_is_opened(
    strand: Path, tmp_path: Path, words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    assert run(strand, *words, "--model", "./nothing-here", "--out", tmp_path / "there") == code
    assert told in capsys.readouterr().err


def test_a_strand_of_another_network_is_refused_unless_forced(
    model: Path, subject: ss.Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    replace(pushing.strand_in(subject), fingerprint="0" * 64).save(tmp_path / "other.safetensors")
    words = [tmp_path / "other.safetensors", "--to", "gguf", "--model", model, "--out", tmp_path / "out.gguf"]
    assert run(*words) == 4
    assert "was found in the network 000000000000" in capsys.readouterr().err and not (tmp_path / "out.gguf").exists()
    assert run(*words, "--force") == 0
    assert "forced: this strand was found in the network 000000000000" in capsys.readouterr().out


def test_a_broken_vector_and_a_missing_file_are_a_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03")
    assert run(tmp_path / "broken.gguf", "--to", "folder", "--model", model, "--out", tmp_path / "out") == 2
    assert "broken.gguf: cannot be read as GGUF" in capsys.readouterr().err
    assert run(tmp_path / "none.gguf", "--to", "folder", "--model", model, "--out", tmp_path / "out") == 3
    assert "there is no such file" in capsys.readouterr().err
