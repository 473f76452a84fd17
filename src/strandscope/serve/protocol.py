"""Requests of OpenAI's protocol: what their fields ask, and what is refused.

`/v1/chat/completions` and `/v1/completions` take the fields that a local network can honour. A field that would change the reply
and that this server does not have is refused by name, as is one that nobody knows; fields that change nothing are let through.
The field `strandscope` says what the network is held by and watched with:

    "strandscope": {"edits": "0.1nats*spanish + !harm", "within_the_law": false,
                    "monitors": ["harm", {"name": "harm", "action": "log" | "stop" | "edit", "judge": "sequence" | "prompt"}],
                    "token_texts": false}

A text of a chat goes through the network's own template, in which a message that spells the template's own signs can pass for
another's: who serves strangers filters them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ..control.expression import Expression
from ..errors import InputError
from .sampling import Sampling
from .wire import ApiError, Fields, checked, quoted

if TYPE_CHECKING:
    from ..subject.subject import Subject
    from .engine import Limits

ROLES = ("system", "developer", "user", "assistant")
STOPS, MESSAGES = 16, 512
COMPLETION_TOKENS = 16  # where none are asked for: OpenAI's own default
IGNORED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls", "modalities",
)  # fmt: skip
_NOT_HERE = "this server does not have it; leave it out"


@dataclass(frozen=True, slots=True)
class Watched:
    """A monitor that a request names, what its alarm does, and what is judged."""

    name: str
    action: str
    judge: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request, its fields checked and its prompt in tokens.

    Attributes:
        new: tokens at most; None is as many as there is room for.
        token_texts: give each token's own text too.
    """

    chat: bool
    ids: tuple[int, ...]
    new: int | None
    sampling: Sampling
    stops: tuple[str, ...]
    stream: bool
    usage: bool
    edits: Expression | None
    within_the_law: bool
    monitors: tuple[Watched, ...]
    token_texts: bool


def wanted(fields: Fields, subject: Subject, limits: Limits, model: str, *, chat: bool) -> Wanted:
    """What a request asks for.

    Raises:
        ApiError: a field that is wrong, or not of this server.
    """
    asked = fields.text("model", most=1000)
    if asked != model:
        said = f"model: got {quoted(asked)}, and this server has {model!r} alone"
        raise ApiError(404, said, param="model", code="model_not_found")
    ids = _chat(fields, subject) if chat else _prompt(fields, subject)
    new = fields.whole("max_tokens", None if chat else COMPLETION_TOKENS, 1, limits.tokens)
    if chat:
        later = fields.whole("max_completion_tokens", None, 1, limits.tokens)
        new = later if later is not None else new
    stream = fields.flag("stream")
    options = fields.within("stream_options")
    usage = options.flag("include_usage")
    options.flag("include_obfuscation")
    options.done()
    _not_here(fields, chat)
    own = fields.within("strandscope")
    made = Wanted(
        chat,
        ids,
        new,
        _sampling(fields),
        _stops(fields),
        stream,
        usage,
        _edits(own),
        own.flag("within_the_law"),
        _monitors(own),
        own.flag("token_texts"),
    )
    own.done()
    fields.done(IGNORED)
    return made


def _sampling(fields: Fields) -> Sampling:
    temperature, top_p = fields.number("temperature", 1.0, 0, 2), fields.number("top_p", 1.0, 0, 1)
    if top_p == 0:
        temperature, top_p = 0.0, 1.0  # the likeliest token alone
    seed = fields.whole("seed", None, -(2**63), 2**63 - 1)
    return Sampling(temperature, top_p, secrets.randbits(31) if seed is None else seed % 2**63)


def _stops(fields: Fields) -> tuple[str, ...]:
    got = fields.raw("stop")
    stops = [] if got is None else [got] if isinstance(got, str) else got
    if (
        not isinstance(stops, list)
        or len(stops) > STOPS
        or not all(isinstance(one, str) and 0 < len(one) <= 256 for one in stops)
    ):
        raise fields.wrong("stop", got, f"a string, or at most {STOPS} of them, of 1 to 256 characters")
    return tuple(stops)


def _not_here(fields: Fields, chat: bool) -> None:
    fields.only("n", (1,), "this server gives one reply; ask again with another seed")
    fields.only("logprobs", (False,), _NOT_HERE)
    fields.only("presence_penalty", (0,), _NOT_HERE)
    fields.only("frequency_penalty", (0,), _NOT_HERE)
    fields.only("logit_bias", ({},), _NOT_HERE)
    if chat:
        for name in ("tools", "functions"):
            fields.only(name, ([],), _NOT_HERE)
        fields.only("tool_choice", ("none", "auto"), _NOT_HERE)
        fields.only("response_format", ({"type": "text"},), _NOT_HERE)
        fields.only("top_logprobs", (), _NOT_HERE)
    else:
        fields.only("best_of", (1,), _NOT_HERE)
        fields.only("echo", (False,), _NOT_HERE)
        fields.only("suffix", ("",), _NOT_HERE)


