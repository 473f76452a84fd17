"""Every pack keeps every rule, every rule refuses a pack that breaks it alone, and docs/concepts.md says what the packs are."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

import pack_rules
from pack_rules import CONCEPTS, about_pack, load_rows, rules, text_of
from strandscope.capture.examples import concept_index

PACKS = sorted(path.stem for path in CONCEPTS.glob("*.jsonl"))
UNLABELLED = {"neutral", "passages"}
TOKENS = "length in tokens"  # the one rule that needs the embedded network
RULES = [(pack, rule) for pack in PACKS for rule in rules(pack, about_pack(pack))]

Rows = list[dict]


@pytest.mark.parametrize(
    ("pack", "rule"), [pytest.param(*each, marks=[pytest.mark.real] if each[1] == TOKENS else []) for each in RULES]
)
def test_every_pack_keeps_every_rule(pack: str, rule: str) -> None:
    rules(pack, about_pack(pack))[rule](load_rows(pack))


def test_the_rules_that_a_pack_is_held_to_are_all_of_them() -> None:
    """A pack is not let off a rule by a name that nobody noticed."""
    shared = {"declared", "template", "overlap", "near duplicate"}
    labelled = shared | {"shape", "pairs", "length in characters", TOKENS}
    wordless = {"harm", "truth", "sentiment", "certainty"}
    for pack in PACKS:
        own = {pack} if pack in UNLABELLED else labelled | ({"words"} if pack in wordless else set())
        assert set(rules(pack, about_pack(pack))) == shared | own
    assert set(PACKS) == set(concept_index()) and set(PACKS) > UNLABELLED


# --- each rule refuses a pack that breaks it, and it alone ---


@pytest.fixture(scope="module")
def good() -> dict[str, Rows]:
    return {pack: load_rows(pack) for pack in ("truth", "harm", "neutral", "passages")}


class Splitter:
    """Tokens are what white space divides: enough to tell a rule about tokens from one about characters."""

    def __call__(self, texts: list[str]) -> dict[str, list[list[str]]]:
        return {"input_ids": [text.split() for text in texts]}


def alone(rows: Rows, label: int) -> Rows:
    """The rows of a label that are in no pair, so that the rule on pairs is not what is broken."""
    return [row for row in rows if row["label"] == label and "pair" not in row]


def rewrite(rows: Rows, change: Callable[[int, str], str]) -> None:
    for number, row in enumerate(rows):
        row["text"] = change(number, row["text"])


def too_few(rows: Rows) -> None:
    for pair in [row["pair"] for row in rows if row["label"] == 1 and "pair" in row][:6]:
        rows[:] = [row for row in rows if row.get("pair") != pair]


def repeated_id(rows: Rows) -> None:
    rows[1]["id"] = rows[0]["id"]


def few_topics(rows: Rows) -> None:
    topics = sorted({row["group"] for row in rows})
    for row in rows:
        row["group"] = topics[topics.index(row["group"]) % 20]


def lopsided_topic(rows: Rows) -> None:
    """As many rows of either label in all, not in two topics."""
    row = alone(rows, 1)[0]
    row["group"] = next(other["group"] for other in rows if other["group"] != row["group"])


def one_opening(rows: Rows) -> None:
    rewrite(alone(rows, 0)[:6] + alone(rows, 1)[:5], lambda _, text: f"As for me, {text}")


def one_ending(rows: Rows) -> None:
    rewrite(alone(rows, 0)[:6] + alone(rows, 1)[:5], lambda _, text: f"{text[:-1]}, or so it is.")


OWN = [
    *("Glassblowers rotate iron", "Cobblers mend leather boots", "Falconers whistle twice", "Typists dread jammed ribbons"),
    *("Lacemakers pin bobbins", "Brewers skim yeasty froth", "Weavers comb tangled flax", "Thatchers bundle marsh reeds"),
    *("Fencers lunge sideways", "Skaters lace tight blades"),
]


def one_skeleton(rows: Rows) -> None:
    """Ten sentences that share no word, all of content words alone; the pack has one such already."""
    rewrite(alone(rows, 0)[:5] + alone(rows, 1)[:5], lambda number, _: f"{OWN[number]}.")


def shared_words(rows: Rows) -> None:
    """Three of four content words are another row's, in a sentence that looks nothing like it."""
    one, other = alone(rows, 1)[:2]
    mine = sorted(pack_rules.content_words(one["text"]), key=len)[:3]
    other["text"] = f"Whether {mine[0]} were ever there before {mine[1]}, or {mine[2]} with them, nobody around here remembers."


