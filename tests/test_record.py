"""Records: frozen, checked when they are made, and a file that is not one is told where."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from pydantic import ValidationError

from strandscope.errors import InputError
from strandscope.report.record import as_json, from_json, record


@record
class Inner:
    share: float


@record
class Outer:
    name: str
    parts: tuple[Inner, ...]


def test_a_record_takes_what_it_names_and_no_nan_and_stays_as_it_was() -> None:
    made = Outer(name="x", parts=(Inner(share=0.5),))
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="finite"):
            Inner(share=value)
    with pytest.raises((ValidationError, TypeError), match="other"):
        Inner(share=0.5, other=1)  # type: ignore[call-arg]
    with pytest.raises((FrozenInstanceError, ValidationError)):
        made.name = "y"  # type: ignore[misc]
    assert from_json(Outer, '{"name": "x", "parts": [{"share": 0.5}]}', "here") == made
    assert as_json(made) == {"name": "x", "parts": [{"share": 0.5}]}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (
            '{"name": "x", "parts": [{"share": 0.5}, {"share": "much"}]}',
            r"here: parts\.1\.share: .*; delete the file and measure",
        ),
        ('{"name": "x", "parts": [], "more": 1}', "here: more: "),
        ('{"name": "x", "parts": [{"share": NaN}]}', r"here: parts\.0\.share: "),
        ("{", "here: the whole file: "),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_place(text: str, place: str) -> None:
    with pytest.raises(InputError, match=place):
        from_json(Outer, text, "here")
