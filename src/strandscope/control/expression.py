"""Edits written as text: parsed, printed, and the same again after both.

    0.1nats*spanish                       push along a strand, so far that it costs .1 nats per next token; -0.1nats*… against it
    0.5lengths*spanish                    push by half the distance of its classes
    !harm                                 take it out: an eraser's map, or the coordinate of a strand set to the boundary
    clamp(certainty,-1,1)                 coordinate into a range; an end left empty is open
    set(certainty,0.5)                    coordinate to a value
    rotate(formality,15deg)               turn states towards it; their norms stay

Coordinates are a strand's own: 0 on the boundary, −1 and 1 the means of its classes. Terms are joined by + and applied in the
order written. Where a term applies is said after it, each condition with an @:

    @prompt  @generation  @last  @positions(0,-1)  @window(2,)  @tokens(17,4)  @rows(0,2)  @except(positions(0),rows(1)@prompt)
    @at(resid:8-21)                       at these of the sites that the name has strands at
    @when(harm>0.9)  @when(harm<-0.5)     where a strand's coordinate says so; @when(harm) where a monitor of that name alarms
    @since(harm>0.9)                      from the first such position on

Names that are no plain words stand in double quotes. What an expression does in a network is said by `hold`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

from ..errors import InputError

Kind = Literal["add", "erase", "clamp", "set", "rotate"]
Unit = Literal["nats", "lengths"]

_TOKEN = re.compile(r'\s*(?:(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)|([A-Za-z_][\w.]*)|"([^"\n]+)"|([-+*!@(),<>:/]))')
_PLAIN = re.compile(r"[A-Za-z_][\w.]*")
_WORDS = {"clamp", "set", "rotate"}


@dataclass(frozen=True, slots=True)
class Condition:
    """When a term's gate is open: a coordinate above or below a value, or (with no value) a monitor's alarm."""

    name: str
    side: Literal[">", "<"] | None = None
    value: float = 0.0
    lasting: bool = False  # from the first such position on

    def __str__(self) -> str:
        word = "since" if self.lasting else "when"
        return f"{word}({_name(self.name)}{'' if self.side is None else f'{self.side}{_number(self.value)}'})"


@dataclass(frozen=True, slots=True)
class Where:
    """The conditions of a term, or of what it leaves out."""

    phase: Literal["both", "prompt", "generation"] = "both"
    last: bool = False
    positions: tuple[int, ...] | None = None
    window: tuple[int | None, int | None] | None = None
    tokens: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    exclude: tuple[Where, ...] = ()
    condition: Condition | None = None
    sites: str | None = None

    def parts(self) -> list[str]:
        said = [] if self.phase == "both" else [self.phase]
        said += ["last"] if self.last else []
        for word, numbers in (("positions", self.positions), ("tokens", self.tokens), ("rows", self.rows)):
            said += [] if numbers is None else [f"{word}({','.join(map(str, numbers))})"]
        if self.window is not None:
            said.append("window({},{})".format(*("" if end is None else end for end in self.window)))
        if self.exclude:
            said.append(f"except({','.join('@'.join(left.parts()) for left in self.exclude)})")
        said += [] if self.sites is None else [f"at({self.sites})"]
        return said + ([] if self.condition is None else [str(self.condition)])


@dataclass(frozen=True, slots=True)
class Term:
    """One edit: what it does, along which name, how much, and where."""

    kind: Kind
    name: str
    amount: float = 0.0  # nats or lengths, negative against the strand; the value of `set`; degrees of `rotate`
    unit: Unit | None = None
    low: float = -math.inf
    high: float = math.inf
    where: Where = field(default_factory=Where)

    def __str__(self) -> str:
        name = _name(self.name)
        body = {
            "add": f"{_number(self.amount)}{self.unit}*{name}",
            "erase": f"!{name}",
            "clamp": f"clamp({name},{_number(self.low)},{_number(self.high)})",
            "set": f"set({name},{_number(self.amount)})",
            "rotate": f"rotate({name},{_number(self.amount)}deg)",
        }[self.kind]
        return "@".join([body, *self.where.parts()])


@dataclass(frozen=True, slots=True)
class Expression:
    """Terms in the order in which they are applied; `str` prints what `parse` reads."""

    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Raises InputError that points at the character, and says what was wanted there."""
        return _Parser(text).expression()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is edited or asked, in the order of their first appearance."""
        asked = [(term.name, term.where.condition and term.where.condition.name) for term in self.terms]
        return tuple(dict.fromkeys(name for pair in asked for name in pair if name is not None))

    def __str__(self) -> str:
        first, *rest = map(str, self.terms)
        return first + "".join(f" - {term[1:]}" if term.startswith("-") else f" + {term}" for term in rest)


def _number(value: float) -> str:
    if math.isinf(value):
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _name(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and name not in _WORDS else f'"{name}"'


@dataclass(slots=True)
class _Parser:
    text: str
    tokens: list[tuple[str, str, int]] = field(default_factory=list)  # (kind, text, place)
    at: int = 0

    def __post_init__(self) -> None:
        place = 0
        while self.text[place:].strip():
            match = _TOKEN.match(self.text, place)
            if match is None:
                rest = self.text[place:].lstrip()
                self._fail(rest[0], len(self.text) - len(rest), "a name, a number or a sign")
            kind = ("number", "word", "quoted", "sign")[next(k for k in range(4) if match.group(k + 1) is not None)]
            self.tokens.append((kind, match.group(match.lastindex or 0), match.start(match.lastindex or 0)))
            place = match.end()
        self.tokens.append(("end", "", len(self.text)))

    def expression(self) -> Expression:
        terms = [self._term(-1 if self._took("-") else 1)]
        while not self._is("end"):
            if not (self._is("sign", "+") or self._is("sign", "-")):
                self._refuse("+ between two edits, or @ before a condition")
            terms.append(self._term(-1 if self._next() == "-" else 1))
        return Expression(tuple(terms))

    def _term(self, sign: int) -> Term:
        if sign > 0 and self._is("sign", "-"):
            sign = -1
            self._next()
        if sign < 0 and not self._is("number"):
            self._refuse("an amount such as 0.1nats* after a minus; only a push has an opposite")
        if self._is("number"):
            amount = sign * float(self._next())
            if not self._is("word") or self.tokens[self.at][1] not in ("nats", "lengths"):
                self._refuse("nats or lengths after an amount, such as 0.1nats*spanish")
            unit: Unit = "nats" if self._next() == "nats" else "lengths"
            self._want("*")
            term = Term("add", self._named(), amount, unit)
            if amount == 0:
                self._refuse("an amount that is not 0")
        elif self._took("!"):
            term = Term("erase", self._named())
        elif self._is("word") and self.tokens[self.at][1] in _WORDS and self.tokens[self.at + 1][1] == "(":
            term = self._called()
        else:
            self._refuse("an edit: 0.1nats*NAME, !NAME, clamp(NAME,-1,1), set(NAME,0) or rotate(NAME,15deg)")
        while self._took("@"):
            term = replace(term, where=self._where(term.where, whole=True))
        return term

    def _called(self) -> Term:
        word = self._next()
        self._want("(")
        name = self._named()
        self._want(",")
        if word == "clamp":
            low = -math.inf if self._is("sign", ",") else self._float()
            self._want(",")
            high = math.inf if self._is("sign", ")") else self._float()
            if math.isinf(low) and math.isinf(high):
                self._refuse("at least one end of the range, such as clamp(NAME,-1,1)")
            if low > high:
                self._refuse("the lower end of the range first")
            term = Term("clamp", name, low=low, high=high)
        elif word == "set":
            term = Term("set", name, self._float())
        else:
            term = Term("rotate", name, self._float())
            if not (self._is("word", "deg")):
                self._refuse("deg after the angle, such as rotate(NAME,15deg)")
            self._next()
        self._want(")")
        return term

    def _where(self, where: Where, *, whole: bool) -> Where:
        word = self._next() if self._is("word") else ""
        if word in ("prompt", "generation"):
            return self._set(where, phase="prompt" if word == "prompt" else "generation")
        if word == "last":
            return self._set(where, last=True)
        if word in ("positions", "tokens", "rows"):
            numbers = self._integers()
            if word != "positions" and min(numbers) < 0:
                self._refuse(f"{word} from 0 on")
            return self._set(where, **{word: numbers})
        if word == "window":
            self._want("(")
            start = None if self._is("sign", ",") else self._integer()
            self._want(",")
            stop = None if self._is("sign", ")") else self._integer()
            self._want(")")
            return self._set(where, window=(start, stop))
        if whole and word == "except":
            self._want("(")
            left = [self._left_out()]
            while self._took(","):
                left.append(self._left_out())
            self._want(")")
            return replace(where, exclude=(*where.exclude, *left))
        if whole and word == "at":
            return self._set(where, sites=self._sites())
        if whole and word in ("when", "since"):
            return self._set(where, condition=self._condition(word == "since"))
        more = ", except(…), at(…), when(…) or since(…)" if whole else ""
        self.at -= bool(word)
        self._refuse(f"prompt, generation, last, positions(…), window(…), tokens(…), rows(…){more}")

    def _set(self, where: Where, **condition: Any) -> Where:
        """With one more condition; of a kind that was said before there would be two, of which one would have to be dropped."""
        ((name, _),) = condition.items()
        if getattr(where, name) != getattr(Where(), name):
            self.at -= 1
            self._refuse("each kind of condition once")
        return replace(where, **condition)

    def _left_out(self) -> Where:
        where = self._where(Where(), whole=False)
        while self._took("@"):
            where = self._where(where, whole=False)
        return where

    def _condition(self, lasting: bool) -> Condition:
        self._want("(")
        name = self._named()
        if self._took(")"):
            return Condition(name, lasting=lasting)
        if not (self._is("sign", ">") or self._is("sign", "<")):
            self._refuse("> or < and a value, such as when(harm>0.9)")
        side: Literal[">", "<"] = ">" if self._next() == ">" else "<"
        made = Condition(name, side, self._float(), lasting)
        self._want(")")
        return made

    def _sites(self) -> str:
        self._want("(")
        start = self.tokens[self.at][2]
        while not (self._is("sign", ")") or self._is("end")):
            self.at += 1
        named = self.text[start : self.tokens[self.at][2]].strip()
        if not named:
            self._refuse("a site or a pattern, such as at(resid:8-21)")
        self._want(")")
        return named

    def _integers(self) -> tuple[int, ...]:
        self._want("(")
        numbers = [self._integer()]
        while self._took(","):
            numbers.append(self._integer())
        self._want(")")
        return tuple(numbers)

    def _integer(self) -> int:
        start = self.at
        value = self._float()
        if value != int(value):
            self.at = start
            self._refuse("a whole number")
        return int(value)

    def _float(self) -> float:
        sign = -1 if self._took("-") else 1
        if not self._is("number"):
            self._refuse("a number")
        return sign * float(self._next())

    def _named(self) -> str:
        if not (self._is("word") or self._is("quoted")):
            self._refuse("a name, in double quotes if it is no plain word")
        return self._next()

    def _is(self, kind: str, text: str | None = None) -> bool:
        return self.tokens[self.at][0] == kind and (text is None or self.tokens[self.at][1] == text)

    def _took(self, sign: str) -> bool:
        if self._is("sign", sign):
            self.at += 1
            return True
        return False

    def _next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][1]

    def _want(self, sign: str) -> None:
        if not self._took(sign):
            self._refuse(f"{sign!r}")

    def _refuse(self, wanted: str) -> NoReturn:
        kind, text, place = self.tokens[self.at]
        self._fail("the end" if kind == "end" else text, place, wanted)

    def _fail(self, got: str, place: int, wanted: str) -> NoReturn:
        quoted = got if got == "the end" else repr(got)
        raise InputError(f"edit {self.text!r}: got {quoted} at character {place + 1}, wanted {wanted}")