def thin_row(rows: Rows) -> None:
    alone(rows, 1)[0]["text"] = "There is more of it there than anywhere else, say sailors."


def near_duplicate(rows: Rows) -> None:
    """Every content word in another form: no word is shared, nearly every letter is."""
    one, other = alone(rows, 1)[:2]
    one["text"] = "The glassblower rotates a glowing iron"
    other["text"] = "The glassblowers rotated a glowingly ironed"


def triple(rows: Rows) -> None:
    pair = next(row for row in rows if "pair" in row)
    next(row for row in alone(rows, 1) if row["group"] == pair["group"])["pair"] = pair["pair"]


def pair_of_one_label(rows: Rows) -> None:
    group = rows[0]["group"]
    for row in [row for row in alone(rows, 1) if row["group"] == group][:2]:
        row["pair"] = "p"


def pair_over_topics(rows: Rows) -> None:
    high, low = alone(rows, 1)[0], alone(rows, 0)[-1]
    assert high["group"] != low["group"]
    high["pair"] = low["pair"] = "p"


def pair_of_twins(rows: Rows) -> None:
    high, low = (row for row in rows if row.get("pair") == rows[0]["pair"])
    low["text"] = high["text"]


def longer(rows: Rows) -> None:
    """Blanks are characters and nothing else."""
    rewrite([row for row in rows if row["label"] == 1], lambda _, text: text.replace(" ", "   "))


def fewer_tokens(rows: Rows) -> None:
    """A hyphen for a blank: as many characters, the same words, fewer tokens."""
    rewrite([row for row in rows if row["label"] == 1], lambda _, text: text.replace(" ", "-", 4))


def giveaway(rows: Rows) -> None:
    """One function word of six letters for each label, in a place that makes no template."""
    for row in rows:
        first, *rest = row["text"].split()
        row["text"] = " ".join([first, rest[0], rest[1], "indeed" if row["label"] else "rather", *rest[2:]])


def undeclared_kind(rows: Rows) -> None:
    for row in rows:
        row["text"] = row.pop("messages")[0]["content"]


def answered(rows: Rows) -> None:
    rows[5]["messages"].append({"role": "assistant", "content": "No."})


def instructed(rows: Rows) -> None:
    rows[5]["messages"].insert(0, {"role": "system", "content": "Be brief."})


def one_prompt_less(rows: Rows) -> None:
    del rows[7]


def labelled_prompt(rows: Rows) -> None:
    rows[7]["label"] = 1


def one_big_topic(rows: Rows) -> None:
    for row in rows[:20]:
        row["group"] = rows[0]["group"]


BROKEN: list[tuple[str, Callable[[Rows], None], str, str]] = [
    ("truth", too_few, "shape", "238 rows, wanted at least 240"),
    ("truth", repeated_id, "shape", "ids repeat"),
    ("truth", few_topics, "shape", "20 groups, wanted at least 24"),
    ("truth", lopsided_topic, "shape", "not balanced inside these groups"),
    ("truth", one_opening, "template", "11 rows share one opening of three words 'as for me'"),
    ("truth", one_ending, "template", "11 rows share one ending of three words 'so it is'"),
    ("truth", one_skeleton, "template", "11 rows share one skeleton of function words '_'"),
    ("truth", shared_words, "overlap", "share over half of their content words"),
    ("truth", thin_row, "overlap", "fewer than 3 content words"),
    ("truth", near_duplicate, "near duplicate", "near duplicates"),
    ("truth", triple, "pairs", "is not two different rows"),
    ("truth", pair_of_one_label, "pairs", "is not two different rows"),
    ("truth", pair_over_topics, "pairs", "is not two different rows"),
    ("truth", pair_of_twins, "pairs", "is not two different rows"),
    ("truth", longer, "length in characters", "length in characters alone tells the label"),
    ("truth", fewer_tokens, TOKENS, "length in tokens alone tells the label"),
    ("truth", giveaway, "words", "words alone tell the label"),
    ("harm", undeclared_kind, "declared", "harm-001 is text, and the index declares chat"),
    ("harm", answered, "declared", "harm-006 is not one message of a user"),
    ("harm", instructed, "declared", "harm-006 is not one message of a user"),
    ("neutral", one_prompt_less, "neutral", "299 rows with 299 ids, wanted 300"),
    ("neutral", repeated_id, "neutral", "300 rows with 299 ids, wanted 300"),
    ("neutral", labelled_prompt, "neutral", "neutral prompts have no label"),
    ("neutral", one_big_topic, "neutral", "topics of up to 20 rows"),
    ("passages", one_prompt_less, "passages", "199 rows with 199 ids, wanted 200"),
    ("passages", repeated_id, "passages", "200 rows with 199 ids, wanted 200"),
]


