"""GGUF control vectors: constant additions to the outputs of blocks, as llama.cpp and repeng read them.

`direction.k` is what is added to the output of block k, counted from 0, at every position: to the state after the block's last
residual sum, so our `resid:k`. llama.cpp keeps it at offset (k − 1)·d of a buffer that begins with block 1 and gives block il
the part at (il − 1)·d (`common_control_vector_load_one`, `llama_adapter_cvec::apply`); it therefore cannot touch block 0. repeng
adds `directions[k]` to what `layers[k]` returns. Tensors are F32 with one dimension, all of one length; llama.cpp ignores the
metadata, sums several files, each times a strength, and refuses a whole file for one tensor that is not as it wants it. So does
reading here.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InputError, MissingError
from ...io import atomic
from ...linalg import finite
from ...subject.attach import Scope
from ...subject.gguf import check_gguf
from ...subject.site import Site
from ..edit import Add
from .affine import Affine, Edit

if TYPE_CHECKING:
    from ...subject.subject import Subject

ARCHITECTURE = "controlvector"
_NAME = re.compile(r"direction\.(\d+)")


@dataclass(frozen=True, slots=True, eq=False)
class ControlVector:
    """What is added to the output of each block that it names: (d,) in fp32, by site (`resid:k`, k ≥ 1).

    `model_hint` is the family that the file names, as transformers and repeng call it; nobody checks it but you.
    """

    pushes: Mapping[Site, Tensor]
    model_hint: str

    def edits(self, strength: float = 1.0) -> dict[Site, list[tuple[Edit, Scope]]]:
        """As edits for `attach`, each push times `strength`."""
        return {site: [(Add(push, strength), Scope())] for site, push in self.pushes.items()}


def pushes_of(subject: Subject, edits: Mapping[Site, Sequence[tuple[Edit, Scope]]]) -> dict[Site, Tensor]:
    """The additions at each site as one vector (d,) in fp32, if they are all that there is.

    Raises:
        InputError: an edit is no constant addition, not at every position, or not at the output of a block from 1 on.
    """
    found: dict[Site, Tensor] = {}
    for site, given in edits.items():
        port = subject.port(site)
        if site.kind != "resid":
            raise InputError(f"edits at {site}: a control vector is added to the outputs of blocks; wanted resid:1 or later")
        made = Affine.of(given, port.width, str(site))
        if made.rank:
            raise InputError(
                f"edits at {site}: a control vector can only add, and these take a direction out; export a folder or an adapter"
            )
        if site.index == 0:
            raise InputError("edits at resid:0: llama.cpp cannot touch the output of block 0; push at resid:1 or later")
        if made.moves:
            found[site] = made.constant.float()
    if not found:
        raise InputError("edits: got none that adds anything, wanted at least one addition at resid:1 or later")
    return dict(sorted(found.items(), key=lambda item: item[0].index))


def write_control_vector(path: str | os.PathLike[str], vector: ControlVector) -> None:
    """Write the file, whole or not at all.

    Raises:
        InputError: a push is not at the output of a block from 1 on, or no finite vector, or of another length.
        MissingError: the package gguf is not installed, or the file cannot be written.
    """
    _check_package("writing")
    _check(vector.pushes)
    import gguf

    with atomic(path) as temporary:
        writer = gguf.GGUFWriter(temporary, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", vector.model_hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vector.pushes))
        for site, push in sorted(vector.pushes.items(), key=lambda item: item[0].index):
            writer.add_tensor(f"direction.{site.index}", push.detach().cpu().float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_control_vector(path: str | os.PathLike[str]) -> ControlVector:
    """Read a control vector that llama.cpp would read.

    Raises:
        InputError: it would not; the sentence names the tensor.
        MissingError: there is no such file, or the package gguf is not installed.
    """
    file = Path(path)
    check_gguf(file)
    _check_package("reading")
    import gguf

    try:
        reader: Any = gguf.GGUFReader(file)
        tensors = [
            (str(tensor.name), tensor.tensor_type.name, tuple(map(int, tensor.shape)), tensor.data) for tensor in reader.tensors
        ]
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError, struct.error) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"{file.name}: cannot be read as GGUF ({reason}); it is cut off or damaged, copy or download it again"
        ) from error
    architecture = _text(reader, "general.architecture")
    if architecture != ARCHITECTURE:
        raise InputError(
            f"{file.name}: holds a {architecture or 'file of no architecture'}, wanted a {ARCHITECTURE}; check which file this is"
        )
    pushes: dict[Site, Tensor] = {}
    for name, kind, shape, data in tensors:
        pushes[_site(file.name, name)] = _vector(file.name, name, kind, shape, data)
    if not pushes:
        raise InputError(f"{file.name}: holds no tensor, wanted direction.1 or later; make it again")
    _same_length(file.name, pushes)
    return ControlVector(
        dict(sorted(pushes.items(), key=lambda item: item[0].index)), _text(reader, f"{ARCHITECTURE}.model_hint")
    )


def _site(file: str, name: str) -> Site:
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"{file}: tensor {name!r} is none of a control vector's; wanted direction.K with K the number of a block"
        )
    if int(match[1]) == 0:
        raise InputError(f"{file}: tensor {name!r} is for the output of block 0, which llama.cpp cannot touch; wanted 1 or later")
    return Site("resid", int(match[1]))


def _vector(file: str, name: str, kind: str, shape: tuple[int, ...], data: Any) -> Tensor:
    if kind != "F32":
        raise InputError(f"{file}: tensor {name!r} is {kind}, wanted F32; write it again in fp32")
    if len(shape) != 1:
        raise InputError(f"{file}: tensor {name!r} has shape {shape}, wanted one dimension")
    vector = torch.from_numpy(data.copy())
    if not bool(torch.isfinite(vector).all()):
        raise InputError(f"{file}: tensor {name!r} holds a NaN or an infinity; make it again")
    return vector


def _same_length(file: str, pushes: Mapping[Site, Tensor]) -> None:
    first, *others = pushes.items()
    for site, push in others:
        if len(push) != len(first[1]):
            got = f"tensor 'direction.{site.index}' has {len(push)} numbers, 'direction.{first[0].index}' {len(first[1])}"
            raise InputError(f"{file}: {got}; wanted all of one length")


def _check(pushes: Mapping[Site, Tensor]) -> None:
    if not pushes:
        raise InputError("pushes: got none, wanted one at resid:1 or later")
    for site, push in pushes.items():
        if site.kind != "resid" or site.index < 1:
            raise InputError(f"pushes: got one at {site}, wanted resid:1 or later: nothing else has a place in a control vector")
        if push.ndim != 1:
            raise InputError(f"pushes at {site}: got shape {tuple(push.shape)}, wanted (d,)")
        finite(push, f"pushes at {site}")
    _same_length("pushes", pushes)


def _text(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    return "" if field is None or not field.parts else bytes(field.parts[-1]).decode(errors="replace")


def _check_package(doing: str) -> None:
    if util.find_spec("gguf") is None:
        raise MissingError(f"{doing} a control vector needs gguf; run: pip install 'strandscope[gguf]'")
