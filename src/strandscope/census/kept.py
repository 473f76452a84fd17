"""Measured networks, kept on disk so that an interrupted census goes on where it was.

A network's file is named by the digest of everything its figures depend on: the trained network with its configuration, dtype,
device and answer to the checks' rows (another head, or code changed in memory, is another network whatever the weights), the rows
as they were cut, the sites, draws, probes, seeds and versions. Another of any has another name, so nothing stale is ever taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import io
from ..errors import InputError
from ..provenance import digest, versions
from ..strand.mixture import Coverage
from ..subject.port import scores
from ..subject.subject import Subject
from .contexts import Contexts
from .measure import Measurement, Profile

_SCHEMA = "strandscope/census-network/1"
_ABOUT = "Networks that this census has measured, kept so that an interrupted one goes on where it was. Delete freely.\n"
_PER_CONTEXT = ("entropy", "scale", "output")
_ARRAYS = tuple(one.name for one in fields(Profile) if one.name != "width")


@dataclass(frozen=True)
class Kept:
    """A folder of measured networks; with `folder` None nothing is kept. `taken` fills with the names of those found there."""

    folder: Path | None
    taken: list[str] = field(default_factory=list)

    @classmethod
    def below(cls, out: Path | None) -> Kept:
        """Below the census's folder, which must be writable: that is found out now, and not after minutes of measuring."""
        if out is None:
            return cls(None)
        io.write_text(out / ".work" / "about.txt", _ABOUT)
        return cls(out / ".work")

    def get(self, name: str, key: str) -> Measurement | None:
        path = self._file(key)
        if path is None or not path.is_file():
            return None
        found = read(path)
        self.taken.append(name)
        return found

    def put(self, measured: Measurement, key: str) -> None:
        path = self._file(key)
        if path is not None:
            write(measured, path)

    def _file(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"network-{key[:24]}.safetensors"


def network_key(subject: Subject, contexts: Contexts, **spec: Any) -> str:
    """The digest of what a network's figures depend on; `spec` are the settings, JSON-able."""
    configuration = [getattr(subject.module, name, None) for name in ("config", "generation_config")]
    plain = [one.to_dict() for one in configuration if one is not None and hasattr(one, "to_dict")]
    told = [repr(sorted((key, repr(value)) for key, value in one.items() if key != "_name_or_path")) for one in plain]
    with torch.no_grad():
        answer = scores(subject.module(**subject.batch(list(subject.probe)))).float().cpu().numpy().tobytes()
    network = [subject.fingerprint, str(subject.dtype), str(subject.device), repr(subject.module), *told]
    rows = [contexts.examples.digest, list(contexts.examples.ids), contexts.cut]
    return digest(network, answer, rows, spec, versions())


def write(measured: Measurement, path: Path) -> None:
    tensors = {name: torch.from_numpy(getattr(measured, name)) for name in _PER_CONTEXT}
    for site, profile in measured.sites.items():
        tensors |= {f"{site}/{name}": torch.from_numpy(getattr(profile, name)) for name in _ARRAYS}
    curves = {}
    for site, coverage in measured.coverage.items():
        arrays, curves[site] = _apart(coverage)
        tensors |= {f"{site}/coverage/{name}": torch.from_numpy(array.copy()) for name, array in arrays.items()}
    apart = (*_PER_CONTEXT, "sites", "coverage")
    plain = {one.name: getattr(measured, one.name) for one in fields(Measurement) if one.name not in apart}
    widths = {site: profile.width for site, profile in measured.sites.items()}
    io.save_tensors(path, tensors, {"schema": _SCHEMA, **plain, "widths": widths, "curves": curves})


def _apart(coverage: Coverage) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A coverage curve's arrays by name (by size too, where there is one for each), and the rest, JSON-able."""
    arrays, plain = {}, {}
    for one in fields(Coverage):
        value = getattr(coverage, one.name)
        if isinstance(value, np.ndarray):
            arrays[one.name] = value
        elif isinstance(value, Mapping):
            arrays |= {f"{one.name}/{size}": array for size, array in value.items()}
        else:
            plain[one.name] = value
    return arrays, plain


def _together(arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> Coverage:
    made: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    for name, array in arrays.items():
        part, _, size = name.partition("/")
        if size:
            made.setdefault(part, {})[int(size)] = array
        else:
            made[part] = array
    return Coverage(**made)


def read(path: Path) -> Measurement:
    """What `write` wrote.

    Raises:
        InputError: the file holds no measured network, or not a whole one.
    """
    tensors, manifest = io.load_tensors(path)
    if manifest.get("schema") != _SCHEMA:
        raise InputError(f"{path}: a {manifest.get('schema', 'file of another kind')}, wanted {_SCHEMA}; delete it and run again")
    try:
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        sites = {
            site: Profile(width, **{name: arrays[f"{site}/{name}"] for name in _ARRAYS})
            for site, width in manifest["widths"].items()
        }
        curves = {site: _together(_below(arrays, f"{site}/coverage/"), plain) for site, plain in manifest["curves"].items()}
        plain = {name: value for name, value in manifest.items() if name not in ("schema", "widths", "curves")}
        return Measurement(**plain, **{name: arrays[name] for name in _PER_CONTEXT}, sites=sites, coverage=curves)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a whole measured network ({error}); delete it and run again") from None


def _below(arrays: Mapping[str, np.ndarray], start: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
