"""A training run as the page follows it: the lines of its record that were written since a line by number.

The record is only ever appended to, and a resumption takes back lines that were given out before. So what is asked next is the
number of the last line in the file, not how many count; and where a resumption lies beyond it, or the file has fewer lines
(another run), everything is given again and said to be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MissingError
from ..recorder.folder import about_of, lines_of


def recorded(folder: Path | None, since: int) -> dict[str, Any]:
    """{"about", "lines", "last", "again"}, and "reason" where there is no run; `again` is whether what was given before does not
    count any more.

    Raises:
        InputError: a damaged run.
    """
    if folder is None:
        return _none(since, "this server was started without one (--run DIR)")
    try:
        about = about_of(folder)
    except MissingError as error:  # a run that has not begun
        return _none(since, str(error))
    try:
        lines, _ = lines_of(folder)
    except FileNotFoundError:  # begun, and without its record for a moment
        lines = []
    last = lines[-1]["number"] if lines else 0
    new = [line for line in lines if line.get("number", 0) > since]  # what a resumption left of a line has none, and is old
    again = since > 0 and (last < since or any(line["kind"] == "resumed" for line in new))
    return {"about": about, "lines": lines if again or not since else new, "last": last, "again": again}


def _none(since: int, reason: str) -> dict[str, Any]:
    return {"about": None, "lines": [], "last": 0, "again": since > 0, "reason": reason}
