"""Which network is this? SHA-256 over what decides its numbers: the stored tensors, the tokenizer and the chat template.

Tensors are hashed as stored, before any cast, sorted by name, so neither sharding nor the dtype asked for changes the
fingerprint. A GGUF file holds all three, so there it is the file's own hash: stable across conversions. Of a module in memory
it is the state dict. RWKV in transformers rescales its weights in its first pass, so such a module that has run differs from
one that has not.

Hashes of files are remembered in the user's cache by (real path, size, modification time, change time, inode): weights that were
written anew under an old modification time are hashed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, MissingError
from ..io import cache_folder, read_json, read_text, write_text
from ..provenance import digest

_CHUNK = 1 << 24  # bytes read at a time
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a whole file."""
    return _remembered([path], lambda: _sha(_chunks(path, 0, path.stat().st_size)))


def folder_fingerprint(folder: Path) -> str:
    """Of a model folder in the layout of transformers: every safetensors file in it, tokenizer and chat template."""
    weights = sorted(folder.glob("*.safetensors"))
    words = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    template = [folder / name for name in ("chat_template.jinja", "tokenizer_config.json") if (folder / name).is_file()]

    def compute() -> str:
        for path in [*words, *template]:  # what is cut off is refused here, by name: its readers raise whatever they like
            if path.suffix == ".json":
                read_json(path)
        tensors = [entry for path in weights for entry in stored_tensors(path)]
        texts = {path.name: _sha(_chunks(path, 0, path.stat().st_size)) for path in words}
        return digest(sorted(tensors), texts, _template(folder))

    return _remembered([*weights, *words, *template], compute)


def module_fingerprint(module: nn.Module, tokenizer: Any = None) -> str:
    tensors = sorted(tensor_entry(name, tensor) for name, tensor in module.state_dict().items())
    if tokenizer is None:
        return digest(tensors)
    return digest(tensors, tokenizer_digest(tokenizer))


def tokenizer_digest(tokenizer: Any) -> str:
    """Of a tokenizer in memory and its chat template; how it was last told to pad and truncate is not part of it."""
    if not tokenizer.is_fast:
        return digest(sorted(tokenizer.get_vocab().items()), tokenizer.chat_template)
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest({name: value for name, value in told.items() if name not in ("padding", "truncation")}, tokenizer.chat_template)


def tensor_entry(name: str, tensor: Tensor) -> list[Any]:
    """[name, dtype, shape, SHA-256 of the bytes] of a tensor in memory."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return [name, str(tensor.dtype), list(tensor.shape), hashlib.sha256(data.data).hexdigest()]


def stored_tensors(path: Path) -> list[list[Any]]:
    """[name, dtype, shape, SHA-256 of the bytes] of each tensor in a safetensors file.

    Raises:
        InputError: the file is cut off or is no safetensors file.
    """
    size = path.stat().st_size
    broken = InputError(
        f"{path}: not a whole safetensors file ({size} bytes); it is cut off or damaged, copy or download it again"
    )
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise broken
        try:
            header = json.loads(file.read(length))
            entries = {name: value for name, value in header.items() if name != "__metadata__"}
            ends = [value["data_offsets"][1] for value in entries.values()]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise broken from None
    start = 8 + length
    if size != start + max(ends, default=0):
        raise broken
    return [
        [
            name,
            value["dtype"],
            value["shape"],
            _sha(_chunks(path, start + value["data_offsets"][0], start + value["data_offsets"][1])),
        ]
        for name, value in sorted(entries.items())
    ]


def _template(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    if (folder / "tokenizer_config.json").is_file():
        return read_json(folder / "tokenizer_config.json").get("chat_template")
    return None


def _chunks(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < stop:
            data = file.read(min(_CHUNK, stop - start))
            if not data:
                raise InputError(f"{path}: ends early; it is cut off, or being written: try again when it is whole")
            start += len(data)
            yield data


def _sha(chunks: Iterable[bytes]) -> str:
    sha = hashlib.sha256()
    for chunk in chunks:
        sha.update(chunk)
    return sha.hexdigest()


def _facts(path: Path) -> tuple[str | int, ...]:
    now = path.stat()
    return os.path.realpath(path), now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino


def _remembered(paths: Sequence[Path], compute: Any) -> str:
    facts = [_facts(path) for path in paths]
    note = cache_folder() / "fingerprints" / digest(facts)
    if note.is_file():
        return read_text(note)
    value = compute()
    try:
        write_text(note, value)
    except MissingError:  # a cache that cannot be written costs time at the next load and changes no number
        return value
    return value
