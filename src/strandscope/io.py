"""Files, read with line numbers and written whole or not at all.

A write goes to a temporary file beside its target and is renamed over it, so a full disk or an interrupt leaves the old file or
none. Tensors are safetensors with a JSON manifest in the header; nothing here unpickles.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import InputError, MissingError

MANIFEST = "strandscope"  # the key of our JSON in a safetensors header


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it is removed.

    A link is followed: the file that it points to is replaced. What is there and no regular file is refused. Permissions are
    those of the file that is replaced, or of any new file.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        _check_replaceable(Path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
        yield temporary
        _flush(temporary)
        temporary.chmod(mode)  # safetensors makes the file anew, for its owner alone
        temporary.replace(target)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a file that could not be written, before the work that it is to hold; nothing is made."""
    place = Path(path)
    try:
        _check_replaceable(place)
        with tempfile.TemporaryFile(dir=next(folder for folder in place.absolute().parents if folder.exists())):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def staged(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder inside `folder`; on success its files are moved to their places, on failure none is."""
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".new.", dir=target))
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        yield temporary
        for file in sorted(path for path in temporary.rglob("*") if path.is_file()):
            place = target / file.relative_to(temporary)
            _check_replaceable(place)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)  # within one file system, so that a full disk cannot stop it half-way
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _check_replaceable(path: Path) -> None:
    try:
        mode = path.stat().st_mode  # of the path as given: /dev/stdout resolves to a name that does not exist
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "there is a folder of that name")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "it is a device or a pipe, wanted a file")


def cannot_write(target: str | os.PathLike[str], error: Exception, elsewhere: str = "") -> MissingError:
    """What a failed write says; `elsewhere` tells how another place is chosen where that is no argument."""
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    if full:
        why = "the disk is full; free some room" + (f" or {elsewhere}" if elsewhere else "")
    else:
        why = f"{getattr(error, 'strerror', None) or error}; {elsewhere or 'choose another place'}"
    return MissingError(f"cannot write {os.fspath(target)}: {why} and run the same command again (nothing was left half-written)")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Strict JSON: a NaN or an infinity is our bug and raises."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: str | os.PathLike[str]) -> str:
    """UTF-8 text (a leading byte-order mark is dropped), or one sentence that says what is wrong with the file."""
    source = Path(path)
    try:
        data = source.read_bytes()
    except FileNotFoundError:
        raise MissingError(f"{source}: there is no such file; check the path") from None
    except OSError as error:
        raise MissingError(f"{source}: cannot be read ({error.strerror}); check its permissions") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{source.name}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}); convert it, for example with iconv -t UTF-8"
        ) from None


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file that holds one, or one sentence that names the file."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{os.fspath(path)}: not whole JSON ({error}); it is cut off or damaged, copy or download it again"
        ) from None
    if not isinstance(value, dict):
        raise InputError(f"{os.fspath(path)}: got a JSON {type(value).__name__}, wanted an object; copy or download it again")
    return value


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) for every line that is not blank."""
    name = Path(path).name
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{name}:{number}: not JSON ({error.msg} at column {error.colno}); each line holds one object"
            ) from None
        except RecursionError:
            raise InputError(f"{name}:{number}: objects nested too deeply to be read; write one flat object a line") from None
        except ValueError as error:  # an integer of thousands of digits
            raise InputError(f"{name}:{number}: cannot be read ({error}); write such a number as a string") from None
        if not isinstance(row, dict):
            raise InputError(
                f'{name}:{number}: got a JSON {type(row).__name__}, wanted an object such as {{"text": …, "label": …}}'
            )
        yield number, row


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any]) -> None:
    header = {MANIFEST: json.dumps(manifest, ensure_ascii=False, allow_nan=False, sort_keys=True)}
    with atomic(path) as temporary:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, str(temporary), metadata=header)


def load_tensors(
    path: str | os.PathLike[str], only: Collection[str] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors, or those of the names in `only` that are there, and our manifest of a file that `save_tensors` wrote."""
    source = Path(path)
    if not source.is_file():
        raise MissingError(f"{source}: there is no such file; check the path")
    try:
        with safe_open(str(source), framework="pt") as file:
            metadata = file.metadata() or {}
            # Cloned into memory of their own: in the file they start at odd addresses, where kernels add up in another order.
            names = [name for name in file.keys() if only is None or name in only]  # noqa: SIM118 (safe_open is no mapping)
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{source.name}: not a whole safetensors file ({error}); copy or make it again") from None
    if MANIFEST not in metadata:
        raise InputError(f"{source.name}: a safetensors file without a Strandscope manifest; wanted one that Strandscope saved")
    try:
        return tensors, json.loads(metadata[MANIFEST])
    except json.JSONDecodeError as error:
        raise InputError(f"{source.name}: its manifest is not JSON ({error.msg}); copy or make it again") from None


def load_as(path: str | os.PathLike[str], schema: str, what: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The same, of a file whose manifest says that it is `what` ("a strand") under this schema."""
    tensors, manifest = load_tensors(path)
    found = manifest.get("schema") if isinstance(manifest, dict) else manifest
    if found != schema:
        raise InputError(f"{Path(path).name}: holds {str(found)[:80]!r}, wanted {what} ({schema}); check which file this is")
    return tensors, manifest


@contextmanager
def made_from(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Around the making of `what` ("the strand") from a manifest: what the manifest lacks becomes a sentence."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError) as error:
        name = Path(path).name
        raise InputError(f"{name}: its manifest lacks or garbles {error}; save {what} again with this version") from None


def cache_folder() -> Path:
    """The user's cache: $STRANDSCOPE_CACHE, or $XDG_CACHE_HOME/strandscope, or ~/.cache/strandscope."""
    named = os.environ.get("STRANDSCOPE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "strandscope"
