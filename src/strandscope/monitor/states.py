"""Rows of states that another engine took: {"states": {site: [[…] for each token]}, "group"?, "id"?}, one a line.

A file of them is read line by line, and of each line only its scores are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, MissingError
from .rows import Floats, Ints
from .sequence import sequence_scores

if TYPE_CHECKING:
    from .scoring import Reader

TEMPLATE = {"format": "states", "description": "states that another engine took", "sha256": ""}


@dataclass(frozen=True, slots=True)
class Scored:
    """(rows, concepts + channels) scores, (rows,) group codes, and the digest of what was read."""

    table: Floats
    groups: Ints
    digest: str


@dataclass(frozen=True, slots=True)
class StateRows:
    """A JSONL file of states; a row without a group is its own."""

    path: str | os.PathLike[str]

    def scored(self, reader: Reader, progress: Callable[[int, int], None] | None = None) -> Scored:
        """Read the file once.

        Raises:
            InputError: a line that is no row; the sentence names it. MissingError: there is no such file.
        """
        name, sha, scores = Path(self.path).name, hashlib.sha256(), []
        groups: dict[str, int] = {}
        codes = []
        try:
            with Path(self.path).open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    sha.update(line)
                    if line.strip():
                        states, group = _row(f"{name}:{number}", line, reader.channels.sites)
                        scores.append(_score(f"{name}:{number}", states, reader))
                        codes.append(groups.setdefault(group, len(groups)))
                        if progress is not None and number % 100 == 0:
                            progress(number, number)
        except OSError as error:
            raise MissingError(f"{self.path}: cannot be read ({error.strerror}); check the path") from error
        if not scores:
            raise InputError(f'{name}: no rows; wanted at least one, such as {{"states": {{"resid:12": [[…], …]}}}}')
        return Scored(np.stack(scores), np.array(codes, dtype=np.int64), sha.hexdigest())


def _row(where: str, line: bytes, sites: Iterable[str]) -> tuple[dict[str, Tensor], str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); each line holds one object") from None
    if not isinstance(value, dict) or "states" not in value:
        raise InputError(f'{where}: no "states"; every row of this file has to bring its states')
    group = value.get("group")
    if group is not None and (isinstance(group, bool) or not isinstance(group, str | int)):
        raise InputError(f'{where}: "group" is of type {type(group).__name__}, wanted a string')
    return states_of(where, value["states"], sites), f"row {where}" if group is None else f"group {group}"


def _score(where: str, states: Mapping[str, Tensor], reader: Reader) -> Floats:
    try:
        tokens = scored_tokens(reader.channels.scores(reader.channels.products(states)), reader)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    scores: Floats = sequence_scores(tokens[0], [len(tokens[0])], reader.aggregation)[0]
    return scores


def scored_tokens(scores: Floats, reader: Reader) -> tuple[Floats, int]:
    """The tokens of a sequence (tokens, …) that are scored, and the number of the first of them.

    Raises:
        InputError: there is none.
    """
    first = len(scores) - 1 if reader.aggregation.kind == "last" else reader.skip
    if first >= len(scores):
        raise InputError(f"{len(scores)} tokens, and the first {reader.skip} of a sequence are not scored")
    return scores[first:], first


def states_of(where: str, given: Any, sites: Iterable[str]) -> dict[str, Tensor]:
    """States (tokens, d) at every site.

    Raises:
        InputError: they are not that; the sentence begins with `where`.
    """
    if not isinstance(given, dict):
        raise InputError(f'{where}: "states" is of type {type(given).__name__}, wanted {{site: [[…] for each token]}}')
    found, lengths = {}, set()
    for site in sites:
        if site not in given:
            raise InputError(f'{where}: "states" lacks {site}; wanted {", ".join(sites)}')
        try:
            array = np.array(given[site], dtype=np.float32)
        except (TypeError, ValueError):
            array = np.empty(0)
        if array.ndim != 2 or not array.size or not np.isfinite(array).all():
            raise InputError(f'{where}: "states" at {site} are no list of finite states [[…] for each token]')
        lengths.add(len(array))
        found[site] = torch.from_numpy(array)
    if len(lengths) != 1:
        raise InputError(f'{where}: "states" have {" and ".join(map(str, sorted(lengths)))} tokens at different sites')
    return found


def holds_states(path: str | os.PathLike[str]) -> bool:
    """Whether the first row of a JSONL file brings its states."""
    try:
        with Path(path).open("rb") as lines:
            first = next((line for line in lines if line.strip()), b"{}")
        value = json.loads(first)
    except (OSError, ValueError):
        return False  # whoever reads the file says what is wrong with it
    return isinstance(value, dict) and "states" in value