@pytest.mark.parametrize(("pack", "spoil", "rule", "sentence"), BROKEN, ids=[f"{case[1].__name__}-{case[0]}" for case in BROKEN])
def test_each_rule_refuses_a_pack_that_breaks_it_alone(
    pack: str,
    spoil: Callable[[Rows], None],
    rule: str,
    sentence: str,
    good: dict[str, Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pack_rules, "smollm2_tokenizer", Splitter)
    rows = copy.deepcopy(good[pack])
    spoil(rows)
    checks = rules(pack, about_pack(pack))
    with pytest.raises(AssertionError, match=sentence):
        checks.pop(rule)(rows)
    checks.pop("words", None)  # as slow as all others together; a spoiled row or ten move it by a few hundredths
    for other in checks.values():
        other(rows)


def test_rows_of_two_kinds_are_refused_by_both_rules_that_see_it(good: dict[str, Rows]) -> None:
    rows = copy.deepcopy(good["truth"])
    rows[3]["messages"] = [{"role": "user", "content": rows[3].pop("text")}]
    with pytest.raises(AssertionError, match="raw text and chat are mixed"):
        pack_rules.check_shape(rows)
    with pytest.raises(AssertionError, match="is chat, and the index declares text"):
        pack_rules.check_declared(rows, about_pack("truth"))


def test_a_third_label_is_refused(good: dict[str, Rows]) -> None:
    """Balance alone would not see it: there are none of either label too many."""
    extra = [{"id": text, "text": text, "label": 2, "group": good["truth"][0]["group"]} for text in OWN[:2]]
    with pytest.raises(AssertionError, match=r"labels \[0, 1, 2\], wanted 0 and 1"):
        pack_rules.check_shape(good["truth"] + extra)


def test_every_rule_is_among_those_that_are_broken_above() -> None:
    assert {rule for _, rule in RULES} == {case[2] for case in BROKEN}


def test_a_pack_that_the_index_does_not_declare_is_named() -> None:
    with pytest.raises(AssertionError, match=r"mood\.jsonl is not in index\.json; declare"):
        about_pack("mood")


def test_declared_pairs_may_share_what_others_may_not(good: dict[str, Rows]) -> None:
    """The rules on overlap would refuse the pairs, were they not declared: the exemption is used, and is all that is exempt."""
    rows = [{key: value for key, value in row.items() if key != "pair"} for row in good["truth"]]
    with pytest.raises(AssertionError, match="share over half"):
        pack_rules.check_no_overlap(rows)


def test_no_prompt_that_doses_are_measured_on_is_a_row_of_a_pack(good: dict[str, Rows]) -> None:
    prompts = {text_of(row).lower() for row in good["neutral"]}
    rows = {text_of(row).lower() for pack in PACKS if pack != "neutral" for row in load_rows(pack)}
    assert len(prompts) == 300 and not prompts & rows


# --- the page ---


@pytest.mark.real
def test_the_page_is_what_the_script_says() -> None:
    path = Path(__file__).parent.parent / "docs" / "make_concepts.py"
    spec = importlib.util.spec_from_file_location("make_concepts", path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run: python docs/make_concepts.py"
