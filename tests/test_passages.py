"""The passages of a census: what they must be, that each rule refuses what breaks it, that the embedded network can take them."""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Callable

import pytest

import pack_rules
from pack_rules import check_passages, load_rows, smollm2_tokenizer
from strandscope.capture.examples import passages

Rows = list[dict]
WINDOW = 512  # tokens: what a census is planned for; far below what the embedded network can take


@pytest.fixture(scope="module")
def rows() -> Rows:
    return load_rows("passages")


def test_the_passages_are_what_a_census_needs(rows: Rows) -> None:
    check_passages(rows)


def test_they_are_opened_as_texts_with_their_kinds_as_groups(rows: Rows) -> None:
    opened = passages()
    assert (opened.kind, opened.labelled, opened.name) == ("text", False, "passages")
    assert opened.texts() == [row["text"] for row in rows] and list(opened.ids) == [row["id"] for row in rows]
    assert [row.group for row in opened.rows] == [row["group"] for row in rows]
    assert len(set(opened.groups.tolist())) == len({row["group"] for row in rows}), "copies of a row would join two groups"
    assert opened.copies == 0


def test_the_kinds_follow_one_another_in_turn(rows: Rows) -> None:
    kinds = [row["group"] for row in rows]
    turn = len(set(kinds))
    assert all(kinds[start : start + turn] == kinds[:turn] for start in range(0, len(kinds), turn))
    assert [row["id"] for row in rows] == [f"passage-{number:03d}" for number in range(1, 201)]


@pytest.mark.real
def test_every_passage_fits_the_embedded_network() -> None:
    """A row that does not fit is an error in a census, not a shortened row."""
    lengths = {row.id: len(ids) for row, ids in zip(passages().rows, _token_ids(), strict=True)}
    assert {name: length for name, length in lengths.items() if not 16 <= length <= WINDOW} == {}


@pytest.mark.real
def test_the_network_reads_at_many_different_tokens() -> None:
    """Of 200 last tokens no one is a fifth, and half as many are different."""
    last = [ids[-1] for ids in _token_ids()]
    assert len(set(last)) >= 100 and max(last.count(token) for token in set(last)) <= 40


def _token_ids() -> list[list[int]]:
    return smollm2_tokenizer()(passages().texts())["input_ids"]


# --- each rule refuses what breaks it ---


def one_less(rows: Rows) -> None:
    del rows[7]


def repeated_id(rows: Rows) -> None:
    rows[1]["id"] = rows[0]["id"]


def labelled(rows: Rows) -> None:
    rows[7]["label"] = 1


def few_kinds(rows: Rows) -> None:
    kinds = sorted({row["group"] for row in rows})
    for row in rows:
        row["group"] = kinds[kinds.index(row["group"]) % 19]


def small_kind(rows: Rows) -> None:
    rows[0]["group"] = rows[1]["group"]


def control_character(rows: Rows) -> None:
    rows[3]["text"] = rows[3]["text"].replace(" ", "\t", 1)


def soft_hyphen(rows: Rows) -> None:
    """It cannot be seen in an editor, and is two tokens."""
    rows[3]["text"] = rows[3]["text"].replace("e", "e\u00ad", 1)


def trailing_blank(rows: Rows) -> None:
    rows[3]["text"] += " "


def decomposed(rows: Rows) -> None:
    rows[4]["text"] = unicodedata.normalize("NFD", rows[4]["text"])


def too_short(rows: Rows) -> None:
    rows[0]["text"] = " ".join(rows[0]["text"].split()[:20])


def too_long(rows: Rows) -> None:
    rows[0]["text"] = " ".join([*rows[0]["text"].split(), *rows[20]["text"].split()])


def mostly_short(rows: Rows) -> None:
    """None below the least, and too many near it. A table has few words between blanks, and stays as it is."""
    for row in [row for row in rows if row["group"] not in ("data", "code")][:40]:
        row["text"] = " ".join(row["text"].split()[:45])


def one_opening(rows: Rows) -> None:
    """The case of a letter and a comma are no other opening."""
    rows[9]["text"] = "Marta counted, the OARS " + rows[9]["text"]


def one_first_word(rows: Rows) -> None:
    for row in rows[:11]:
        row["text"] = f"However {row['text']}"


def sentence_ends(rows: Rows) -> None:
    for row in rows[:40]:
        row["text"] += "."


def one_ending(rows: Rows) -> None:
    for row in rows[:21]:
        row["text"] += " moreover"


def near_copy(rows: Rows) -> None:
    """Every second sentence of another passage, behind an opening of its own and before an ending of its own."""
    said = rows[20]["text"].split(". ")
    rows[45]["text"] = "There was once a morning of mist. " + ". ".join(said[1::2]) + " in the"


def shared_sentence(rows: Rows) -> None:
    """One sentence of seven words in two passages: three runs of five."""
    for row in (rows[10], rows[60]):
        row["text"] += " and she never saw the harbour again by"


BROKEN: list[tuple[Callable[[Rows], None], str]] = [
    (one_less, "199 rows with 199 ids, wanted 200"),
    (repeated_id, "200 rows with 199 ids, wanted 200"),
    (labelled, r"passages have no label: \['passage-008'\]"),
    (few_kinds, "19 groups of 8 rows or more, wanted 20 of 8"),
    (small_kind, "25 groups of 7 rows or more, wanted 20 of 8"),
    (control_character, r"passage-004 holds characters that cannot be seen: \['U\+0009'\]"),
    (soft_hyphen, r"passage-004 holds characters that cannot be seen: \['U\+00AD'\]"),
    (trailing_blank, "passage-004 begins or ends with a blank"),
    (decomposed, "passage-005 writes letters as letter and accent"),
    (too_short, "outside 35 to 260 words: {'passage-001': 20}"),
    (too_long, "outside 35 to 260 words: {'passage-001': "),
    (mostly_short, "of the passages have 60 to 220 words, wanted 0.85"),
    (one_opening, r"begin with the same 4 words: {'marta counted the oars': \['passage-001', 'passage-010'\]}"),
    (one_first_word, "11 passages begin with 'however', at most 10 may"),
    (sentence_ends, "passages end where a sentence does, at most 25% may"),
    (one_ending, "21 passages end with 'moreover', at most 10% may"),
    (near_copy, "passage-021 ~ passage-046: "),
    (shared_sentence, "passage-011 ~ passage-061: .*'and she never saw the', 'never saw the harbour again'"),
]


@pytest.mark.parametrize(("spoil", "sentence"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_the_rules_refuse(spoil: Callable[[Rows], None], sentence: str, rows: Rows) -> None:
    spoiled = copy.deepcopy(rows)
    spoil(spoiled)
    with pytest.raises(AssertionError, match=sentence):
        check_passages(spoiled)


def test_what_two_passages_may_share_is_a_turn_of_speech(rows: Rows) -> None:
    """Six words are two runs of five, and allowed: "for the first time since then" is nobody's sentence."""
    spoiled = copy.deepcopy(rows)
    for row in (spoiled[10], spoiled[60]):
        row["text"] += " for the first time since then"
    pack_rules.check_shared_runs(spoiled)
