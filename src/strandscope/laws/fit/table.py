"""A table of runs: one or two sizes, what was measured, its standard error and its group where given. Read from CSV by line.

What it promises: every figure is finite, every error above 0, and each row knows its place (`runs.csv:7`). Nothing is skipped: a
gap is an error that names its line.
"""

from __future__ import annotations

import csv
import difflib
import io as text_io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ... import io
from ...errors import InputError
from .forms import Floats

# names that columns go by where none is named, in this order
_SIZES = (
    "x",
    "n",
    "size",
    "params",
    "parameters",
    "n_params",
    "d",
    "tokens",
    "n_tokens",
    "compute",
    "flops",
    "c",
    "width",
    "step",
    "steps",
    "t",
)
_OUTCOMES = ("y", "loss", "test_loss", "val_loss", "error", "test_error", "l")
_ERRORS = ("se", "stderr", "std_err", "standard_error", "sem", "sigma")
_GROUPS = ("group", "run", "seed")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Sizes (columns, n), y (n), standard errors and group codes (n) where there are some; names of columns, places of rows."""

    name: str
    names: tuple[str, ...]
    outcome: str
    x: Floats
    y: Floats
    error: Floats | None
    groups: np.ndarray | None
    places: tuple[str, ...]

    @classmethod
    def of(
        cls, x: ArrayLike, y: ArrayLike, error: ArrayLike | None = None, groups: ArrayLike | None = None, name: str = "table"
    ) -> Table:
        """From arrays: sizes (n,) or (columns, n).

        Raises:
            InputError: lengths differ, or a figure is not finite or an error not above 0.
        """
        sizes, out = np.atleast_2d(np.asarray(x, dtype=np.float64)), np.asarray(y, dtype=np.float64)
        errors = None if error is None else np.asarray(error, dtype=np.float64)
        named = None if groups is None else np.asarray(groups)
        lengths = {sizes.shape[1], len(out), *(len(part) for part in (errors, named) if part is not None)}
        if len(lengths) != 1 or out.ndim != 1:
            raise InputError(f"{name}: got lengths {sorted(lengths)}, wanted as many of each")
        places = tuple(f"{name}, row {number}" for number in range(1, len(out) + 1))
        for what, figures in (*((f"x{at}", part) for at, part in enumerate(sizes)), ("y", out), ("error", errors)):
            wrong = np.zeros(len(out), bool) if figures is None else ~np.isfinite(figures) | ((figures <= 0) & (what == "error"))
            if wrong.any() and figures is not None:
                row = int(wrong.argmax())
                raise InputError(
                    f"{places[row]}: {what} is {figures[row]}, wanted a finite number" + " above 0" * (what == "error")
                )
        codes = None if named is None else np.unique(named, return_inverse=True)[1]
        names = ("x",) if len(sizes) == 1 else tuple(f"x{at}" for at in range(1, len(sizes) + 1))
        return cls(name, names, "y", sizes, out, errors, codes, places)

    def of_rows(self, rows: np.ndarray) -> Table:
        """Some rows (indices, or one yes or no each)."""
        at = np.flatnonzero(rows) if rows.dtype == bool else rows
        groups = None if self.groups is None else np.unique(self.groups[at], return_inverse=True)[1]
        error = None if self.error is None else self.error[at]
        return Table(
            self.name, self.names, self.outcome, self.x[:, at], self.y[at], error, groups, tuple(self.places[i] for i in at)
        )  # fmt: skip

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], columns: int = 1, x: Sequence[str] = (), y: str | None = None,
        error: str | None = None, group: str | None = None,
    ) -> Table:  # fmt: skip
        """A CSV file with a header. Columns that are not named are looked for by their usual names.

        Raises:
            InputError: the file is no table of numbers, or a column is missing or cannot be told from others.
        """
        name = Path(path).name
        header, rows = _rows(path, name)
        sizes = [_named(header, one, name, "--x") for one in x] or _sizes(header, columns, name, {y, error, group})
        if len(sizes) != columns:
            wanted = f"this form wants {columns}; name --x {'once' if columns == 1 else f'{columns} times'}"
            raise InputError(f"{name}: {len(sizes)} columns of sizes named, {wanted}")
        outcome = _named(header, y, name, "--y") if y else _outcome(header, name, {*sizes, error, group})
        errors = _named(header, error, name, "--error") if error else _usual(header, _ERRORS, {*sizes, outcome})
        grouped = _named(header, group, name, "--group") if group else _usual(header, _GROUPS, {*sizes, outcome, errors})
        used = [*sizes, outcome, *([errors] if errors else [])]
        if len(set(used)) != len(used):
            raise InputError(f"{name}: columns {', '.join(used)}: one is used twice; name --x, --y and --error apart")
        figures = {column: _numbers(rows, header.index(column), column, above_zero=column == errors) for column in used}
        codes = None
        if grouped is not None:
            at = header.index(grouped)
            for place, cells in rows:
                if not cells[at]:
                    raise InputError(f"{place}: {grouped} is empty; name the row's group, or leave the column out")
            codes = np.unique([cells[at] for _, cells in rows], return_inverse=True)[1]
            codes = None if int(codes.max()) + 1 == len(rows) else codes  # every row its own group: rows
        return cls(
            name, tuple(sizes), outcome, np.stack([figures[one] for one in sizes]), figures[outcome],
            figures[errors] if errors else None, codes, tuple(place for place, _ in rows),
        )  # fmt: skip


def _rows(path: str | os.PathLike[str], name: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The header, and (place, cells) of each row."""
    reader = csv.reader(text_io.StringIO(io.read_text(path).removeprefix("\ufeff"), newline=""), strict=True)
    rows: list[tuple[str, list[str]]] = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if not header:
            raise InputError(f"{name}: the file is empty; wanted a header line such as x,y and a row a run")
        repeated = next((key for key in header if not key or header.count(key) > 1), None)
        if repeated is not None:
            raise InputError(f"{name}:1: column {repeated!r} is empty or repeated; give every column its own name")
        if all(_is_number(cell) for cell in header):
            raise InputError(f"{name}:1: the first line is numbers ({','.join(header)}), wanted a header line such as x,y")
        start = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) != len(header):
                    raise InputError(
                        f"{name}:{start}: {len(cells)} cells under a header of {len(header)}; fill the gap or quote the commas"
                    )
                rows.append((f"{name}:{start}", [cell.strip() for cell in cells]))
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}:{reader.line_num}: not CSV ({error}); quote cells that hold commas or quotes") from None
    if not rows:
        raise InputError(f"{name}: the file has a header and no rows; wanted a row a run")
    return header, rows


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _numbers(rows: list[tuple[str, list[str]]], at: int, column: str, *, above_zero: bool) -> Floats:
    figures = np.empty(len(rows))
    for number, (place, cells) in enumerate(rows):
        if not cells[at]:
            raise InputError(f"{place}: {column} is empty; fill it in or delete the row")
        if not _is_number(cells[at]):
            raise InputError(f"{place}: {column} is {cells[at]!r}, wanted a finite number; mend or delete the row")
        figures[number] = float(cells[at])
        if above_zero and figures[number] <= 0:
            raise InputError(f"{place}: {column} is {figures[number]:g}, wanted a standard error above 0; mend or delete the row")
    return figures


