"""Finished stages of an audit, kept on disk so that one that was interrupted goes on where it was.

A stage is kept under the digest of everything that its result depends on; another seed, network, data set or version has another
digest, so nothing stale is ever taken. What is kept is checked when it is read, like any other input.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .. import io
from .finding import as_json, from_json

T = TypeVar("T")
_ABOUT = "Finished stages of this audit, kept so that an interrupted one goes on where it was. Delete this folder freely.\n"


@dataclass(frozen=True)
class Kept:
    """A folder of finished stages; with `folder` None nothing is kept. `taken` fills with the names of stages found there."""

    folder: Path | None
    taken: list[str] = field(default_factory=list)

    @classmethod
    def below(cls, out: Path | None) -> Kept:
        """Below the report's folder, which must be writable: that is found out now, and not after minutes of measuring."""
        if out is None:
            return cls(None)
        io.write_text(out / ".work" / "about.txt", _ABOUT)
        return cls(out / ".work")

    def file(self, key: str, name: str) -> Path | None:
        return None if self.folder is None else self.folder / key / name

    def get(self, key: str, name: str, kind: type[T], stage: str) -> T | None:
        path = self.file(key, f"{name}.json")
        if path is None or not path.is_file():
            return None
        found = from_json(kind, io.read_text(path), str(path))
        self.taken.append(stage)
        return found

    def put(self, key: str, name: str, value: Any) -> None:
        path = self.file(key, f"{name}.json")
        if path is not None:
            io.write_json(path, as_json(value))