# --- prompts ---


def _chat(fields: Fields, subject: Subject) -> tuple[int, ...]:
    messages = fields.items("messages", "messages", most=MESSAGES)
    if not messages:
        raise fields.wrong("messages", messages, 'one message at least, such as {"role": "user", "content": "Hello."}')
    read = [_message(f"messages[{number}]", one) for number, one in enumerate(messages)]
    try:
        text = subject.render(read)
    except TemplateError as error:
        said = (str(error).strip() or "no reason given").splitlines()[0]
        raise ApiError(400, f"messages: the network's chat template refuses them ({said[:200]})", param="messages") from None
    except InputError:
        said = f"messages: {subject.name} has no chat template; use /v1/completions with a plain text"
        raise ApiError(400, said, param="messages") from None
    return _tokens(subject, text, "messages", special=False)


def _message(path: str, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise ApiError(400, f"{path}: got {quoted(message)}, wanted an object with role and content", param=path)
    fields = Fields(message, path)
    role = fields.text("role", most=100)
    if role not in ROLES:
        raise fields.wrong("role", role, f"{', '.join(ROLES[:-1])} or {ROLES[-1]}")
    content = fields.raw("content")
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list) or not parts:
        raise fields.wrong("content", content, "a text")
    texts = [part if isinstance(part, str) else _part(fields, part) for part in parts]
    fields.only("tool_calls", ([],), _NOT_HERE)
    fields.done(("name", "refusal", "audio", "annotations", "function_call"))
    return {"role": "system" if role == "developer" else role, "content": "".join(texts)}


def _part(fields: Fields, part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise fields.wrong("content", part, 'texts alone: {"type": "text", "text": …}')
    return text


def _prompt(fields: Fields, subject: Subject) -> tuple[int, ...]:
    got = fields.raw("prompt")
    if isinstance(got, list) and len(got) == 1 and isinstance(got[0], str | list):
        got = got[0]
    if isinstance(got, str):
        return _tokens(subject, got, "prompt", special=True)
    most = subject.vocabulary or 0
    if isinstance(got, list) and got and all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < most for i in got):
        return tuple(got)
    raise fields.wrong("prompt", got, f"one text, or one list of token ids below {most}")


def _tokens(subject: Subject, text: str, param: str, *, special: bool) -> tuple[int, ...]:
    assert subject.tokenizer is not None
    ids: tuple[int, ...] = tuple(subject.tokenizer(text, add_special_tokens=special)["input_ids"])  # type: ignore[arg-type]
    try:
        subject.require_known(ids, param)
    except InputError as error:
        raise ApiError.of(error, param) from None
    return ids


# --- our own field ---


def _edits(own: Fields) -> Expression | None:
    text = own.text("edits", "", most=10_000)
    if not text.strip():
        return None
    try:
        expression = Expression.parse(text)
    except InputError as error:
        raise checked(error, own.name("edits")) from None
    if any(term.where.rows is not None or any(left.rows is not None for left in term.where.exclude) for term in expression.terms):
        raise ApiError(400, "edits: a request is one row; leave out @rows", param=own.name("edits"))
    return expression


def _monitors(own: Fields) -> tuple[Watched, ...]:
    found: list[Watched] = []
    for number, one in enumerate(own.items("monitors", "monitors", most=16)):
        path = own.name(f"monitors[{number}]")
        if isinstance(one, str):
            found.append(Watched(one, "log", "sequence"))
            continue
        if not isinstance(one, Mapping):
            raise ApiError(400, f"{path}: got {quoted(one)}, wanted a name or an object with name, action and judge", param=path)
        fields = Fields(one, path)
        name, action, judge = fields.text("name", most=1000), fields.text("action", "log"), fields.text("judge", "sequence")
        if action not in ("log", "stop", "edit"):
            raise fields.wrong("action", action, "log, stop or edit")
        if judge not in ("sequence", "prompt"):
            raise fields.wrong("judge", judge, "sequence or prompt")
        fields.done()
        found.append(Watched(name, action, judge))
    twice = sorted({one.name for one in found if sum(other.name == one.name for other in found) > 1})
    if twice:
        raise ApiError(400, f"monitors: {quoted(twice[0])} is there twice; name each once", param=own.name("monitors"))
    return tuple(found)


def model_object(model: str, subject: Subject, created: int) -> dict[str, Any]:
    return {
        "id": model,
        "object": "model",
        "created": created,
        "owned_by": "strandscope",
        "strandscope": {"fingerprint": subject.fingerprint, "context": subject.context, "chats": subject.chats},
    }


def token_texts(subject: Subject, ids: Sequence[int]) -> list[str]:
    assert subject.tokenizer is not None
    return [str(subject.tokenizer.decode([token])) for token in ids]
