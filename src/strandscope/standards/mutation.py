"""Deliberate slips: a line of an estimator's own code changed, for as long as it takes to see that its standard turns red.

A mutation names a function, a piece of its source and what stands there instead: a plausible bug of the real code path (off by
one, a missing square root, a swapped axis), never another function. The function's code is exchanged in place, so that every
module that holds it by name meets the slip, and put back whatever happens. Where the piece is no longer found once in the
source, the mutation says so: it has to be written again, for it no longer shows anything.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from ..errors import TrustError


@dataclass(frozen=True, slots=True)
class Mutation:
    """`old` in the source of `function` becomes `new`; `name` says what is wrong then."""

    name: str
    function: Callable[..., Any]
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.name} ({plain(self.function).__qualname__})"


def plain(function: Any) -> FunctionType:
    """The Python function behind a decorated one, a class or static method, or a property."""
    if isinstance(function, property):
        function = function.fget
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(function, FunctionType):
        raise TypeError(f"function: got a {type(function).__name__}, wanted one written in Python")
    return function


@contextmanager
def applied(mutation: Mutation) -> Iterator[None]:
    """The estimator with the slip in it."""
    function = plain(mutation.function)
    right = function.__code__
    function.__code__ = _mutant(mutation, function)
    try:
        yield
    finally:
        function.__code__ = right


def _mutant(mutation: Mutation, function: FunctionType) -> CodeType:
    source = textwrap.dedent(inspect.getsource(function))
    found = source.count(mutation.old)
    if found != 1:
        raise TrustError(
            f"mutation {str(mutation)!r}: {mutation.old!r} stands {found} times in the source, wanted once; the estimator was "
            "changed, so write the mutation again"
        )
    changed = source.replace(mutation.old, mutation.new)
    whole = compile(changed, f"<{mutation.name}>", "exec", dont_inherit=True)
    code = next(part for part in whole.co_consts if isinstance(part, CodeType) and part.co_name == function.__name__)
    if code.co_freevars != function.__code__.co_freevars:
        raise TrustError(f"mutation {str(mutation)!r}: a function that closes over names cannot be exchanged; mutate another one")
    return code