def _named(header: list[str], wanted: str, name: str, option: str) -> str:
    if wanted not in header:
        near = difflib.get_close_matches(wanted, header, n=1)
        hint = f"; is it {near[0]}?" if near else ""
        raise InputError(f"{name}:1: {option} {wanted}: there is no such column, only {', '.join(header)}{hint}")
    return wanted


def _usual(header: list[str], names: Sequence[str], taken: set[str | None]) -> str | None:
    """The first column, in the order of `names`, that goes by one of them."""
    by_name = {column.lower(): column for column in reversed(header) if column not in taken}
    return next((by_name[one] for one in names if one in by_name), None)


def _sizes(header: list[str], columns: int, name: str, taken: set[str | None]) -> list[str]:
    found: list[str] = []
    for _ in range(columns):
        column = _usual(header, _SIZES, {*taken, *found})
        if column is None:
            break
        found.append(column)
    if len(found) == columns:
        return found
    if len(header) == columns + 1:  # nothing else it could be
        return header[:columns]
    raise InputError(f"{name}:1: cannot tell which column is a size, of {', '.join(header)}; name {columns} with --x")


def _outcome(header: list[str], name: str, taken: set[str | None]) -> str:
    left = [column for column in header if column not in taken]
    usual = _usual(header, _OUTCOMES, taken)
    if usual is not None:
        return usual
    if len(left) == 1:
        return left[0]
    raise InputError(f"{name}:1: cannot tell which column was measured, of {', '.join(left or header)}; name it with --y")
