"""JSON over the wire: bodies read with limits, fields taken one by one with a sentence for each that is wrong, errors in the
shape that OpenAI's clients read.

What a client sent is quoted in sentences, shortened, and goes out as JSON alone, in which `<`, `>`, `&` and everything beyond
ASCII are escaped: it is text to whatever reads it, and never part of a header or of a line of a log.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from ..errors import InputError, MissingError, StrandscopeError, TrustError
from .engine import Busy

BODY_SECONDS = 30.0
_QUOTED = 80  # characters of what a client sent that are given back
_ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


class ApiError(StrandscopeError):
    """An answer that is an error: HTTP status, and OpenAI's `type`, `param` and `code`."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code

    @classmethod
    def of(cls, error: StrandscopeError, param: str | None = None) -> ApiError:
        """As what a client did wrong, or the server lacks, whichever the error is."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, Busy):
            return cls(429, str(error), kind="rate_limit_error", code="busy")
        if isinstance(error, MissingError):
            return cls(404, str(error), param=param, code="not_found")
        code = "untrusted" if isinstance(error, TrustError) else "context_length_exceeded" if "context of" in str(error) else None
        return cls(400, str(error), param=param, code=code)

    def as_json(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


class Json(JSONResponse):
    """Strict JSON that is inert wherever it is shown."""

    def render(self, content: Any) -> bytes:
        return dumps(content).encode()


def dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_ESCAPED)


def error_response(error: ApiError) -> Json:
    more = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(error.status)
    return Json(error.as_json(), error.status, headers=more)


def quoted(value: Any) -> str:
    """What a client sent, for a sentence."""
    text = repr(value)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"


async def body_of(request: Request, most: int) -> bytes:
    """The body, at most so many bytes.

    Raises:
        ApiError: too large, too slow, or the client is gone.
    """
    too_large = ApiError(413, f"body: got more than {most} bytes, which is the limit of this server", code="body_too_large")
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or len(said) > 15 or int(said) > most:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"body: did not come within {BODY_SECONDS:g} seconds", code="body_too_slow") from None
    except ClientDisconnect:
        raise ApiError(400, "body: the client left before it was whole") from None
    return b"".join(parts)


async def json_of(request: Request, most: int) -> Fields:
    """The fields of a JSON object.

    Raises:
        ApiError: another content type, too large, or no JSON object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "content-type: wanted application/json", code="unsupported_media_type")
    body = await body_of(request, most)
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
        dumps(value).encode()
        _check_text(value)
    except json.JSONDecodeError as error:
        raise ApiError(
            400, f"body: no JSON ({error.msg} at line {error.lineno}, column {error.colno})", code="bad_json"
        ) from None
    except (ValueError, RecursionError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"body: no JSON that can be read ({said[:200]})", code="bad_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"body: got a JSON {type(value).__name__}, wanted an object", code="bad_json")
    return Fields(value)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _check_text(value: Any) -> None:
    """Raise ValueError for text that is no Unicode (half a surrogate pair)."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("half a surrogate pair in a string") from None
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _check_text(key)
            _check_text(part)
    elif isinstance(value, list):
        for part in value:
            _check_text(part)


class Fields:
    """The fields of a JSON object, each taken once by its name and kind; `done` refuses those that nobody took."""

    def __init__(self, value: Mapping[str, Any], path: str = "") -> None:
        self._value, self._path = dict(value), path
        self._known: set[str] = set()

    def name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def wrong(self, key: str, got: Any, wanted: str) -> ApiError:
        name = self.name(key)
        said = "nothing" if got is None else quoted(got)
        return ApiError(400, f"{name}: got {said}, wanted {wanted}", param=name)

    def raw(self, key: str) -> Any:
        """Whatever is there; None where nothing is, or null."""
        self._known.add(key)
        return self._value.get(key)

    def text(self, key: str, default: str | None = None, *, most: int = 100_000) -> str:
        got = self.raw(key)
        got = default if got is None else got
        if not isinstance(got, str) or len(got) > most:
            raise self.wrong(key, got, f"a string of at most {most} characters")
        return got

    def number(self, key: str, default: float, low: float, high: float) -> float:
        got = self.raw(key)
        got = default if got is None else got
        if isinstance(got, bool) or not isinstance(got, int | float) or not low <= got <= high:
            raise self.wrong(key, got, f"a number from {low:g} to {high:g}")
        return float(got)

    def whole(self, key: str, default: int | None, low: int, high: int) -> int | None:
        got = self.raw(key)
        got = default if got is None else got
        if got is not None and (isinstance(got, bool) or not isinstance(got, int) or not low <= got <= high):
            raise self.wrong(key, got, f"a whole number from {low} to {high}")
        return got

    def flag(self, key: str) -> bool:
        got = self.raw(key)
        if got is not None and not isinstance(got, bool):
            raise self.wrong(key, got, "true or false")
        return bool(got)

    def items(self, key: str, wanted: str, *, most: int) -> list[Any]:
        got = self.raw(key)
        got = [] if got is None else got
        if not isinstance(got, list) or len(got) > most:
            raise self.wrong(key, got, f"a list of at most {most} {wanted}")
        return got

    def within(self, key: str) -> Fields:
        """The fields of an object inside; none where it is not there."""
        got = self.raw(key)
        if got is not None and not isinstance(got, dict):
            raise self.wrong(key, got, "an object")
        return Fields(got or {}, self.name(key))

    def only(self, key: str, allowed: Collection[Any], why: str) -> None:
        """Refuse a setting that would change the reply and that this server does not have."""
        got = self.raw(key)
        if got is not None and not any(got == one and isinstance(got, bool) == isinstance(one, bool) for one in allowed):
            name = self.name(key)
            raise ApiError(400, f"{name}: got {quoted(got)}, and {why}", param=name, code="unsupported_parameter")

    def all(self) -> dict[str, Any]:
        """The whole object, whatever is in it."""
        return dict(self._value)

    def done(self, ignored: Collection[str] = ()) -> None:
        """Raise ApiError for a field that nobody took and that is not to be ignored."""
        for key in self._value:
            if key not in self._known and key not in ignored:
                near = difflib.get_close_matches(key, sorted({*self._known, *ignored}), n=1)
                more = f"; did you mean {near[0]}" if near else f"; there are {', '.join(sorted(self._known))}"
                name = self.name(key)
                raise ApiError(400, f"{quoted(name)} is no parameter here{more}", param=name[:_QUOTED], code="unknown_parameter")


def checked(error: InputError, param: str) -> ApiError:
    """The same sentence, with the parameter that it is about."""
    return ApiError.of(error, param)


def finite(value: float) -> float | None:
    """For JSON: None in place of NaN or an infinity."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
