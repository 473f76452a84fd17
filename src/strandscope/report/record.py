"""What every record of a report is made of: frozen, checked when it is made, strict about its keys, never a NaN."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ..errors import InputError

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(kind: type[T]) -> type[T]:
    """A frozen dataclass whose fields are checked when it is made, and which takes no others."""
    return cast("type[T]", dataclass(frozen=True, kw_only=True, config=_STRICT)(kind))


@record
class Unmeasured:
    """A part that is left out, and why."""

    status: Literal["not measured"] = "not measured"
    reason: str


def as_json(value: Any) -> Any:
    """A record as plain JSON values, keys in the order of its fields."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def from_json(kind: type, text: str, where: str) -> Any:
    """A record of this kind from JSON text; InputError names the place that is wrong."""
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise InputError(f"{where}: {place}: {first['msg']}; delete the file and measure again") from None
