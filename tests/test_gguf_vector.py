"""GGUF control vectors: the format, what each index means, and what llama.cpp would refuse."""

from __future__ import annotations

from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

import families
import strandscope as ss
from strandscope.control.edit import Ablate, Add, Then
from strandscope.control.hold import Clamp, Erase, Rotate
from strandscope.control.leave.gguf_vector import ControlVector, pushes_of, read_control_vector, write_control_vector
from strandscope.errors import InputError, MissingError
from strandscope.subject.attach import Scope, attach
from strandscope.subject.site import Site

IDS = torch.tensor([[5, 9, 3, 17, 22, 8]])
AT = {k: Site("resid", k) for k in range(4)}


@pytest.fixture(scope="module")
def subject() -> ss.Subject:
    return families.subject("Llama")


def vector(seed: int, d: int = 32) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


def added_by_hand(subject: ss.Subject, pushes: dict[int, Tensor]) -> Tensor:
    """Logits with pushes added to what `model.layers[k]` returns, by plain hooks."""
    module: Any = subject.module
    handles = [
        module.model.layers[k].register_forward_hook(lambda _, __, output, push=push: output + push) for k, push in pushes.items()
    ]
    with torch.no_grad():
        logits = module(input_ids=IDS).logits
    for handle in handles:
        handle.remove()
    return logits


def under(subject: ss.Subject, edits: Any) -> Tensor:
    with torch.no_grad(), attach(subject, edits=edits):
        return subject.module(input_ids=IDS).logits


def as_llama_cpp(path: Path, blocks: int) -> dict[int, Tensor]:
    """What llama.cpp adds to the output of each block: direction.N goes to (N − 1)·d of a buffer, block il takes (il − 1)·d."""
    tensors = {int(str(tensor.name).split(".")[1]): tensor.data for tensor in gguf.GGUFReader(path).tensors}
    d = len(next(iter(tensors.values())))
    buffer = np.zeros(d * (blocks - 1), dtype=np.float32)
    for number, data in tensors.items():
        buffer[(number - 1) * d : number * d] += data
    return {il: torch.from_numpy(buffer[(il - 1) * d : il * d].copy()) for il in range(1, blocks)}


def test_direction_k_is_added_to_the_output_of_block_k(subject: ss.Subject, tmp_path: Path) -> None:
    edits = {AT[2]: [(Add(vector(1), 0.7), Scope())]}
    path = tmp_path / "push.gguf"
    write_control_vector(path, ControlVector(pushes_of(subject, edits), "llama"))
    here = under(subject, edits)
    llama_cpp = as_llama_cpp(path, blocks=4)
    assert [il for il, push in llama_cpp.items() if push.any()] == [2]
    torch.testing.assert_close(added_by_hand(subject, llama_cpp), here)
    torch.testing.assert_close(under(subject, read_control_vector(path).edits()), here)
    for other in (1, 3):  # a block too early or too late is another network
        assert not torch.allclose(added_by_hand(subject, {other: llama_cpp[2]}), here, atol=1e-3)


def test_several_blocks_and_a_strength(subject: ss.Subject, tmp_path: Path) -> None:
    pushes = {AT[3]: vector(3), AT[1]: vector(1)}
    write_control_vector(tmp_path / "two.gguf", ControlVector(pushes, "llama"))
    read = read_control_vector(tmp_path / "two.gguf")
    wanted = added_by_hand(subject, {1: -0.5 * vector(1), 3: -0.5 * vector(3)})
    torch.testing.assert_close(under(subject, read.edits(-0.5)), wanted)


def test_what_is_written_comes_back_bit_for_bit(tmp_path: Path) -> None:
    pushes = {AT[3]: vector(3), AT[1]: vector(1)}
    write_control_vector(tmp_path / "two.gguf", ControlVector(pushes, "llama"))
    read = read_control_vector(tmp_path / "two.gguf")
    assert read.model_hint == "llama"
    assert list(read.pushes) == [AT[1], AT[3]]
    assert all(torch.equal(read.pushes[site], push) and read.pushes[site].dtype == torch.float32 for site, push in pushes.items())


def test_the_file_is_as_llama_cpp_and_repeng_write_it(tmp_path: Path) -> None:
    write_control_vector(tmp_path / "two.gguf", ControlVector({AT[3]: vector(3).double(), AT[1]: vector(1).bfloat16()}, "qwen2"))
    reader = gguf.GGUFReader(tmp_path / "two.gguf")
    told = {key: reader.fields[key].contents() for key in reader.fields if not key.startswith("GGUF.")}
    assert told["general.architecture"] == "controlvector"
    assert told["controlvector.model_hint"] == "qwen2"
    assert told["controlvector.layer_count"] == 2
    found = [(str(tensor.name), tensor.tensor_type.name, list(tensor.shape)) for tensor in reader.tensors]
    assert found == [("direction.1", "F32", [32]), ("direction.3", "F32", [32])]


def test_additions_at_one_site_are_summed(subject: ss.Subject) -> None:
    edits = {AT[1]: [(Then(Add(vector(1), 2.0), Add(vector(2), -1.0)), Scope()), (Add(vector(3), 0.5), Scope())]}
    torch.testing.assert_close(pushes_of(subject, edits)[AT[1]], 2 * vector(1) - vector(2) + 0.5 * vector(3))


