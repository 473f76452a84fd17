"""Edits as text: what is parsed is printed, what is printed is parsed, and what is neither is refused at its character."""

from __future__ import annotations

import random

import pytest

from strandscope.control.expression import Condition, Expression, Term, Where
from strandscope.errors import InputError

READ = {
    "0.1nats*spanish": Term("add", "spanish", 0.1, "nats"),
    "-.5lengths*x": Term("add", "x", -0.5, "lengths"),
    "!harm": Term("erase", "harm"),
    '!"two words"': Term("erase", "two words"),
    "clamp(certainty,-1,1)": Term("clamp", "certainty", low=-1, high=1),
    "clamp(certainty,,1)": Term("clamp", "certainty", high=1),
    "clamp(certainty, -2 ,)": Term("clamp", "certainty", low=-2),
    "set(x,-0.5)": Term("set", "x", -0.5),
    "rotate(x,-15deg)": Term("rotate", "x", -15),
    "!x@prompt": Term("erase", "x", where=Where("prompt")),
    "!x @last @rows(0,2)": Term("erase", "x", where=Where(last=True, rows=(0, 2))),
    "!x@positions(0,-1)@window(2,)": Term("erase", "x", where=Where(positions=(0, -1), window=(2, None))),
    "!x@window(,-3)@tokens(7)": Term("erase", "x", where=Where(window=(None, -3), tokens=(7,))),
    "!x@except(prompt@last,rows(1))": Term("erase", "x", where=Where(exclude=(Where("prompt", last=True), Where(rows=(1,))))),
    "!x@at(resid:8-21)": Term("erase", "x", where=Where(sites="resid:8-21")),
    "!x@at(module:model.norm, mlp:3)": Term("erase", "x", where=Where(sites="module:model.norm, mlp:3")),
    "0.2nats*formality@when(harm>0.9)": Term("add", "formality", 0.2, "nats", where=Where(condition=Condition("harm", ">", 0.9))),
    "!x@since(harm<-1)": Term("erase", "x", where=Where(condition=Condition("harm", "<", -1, lasting=True))),
    "!x@when(harm)": Term("erase", "x", where=Where(condition=Condition("harm"))),
}


@pytest.mark.parametrize("text", READ)
def test_a_term_is_read(text: str) -> None:
    assert Expression.parse(text) == Expression((READ[text],))


@pytest.mark.parametrize("text", READ)
def test_what_is_printed_is_read_as_the_same(text: str) -> None:
    term = READ[text]
    assert Expression.parse(str(Expression((term,)))).terms == (term,)
    assert str(Expression.parse(str(Expression((term,))))) == str(Expression((term,)))


def test_any_expression_goes_round() -> None:
    """A thousand of one to four terms, with conditions put together at random."""
    drawn = random.Random(0)
    bodies = [term for term in READ.values() if term.where == Where()]
    wheres = [term.where for term in READ.values()]
    for _ in range(1000):
        made = []
        for _ in range(drawn.randint(1, 4)):
            a, b = drawn.choice(wheres), drawn.choice(wheres)
            where = Where(a.phase, b.last, a.positions, b.window, a.tokens, b.rows, a.exclude, b.condition, a.sites)
            made.append(_with(drawn.choice(bodies), where))
        expression = Expression(tuple(made))
        assert Expression.parse(str(expression)) == expression, str(expression)


def _with(term: Term, where: Where) -> Term:
    return Term(term.kind, term.name, term.amount, term.unit, term.low, term.high, where)


@pytest.mark.parametrize("value", [1e-7, 1 / 3, 123456789.125, 2.0, 1e22])
def test_a_number_is_printed_to_its_last_bit(value: float) -> None:
    assert Expression.parse(str(Expression((Term("set", "x", value),)))).terms[0].amount == value


def test_order_and_signs_are_kept() -> None:
    text = "-0.1nats*a + !b - 2lengths*c + clamp(d,0,1)@last"
    read = Expression.parse(text)
    assert str(read) == text
    assert [term.amount for term in read.terms] == [-0.1, 0, -2, 0] and read.names == ("a", "b", "c", "d")


def test_names_of_conditions_are_names_too() -> None:
    assert Expression.parse("!a@when(b>0) + !b@since(c)").names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "got", "place", "wanted"),
    [
        ("", "the end", 1, "an edit: 0.1nats"),
        ("0.1*x", r"'\*'", 4, "nats or lengths"),
        ("0.1nats*", "the end", 9, "a name, in double quotes"),
        ("0.1nats*x y", "'y'", 11, r"\+ between two edits"),
        ("0nats*x", "the end", 8, "not 0"),
        ("- !x", "'!'", 3, "only a push has an opposite"),
        ("!x + ", "the end", 6, "an edit"),
        ("clamp(x,2,1)", r"'\)'", 12, "lower end of the range first"),
        ("clamp(x,,)", r"'\)'", 10, "at least one end"),
        ("rotate(x,3)", r"'\)'", 11, "deg after the angle"),
        ("!x@foo", "'foo'", 4, "prompt, generation, last"),
        ("!x@positions(1.5)", "'1.5'", 14, "a whole number"),
        ("!x@rows(-1)", "the end", 12, "rows from 0 on"),
        ("!x@prompt@generation", "'generation'", 11, "each kind of condition once"),
        ("!x@when(a>0)@since(b)", r"'\)'", 21, "each kind of condition once"),
        ("!x@except(at(resid:1))", "'at'", 11, "prompt, generation, last"),
        ("!x@at()", r"'\)'", 7, "a site or a pattern"),
        ("!x@when(a=1)", "'='", 10, "a name, a number or a sign"),
        ("!x # y", "'#'", 4, "a name, a number or a sign"),
    ],
)
def test_what_does_not_parse_is_refused_where_it_stands(text: str, got: str, place: int, wanted: str) -> None:
    with pytest.raises(InputError, match=rf"^edit .*: got {got} at character {place}, wanted .*{wanted}"):
        Expression.parse(text)
