"""The sentences a user reads when something is wrong, and the exit code each kind of wrong has.

A message names the argument or place, what it got, what it wanted and the next step. Anything else that escapes is our bug
(exit code 5) and keeps its traceback.
"""

from __future__ import annotations


class StrandscopeError(Exception):
    """Base of every error that is meant to be read: one sentence, no traceback on the command line."""

    exit_code = 5


class InputError(StrandscopeError, ValueError):
    """The caller's argument or file is wrong; the sentence says which, and how to mend it."""

    exit_code = 2


class MissingError(StrandscopeError):
    """Something that is needed is not there: a model, a package, a file, room on the disk."""

    exit_code = 3


class TrustError(StrandscopeError):
    """The numbers could not be trusted: a selfcheck failed, a strand is from another network, results do not repeat."""

    exit_code = 4
