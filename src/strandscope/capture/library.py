"""Text that is on every machine: the standard library of the Python that runs, its sources and its docstrings, by module.

Left out are other people's packages, tests, and folders that hold data or old tools. It differs between versions of Python, so
whoever measures on it records a digest.

What it does not know: who has read it. Networks that were trained on public code have most likely seen some version of it.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from ..errors import MissingError

_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "__pycache__"})


def folder() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def modules() -> Iterator[tuple[str, Path]]:
    """(name such as `json/decoder.py`, its file), in the order of the paths."""
    root = folder()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _LEFT_OUT.isdisjoint(name.parts):
            yield name.as_posix(), path


def sources() -> dict[str, str]:
    """Source text by module; a file that is no UTF-8 is none (the library holds some, for its own tests).

    Raises:
        MissingError: the library's sources are not there.
    """
    found = {}
    for name, path in modules():
        try:
            found[name] = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
    if not found:
        raise MissingError(f"standard library: no sources in {folder()}; install Python with its library")
    return found


@cache
def docstrings() -> Mapping[str, tuple[str, ...]]:
    """Docstrings by module, no text twice, the longest first."""
    seen: set[str] = set()
    found = {}
    for name, path in modules():
        fresh = {" ".join(text.casefold().split()): text for text in _docstrings(path)}
        texts = [text for words, text in fresh.items() if words not in seen]
        seen |= fresh.keys()
        if texts:
            found[name] = tuple(sorted(texts, key=lambda text: (-len(text), text)))
    return found


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # the library holds files that are wrong on purpose
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
