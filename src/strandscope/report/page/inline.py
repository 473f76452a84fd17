"""What a page carries inside it: scripts and styles as the front end built them, and how its policy names those that may run."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from ...errors import InputError


def built(name: str) -> str:
    """A file of the front end's build (`make page`), or "" where it was not built.

    Raises:
        InputError: it would end the block that it is to stand in.
    """
    file = resources.files(__package__ or "") / "static" / name
    if not file.is_file():
        return ""
    return inner(file.read_text(encoding="utf-8"), name)


def inner(text: str, name: str) -> str:
    """The text, fit to stand inside a script or style block."""
    if "</script" in text.lower() or "</style" in text.lower():
        raise InputError(f"{name}: the build holds a closing tag of its own; build the page again")
    return text


def source(text: str) -> str:
    """How a Content-Security-Policy names an inline script or style: by its SHA-256."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
