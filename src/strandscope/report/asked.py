"""What is asked of a network: concepts by name, files or rows, each with its question, checked before anything is measured."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..capture.examples import Examples, concept, concept_index
from ..errors import InputError
from ..subject.subject import Subject
from .text import visible

Concept = str | os.PathLike[str] | Examples
QUICK = ("harm", "spanish")
_FILES = (".jsonl", ".ndjson", ".csv")


@dataclass(frozen=True, slots=True)
class Asked:
    """Labelled rows, the question they put, and where they are from."""

    examples: Examples
    question: str
    source: str

    @property
    def name(self) -> str:
        return self.examples.name

    @property
    def file(self) -> str:
        """The name of its strand's file."""
        return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', self.name)}.safetensors"

    @classmethod
    def of(cls, what: Concept) -> Asked:
        """The name of a pack, a .jsonl or .csv file (or several of them with commas between, as one set), or Examples."""
        if isinstance(what, Examples):
            return cls(what, _question(what), "rows given")
        text = os.fspath(what)
        if not text.endswith(_FILES) and not isinstance(what, os.PathLike) and not Path(text).is_file():
            return cls(concept(text), concept_index()[text]["question"], f"the concept pack {text}")
        examples = Examples.from_files([text] if Path(text).is_file() else text.split(","))
        return cls(examples, _question(examples), text)


def _question(examples: Examples) -> str:
    if examples.positive is not None:
        return f"Can it be read off the network's states which rows of {examples.name} are {examples.positive}?"
    return f"Can it be read off the network's states which of {', '.join(examples.classes)} a row of {examples.name} is?"


def checked(concepts: Sequence[Concept]) -> list[Asked]:
    """What is asked, found fit to be measured.

    Raises:
        InputError: rows of one class, too few of them, two sets of one name, a name that cannot be shown.
    """
    asked = [Asked.of(name) for name in concepts]
    seen: dict[str, str] = {}
    for one in asked:
        if visible(one.name, lines=False) != one.name:
            raise InputError(f"concept {one.name!r}: its name holds a character that cannot be shown; rename the file")
        if one.name in seen.values():
            raise InputError(f"concept {one.name!r}: given twice; give it once, or rename one of two files")
        if one.file in seen:
            raise InputError(f"concepts {seen[one.file]!r} and {one.name!r} would share one strand file; rename one of them")
        seen[one.file] = one.name
        one.examples.require()
    return asked


def packs(subject: Subject, quick: bool) -> tuple[list[Concept], str]:
    """The packs that this network can take, and the sentence that says which it cannot ("" if none)."""
    index = {name: about for name, about in concept_index().items() if about["positive"]}
    wanted = [name for name in index if not quick or name in QUICK]
    if not subject.anatomy.tokens or subject.tokenizer is None:
        raise InputError(f"{subject.name} takes no text, so no concept pack fits it; give concepts=[Examples.from_rows(…)]")
    if subject.chats:
        return list(wanted), ""
    taken = [name for name in wanted if index[name]["format"] == "text"] or [
        name for name in index if index[name]["format"] == "text"
    ]
    left = ", ".join(name for name in wanted if name not in taken)
    return list(taken), f"{left}: left out, for they are chats and the network's tokenizer has no chat template."
