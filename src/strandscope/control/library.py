"""Saved strands and erasers by the names that expressions use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, MissingError
from ..io import load_tensors
from ..strand import erase, strand
from ..strand.erase import Eraser
from ..strand.strand import Strand

if TYPE_CHECKING:
    from ..subject.subject import Subject

_KINDS = {strand.SCHEMA: Strand, erase.SCHEMA: Eraser}


def check_fits(one: Strand | Eraser, subject: Subject) -> None:
    """Raise InputError where the network's states at its site are of another width, as they can be when it is forced."""
    held, width = len(one.pattern if isinstance(one, Strand) else one.mean), subject.port(one.site).width
    if held != width:
        raise InputError(
            f"strand {one.name!r}: {held} wide, and {one.site} of {subject.name} is {width} wide; find it again in this network"
        )


def load_library(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[Strand | Eraser], list[str]]:
    """Every strand and eraser in some files and folders, and the names of files in these folders that hold something else.

    Raises:
        MissingError: a file or folder is not there.
        InputError: a file that was named is no strand and no eraser, or one is broken.
    """
    found: list[Strand | Eraser] = []
    others: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            raise MissingError(f"{path}: is not there; name a folder of strands, such as audit/strands, or a .safetensors file")
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        for file in files:
            _, manifest = load_tensors(file)
            schema = manifest.get("schema") if isinstance(manifest, dict) else None
            kind = _KINDS.get(str(schema))
            if kind is not None:
                found.append(kind.load(file))
            elif path.is_dir():
                others.append(str(file))
            else:
                raise InputError(
                    f"{file.name}: holds {str(schema)[:80]!r}, wanted a strand or an eraser; check which file this is"
                )
    return found, others
