"""What a set of examples promises, and the sentence that each kind of bad file gets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import strandscope as ss
from strandscope.capture.examples import Examples, concept_index, neutral_prompts
from strandscope.errors import InputError, MissingError

CHAT = [{"role": "user", "content": "Hello there"}]
GOOD = {"text": "fine", "label": 0, "id": "good"}


def write(folder, name, *rows):
    path = folder / name
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(n, groups=None):
    return [{"text": f"text {i}", "label": i % 2} | ({"group": f"g{i // 2 % groups}"} if groups else {}) for i in range(n)]


def test_jsonl_gives_rows_in_order_with_everything_they_carry(tmp_path):
    path = write(
        tmp_path, "a.jsonl", {"text": "x", "label": 1, "group": "g", "id": "r1", "source": "me"}, "\n", {"text": "y", "label": 0}
    )
    read = Examples.from_file(path)
    assert (read.texts(), read.ids, read.classes) == (["x", "y"], ("r1", "a.jsonl:3"), ("0", "1"))
    assert (read.labels.tolist(), read.groups.tolist(), read.positive, read.kind) == ([1, 0], [0, 1], "1", "text")
    assert read.rows[0].extra == {"source": "me"}


def test_csv_and_jsonl_of_the_same_rows_are_the_same_set(tmp_path):
    jsonl = write(tmp_path, "a.jsonl", {"text": 'one, "two"\nlines', "label": 1, "group": "g"}, {"text": "y", "label": 0})
    table = write(tmp_path, "b.csv", 'text,label,group\n"one, ""two""\nlines",1,g\n\ny,0,\n')
    assert Examples.from_csv(table).digest == Examples.from_jsonl(jsonl).digest


def test_labels_that_a_table_wrote_as_floats_are_integers(tmp_path):
    plain = write(tmp_path, "a.jsonl", {"text": "x", "label": 1}, {"text": "y", "label": 0})
    for name, content in (
        ("b.jsonl", '{"text": "x", "label": 1.0}\n{"text": "y", "label": 0.0}\n'),
        ("c.csv", "text,label\nx,1.0\ny,0.0\n"),
        ("d.csv", "text,label\nx,1.0\ny,0\n"),
    ):
        assert Examples.from_file(write(tmp_path, name, content)).digest == Examples.from_file(plain).digest
    for name, content in (("e.jsonl", '{"text": "x", "label": 1.5}\n'), ("f.csv", "text,label\nx,1.5\n")):
        with pytest.raises(InputError, match=rf"^{name}:{1 + name.endswith('csv')}: label 1\.5 is of type float"):
            Examples.from_file(write(tmp_path, name, content))


def test_rows_of_one_pair_share_a_group_also_where_only_the_pair_is_named():
    made = Examples.from_rows([{"text": letter, "label": n % 2, "pair": "pq"[n // 2]} for n, letter in enumerate("abcd")])
    assert made.groups.tolist() == [0, 0, 1, 1]
    named = [{"text": "a", "pair": "p", "group": "g"}, {"text": "b", "group": "h"}, {"text": "c", "pair": "p", "group": "h"}]
    assert Examples.from_rows([*named, {"text": "d", "group": "i"}]).groups.tolist() == [0, 0, 0, 1]
    assert Examples.from_rows(named).pairs.tolist() == [0, 1, 0]
    assert Examples.from_rows(named).digest != Examples.from_rows([{**row, "pair": "p"} for row in named]).digest


def test_names_are_read_without_the_spaces_around_them():
    groups = Examples.from_rows([{"text": letter, "group": name} for letter, name in zip("abc", ("t", "t ", " "), strict=True)])
    assert groups.groups.tolist() == [0, 0, 1]


def test_pairs_are_groups_and_know_which_side_is_high(tmp_path):
    made = Examples.from_pairs([("a", "b"), ("c", "d")])
    assert (made.classes, made.positive) == (("negative", "positive"), "positive")
    assert (made.labels.tolist(), made.groups.tolist()) == ([1, 0, 1, 0], [0, 0, 1, 1])
    written = write(tmp_path, "p.jsonl", {"positive": "a", "negative": "b"}, {"positive": "c", "negative": "d"})
    assert Examples.from_jsonl(written).digest == made.digest
    grouped = Examples.from_rows(
        [{"positive": CHAT, "negative": CHAT, "group": "g"}, {"positive": CHAT, "negative": CHAT, "group": "g"}]
    )
    assert (grouped.kind, grouped.groups.tolist()) == ("chat", [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("labels", "classes", "positive"),
    [
        ([0, 1], ("0", "1"), "1"),
        ([True, False], ("false", "true"), "true"),
        (["yes", "zero"], ("zero", "yes"), "yes"),
        (["spanish", "english"], ("english", "spanish"), "spanish"),
        ([2, 10, 1], ("1", "2", "10"), None),
    ],
)
def test_classes_are_ordered_so_that_the_second_of_two_is_scored_high(labels, classes, positive):
    made = Examples.from_rows([{"text": "x", "label": label} for label in labels])
    assert (made.classes, made.positive) == (classes, positive)
    assert [made.classes[code] for code in made.labels] == [str(label).lower() for label in labels]


def test_alphabetical_order_is_said():
    assert "(alphabetical order)" in str(Examples.from_rows([{"text": "x", "label": "b"}, {"text": "y", "label": "a"}]))
    assert "(alphabetical order)" not in str(Examples.from_rows(rows(4)))


def test_digest_follows_what_is_measured_and_nothing_else():
    base = Examples.from_rows(rows(6, groups=2))
    renamed = [row | {"id": f"other-{i}", "group": row["group"] + "!"} for i, row in enumerate(rows(6, groups=2))]
    assert Examples.from_rows(renamed, name="elsewhere").digest == base.digest
    for index, change in ((0, {"text": "changed"}), (0, {"label": 1}), (0, {"group": "own"})):
        changed = rows(6, groups=2)
        changed[index] |= change
        assert Examples.from_rows(changed).digest != base.digest
    assert Examples.from_rows(rows(6, groups=2)[::-1]).digest != base.digest


def test_groups_that_hold_the_same_row_are_one():
    made = Examples.from_rows(
        [
            {"text": "a b", "label": 0, "group": "x"},
            {"text": "c", "label": 1, "group": "y"},
            {"text": "A  b", "label": 1, "group": "y"},
            {"text": "d", "label": 0, "group": "z"},
            {"text": "ab", "label": 0},
        ]
    )
    assert made.groups.tolist() == [0, 0, 0, 1, 2] and made.copies == 1
    assert made.subset([0, 1]).groups.tolist() == [0, 1], "without the copy they are two"
    chats = [{"messages": [{"role": "user", "content": text}], "label": i} for i, text in enumerate(["Yes.", "yes. ", "no"])]
    assert Examples.from_rows(chats).groups.tolist() == [0, 0, 1]
    written = ["caf\u00e9", "cafe\u0301", "ca\u200bf\u00e9", "\uff43af\u00e9", "cafe"]  # composed, not, with an invisible, wide
    assert Examples.from_rows([{"text": text} for text in written]).groups.tolist() == [0, 0, 0, 0, 1]
    tensors = [{"tensor": torch.tensor(value), "label": i % 2} for i, value in enumerate([[1, 2], [1, 2], [2, 1], [1.0, 2.0]])]
    assert Examples.from_rows(tensors).groups.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["a", "b"], "rows:1: got a str, wanted an object"),
        ([GOOD, ("a", 1)], "rows:2: got a tuple, wanted an object"),
        ("ab", "rows: got a str, wanted a list of objects"),
        (GOOD, "rows: got a dict, wanted a list of objects"),
        (5, "rows: got a int, wanted a list of objects"),
    ],
)
def test_rows_are_a_list_of_objects(rows, said):
    with pytest.raises(InputError, match=f"^{said} such as"):
        Examples.from_rows(rows)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["ab", "cd"], r"pairs:1: got str 'ab', wanted a pair \(positive, negative\)"),  # no pair of letters
        ([("a", "b"), ("c",)], r"pairs:2: got tuple \('c',\), wanted a pair"),
        ("ab", "pairs: got a str, wanted a list of pairs"),
        (5, "pairs: got a int, wanted a list of pairs"),
    ],
)
def test_pairs_are_a_list_of_pairs(pairs, said):
    with pytest.raises(InputError, match=f"^{said}"):
        Examples.from_pairs(pairs)


@pytest.mark.parametrize("key", ["groups", "Group", "group_id", " group"])
def test_a_group_under_another_name_is_refused(key):
    for row in ({"text": "a", "label": 0}, {"positive": "a", "negative": "b"}):
        with pytest.raises(InputError, match=rf"^rows:1: key '{key}' is not read; name it \"group\""):
            Examples.from_rows([row | {key: "x"}])
        assert Examples.from_rows([row | {key: "x", "group": "y"}, row | {"group": "z", "label": 1} if "text" in row else row])


def test_tensor_rows_hold_numbers():
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(InputError, match=r'^rows:2: "tensor" holds a NaN or an infinity; mend or delete the row$'):
            Examples.from_rows([{"tensor": torch.ones(2), "label": 0}, {"tensor": torch.tensor([1.0, wrong]), "label": 1}])


def test_tensor_rows_have_a_digest_and_no_text():
    made = Examples.from_rows([{"tensor": torch.zeros(2), "label": 0}, {"tensor": torch.ones(2), "label": 1}])
    other = Examples.from_rows(
        [{"tensor": torch.zeros(2), "label": 0}, {"tensor": torch.ones(2, dtype=torch.float64), "label": 1}]
    )
    assert made.kind == "tensor" and made.digest != other.digest
    with pytest.raises(InputError, match="a tensor has no text"):
        made.texts()


def test_subset_and_limit_keep_rows_whole_groups_and_classes():
    made = Examples.from_rows(rows(40, groups=5))
    assert made.subset([3, 1]).texts() == ["text 3", "text 1"]
    assert made.subset(made.labels == 1).classes == made.classes
    fewer = made.limit(20, np.random.default_rng(0))
    kept = set(fewer.ids)
    assert 0 < len(fewer) <= 20 and [row.id for row in made.rows if row.id in kept] == list(fewer.ids)
    for group in {row.group for row in fewer.rows}:
        assert {row.id for row in made.rows if row.group == group} <= kept
    assert made.limit(20, np.random.default_rng(0)).ids == fewer.ids
    with pytest.raises(InputError, match="smallest group of rows has 8 rows"):
        made.limit(3, np.random.default_rng(0))


BAD_JSONL = [
    ({"text": "x"}, r'^pairs\.jsonl:2: missing "label"'),
    ({"label": 1}, r'^pairs\.jsonl:2: missing "text"'),
    ({"text": " ", "label": 1}, r'^pairs\.jsonl:2: "text" is empty'),
    ({"text": 3, "label": 1}, r'^pairs\.jsonl:2: "text" is of type int'),
    ({"text": "x", "messages": CHAT, "label": 1}, r'^pairs\.jsonl:2: both "text" and "messages"'),
    ({"messages": CHAT, "label": 1}, r"^pairs\.jsonl:2: chat where pairs\.jsonl:1 is text"),
    ({"messages": "Hello", "label": 1}, r'^pairs\.jsonl:2: "messages" is not a list'),
    ({"messages": [{"role": "user"}], "label": 1}, r'^pairs\.jsonl:2: message 1 needs exactly "role" and "content"; got role$'),
    ({"messages": [{"role": "robot", "content": "x"}], "label": 1}, r"^pairs\.jsonl:2: message 1 has role 'robot'"),
    ({"messages": [{"role": "user", "content": ""}], "label": 1}, r"^pairs\.jsonl:2: message 1 has no text"),
    ({"messages": [{"role": "system", "content": "x"}], "label": 1}, r"^pairs\.jsonl:2: the last message is from 'system'"),
    ({"text": "x", "label": 1, "id": "good"}, r"^pairs\.jsonl:2: id 'good' is already used at pairs\.jsonl:1"),
    ({"text": "x \ud800", "label": 1}, r"^pairs\.jsonl:2: 'text' holds half a character"),
    ({"text": "x", "label": 1, "extra": [{"\udfff": 1}]}, r"^pairs\.jsonl:2: 'extra' holds half a character"),
    (
        '{"text": "x", "label": 1, "extra": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
        r"^pairs\.jsonl:2: objects nested too deeply",
    ),
    ('{"text": "x", "label": ' + "1" * 5000 + "}\n", r"^pairs\.jsonl:2: cannot be read"),
    ({"text": "x", "label": 0.5}, r"^pairs\.jsonl:2: label 0\.5 is of type float"),
    ({"text": "x", "label": True}, r"^pairs\.jsonl:2: label true is a truth value where pairs\.jsonl:1 has 0"),
    ({"text": "x", "label": 1, "group": ["g"]}, r'^pairs\.jsonl:2: "group" is of type list'),
    ({"positive": "x"}, r'^pairs\.jsonl:2: missing "negative"'),
    ({"positive": "x", "negative": ""}, r'^pairs\.jsonl:2: "negative" is empty'),
    ({"positive": "x", "negative": "y", "label": 1}, r'^pairs\.jsonl:2: "label" beside "positive"'),
    ({"text": "x", "label": 0}, r"^pairs\.jsonl: one class only \(0\)"),
    ("[1]\n", r"^pairs\.jsonl:2: got a JSON list"),
    ("{\n", r"^pairs\.jsonl:2: not JSON"),
]


@pytest.mark.parametrize(("row", "sentence"), BAD_JSONL)
def test_a_bad_line_is_named_with_its_number(tmp_path, row, sentence):
    path = write(tmp_path, "pairs.jsonl", GOOD, row)
    for read in (Examples.from_jsonl, Examples.from_file):
        with pytest.raises(InputError, match=sentence) as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("text,label\nx,1\ny\n", r"^t\.csv:3: 1 cells under a header of 2"),
        ('text,label\n"two\nlines",1\ny,\n', r'^t\.csv:4: missing "label"'),
        ("text,label\nx,1\n,0\n", r'^t\.csv:3: missing "text"'),
        ('text,label\nx,1\n"y"z,0\n', r"^t\.csv:3: not CSV"),
        ("words,label\nx,1\n", r'^t\.csv:1: missing column "text"'),
        ("text,label,label\nx,1,0\n", r"^t\.csv:1: column 'label' is empty or repeated"),
        ("messages,label\nx,1\n", r"^t\.csv:1: a CSV file cannot hold messages"),
        ("text,label\n", r"^t\.csv: the file has no rows"),
        ("", r"^t\.csv: the file is empty"),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path, content, sentence):
    with pytest.raises(InputError, match=sentence):
        Examples.from_file(write(tmp_path, "t.csv", content))


def test_files_that_cannot_be_read_at_all(tmp_path):
    for read in (Examples.from_file, Examples.from_jsonl):
        with pytest.raises(InputError, match=r"^e\.jsonl: .*no rows"):
            read(write(tmp_path, "e.jsonl", "\n\n"))
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"text": "x", "label": 0}\n{"text": "caf\xe9", "label": 1}\n')
    with pytest.raises(InputError, match=r"^latin\.jsonl:2: not UTF-8"):
        Examples.from_file(latin)
    with pytest.raises(MissingError, match="there is no such file"):
        Examples.from_file(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match=r"wanted \.jsonl or \.csv"):
        Examples.from_file(write(tmp_path, "a.txt", "x"))


def test_several_files_are_one_set_only_if_their_labels_agree(tmp_path):
    first = write(tmp_path, "a.jsonl", {"text": "x", "label": 0, "group": "g"}, {"text": "y", "label": 1})
    second = write(tmp_path, "b.csv", "text,label,group\nz,1,g\nw,0,\n")
    both = Examples.from_files([first, second])
    assert (both.texts(), both.groups.tolist()) == (["x", "y", "z", "w"], [0, 1, 0, 2])
    other = write(tmp_path, "c.jsonl", {"text": "x", "label": "good"}, {"text": "y", "label": "bad"})
    with pytest.raises(InputError, match=r"^c\.jsonl: labels bad, good where a\.jsonl has 0, 1"):
        Examples.from_files([first, other])
    one_sided = write(tmp_path, "d.jsonl", {"text": "x", "label": 1})
    with pytest.raises(InputError, match=r"^d\.jsonl: labels 1 where a\.jsonl has 0, 1"):
        Examples.from_files([first, one_sided])
    named = [
        write(tmp_path, name, {"text": "x", "label": 0, "id": "same"}, {"text": "y", "label": 1})
        for name in ("e.jsonl", "f.jsonl")
    ]
    with pytest.raises(InputError, match=r"^f\.jsonl:1: id 'same' is already used at e\.jsonl:1"):
        Examples.from_files(named)
    chats = write(tmp_path, "g.jsonl", {"messages": CHAT, "label": 0}, {"messages": CHAT, "label": 1})
    with pytest.raises(InputError, match=r"^g\.jsonl:1: chat where a\.jsonl:1 is text"):
        Examples.from_files([first, chats])


def test_require_says_what_is_too_few():
    Examples.from_rows(rows(20, groups=5)).require()
    cases = [
        (Examples.from_rows(rows(18)), "class 0 has 9 rows, wanted at least 10"),
        (Examples.from_rows(rows(40, groups=4)), "4 groups for 5 folds"),
        (Examples.from_rows(rows(40)).subset(range(0, 40, 2)), r"one class only \(0\)"),
        (Examples.from_rows([{"text": "x"}]), 'no row has a "label"'),
    ]
    for made, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            made.require()


def test_every_pack_is_what_its_index_entry_declares():
    for name, about in concept_index().items():
        pack = ss.concept(name)
        assert (pack.kind, pack.labelled) == (about["format"], about["positive"] is not None)
        assert pack.classes == ((about["negative"], about["positive"]) if pack.labelled else ())
        assert about["question"].endswith("?") and about["licence"] and about["language"]
    assert not neutral_prompts().labelled


def test_an_unknown_concept_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"did you mean sentiment\? there are harm, truth, sentiment"):
        ss.concept("sentimant")