ADD = Add(vector(1), 1.0)


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ({AT[0]: [(ADD, Scope())]}, "resid:0: llama.cpp cannot touch the output of block 0"),
        ({Site("attn", 1): [(ADD, Scope())]}, "attn:1: a control vector is added to the outputs of blocks"),
        ({Site("embed"): [(ADD, Scope())]}, "embed: a control vector is added"),
        ({AT[1]: [(Ablate(vector(1)), Scope())]}, "can only add, and these take a direction out"),
        ({AT[1]: [(Erase(vector(1)[:, None], vector(1)[:, None], vector(2)), Scope())]}, "can only add"),
        ({AT[1]: [(Clamp(vector(1)[:, None], -1, 1), Scope())]}, "got Clamp, wanted Add, Ablate or Erase"),
        ({AT[1]: [(Then(ADD, Rotate(vector(1), angle=0.1)), Scope())]}, "got Rotate"),
        ({AT[1]: [(torch.tanh, Scope())]}, "got builtin_function_or_method"),
        ({AT[1]: [(ADD, Scope(positions="last"))]}, "wanted every position of every row"),
        ({AT[1]: [(ADD, Scope(rows=(0,)))]}, "wanted every position of every row"),
        ({AT[1]: [(Add(vector(1), 0.0), Scope())]}, "got none that adds anything"),
        ({AT[1]: [(Add(vector(1, 31), 1.0), Scope())]}, "got one of width 31, the states here have 32"),
        ({Site("resid", 9): [(ADD, Scope())]}, "resid:9 does not exist"),
    ],
)
def test_what_a_control_vector_cannot_hold_is_refused(subject: ss.Subject, edits: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        pushes_of(subject, edits)


@pytest.mark.parametrize(
    ("pushes", "told"),
    [
        ({}, "got none"),
        ({AT[0]: vector(1)}, "got one at resid:0"),
        ({Site("mlp", 1): vector(1)}, "got one at mlp:1"),
        ({AT[1]: vector(1)[None]}, r"got shape \(1, 32\)"),
        ({AT[1]: vector(1) / 0}, "holds a NaN or an infinity"),
        ({AT[1]: vector(1), AT[2]: vector(1, 31)}, "wanted all of one length"),
    ],
)
def test_writing_refuses_what_could_not_be_read(tmp_path: Path, pushes: dict[Site, Tensor], told: str) -> None:
    with pytest.raises(InputError, match=told):
        write_control_vector(tmp_path / "no.gguf", ControlVector(pushes, "llama"))
    assert list(tmp_path.iterdir()) == []


def written(path: Path, tensors: dict[str, Any], arch: str = "controlvector", hint: bool = True) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    if hint:
        writer.add_string("controlvector.model_hint", "llama")
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


ONE = np.ones(8, dtype=np.float32)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"direction.1": ONE.astype(np.float16)}, "tensor 'direction.1' is F16, wanted F32"),
        ({"direction.1": ONE.reshape(2, 4)}, r"tensor 'direction.1' has shape \(4, 2\)"),
        ({"direction.0": ONE}, "tensor 'direction.0' is for the output of block 0"),
        ({"direction.x": ONE}, "tensor 'direction.x' is none of a control vector's"),
        ({"direction.-1": ONE}, "tensor 'direction.-1' is none"),
        ({"direction.1": ONE, "token_embd.weight": ONE}, "tensor 'token_embd.weight' is none"),
        ({"direction.1": ONE, "direction.2": ONE[:4]}, "'direction.2' has 4 numbers, 'direction.1' 8"),
        ({"direction.1": ONE * np.float32("inf")}, "tensor 'direction.1' holds a NaN or an infinity"),
        ({}, "holds no tensor"),
    ],
)
def test_a_file_that_llama_cpp_refuses_is_refused_by_the_tensor(tmp_path: Path, tensors: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_control_vector(written(tmp_path / "bad.gguf", tensors))


def test_files_that_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a llama, wanted a controlvector"):
        read_control_vector(written(tmp_path / "model.gguf", {"direction.1": ONE}, arch="llama"))
    with pytest.raises(MissingError, match="no such file"):
        read_control_vector(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(InputError, match="does not begin like a GGUF file"):
        read_control_vector(tmp_path / "text.gguf")
    assert read_control_vector(written(tmp_path / "bare.gguf", {"direction.1": ONE}, hint=False)).model_hint == ""


@pytest.mark.parametrize("kept", [6, 30, 90, -8])
def test_a_file_that_is_cut_off_is_refused_in_a_sentence(tmp_path: Path, kept: int) -> None:
    whole = written(tmp_path / "whole.gguf", {"direction.1": ONE}).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:kept])
    with pytest.raises(InputError, match=r"cut\.gguf: cannot be read as GGUF"):
        read_control_vector(tmp_path / "cut.gguf")


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "good.gguf", {"direction.1": ONE})
    real: Callable[..., Any] = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: None if name == "gguf" else real(name, *more))
    for work in (lambda: read_control_vector(path), lambda: write_control_vector(path, ControlVector({AT[1]: vector(1)}, ""))):
        with pytest.raises(MissingError, match=r"needs gguf; run: pip install 'strandscope\[gguf\]'") as raised:
            work()
        assert raised.value.exit_code == 3
