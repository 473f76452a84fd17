"""Who may ask this server anything: on which address it listens, what every request has to show, what every answer says.

It listens on loopback. Loopback alone keeps no web page out: a page anywhere can send requests to 127.0.0.1 from the browser of
who reads it, and by DNS rebinding (its own name resolved to 127.0.0.1) read the answers. So three things are asked of a request:

    Host    an IP address, or a name by which this machine goes: a page that rebinds its name sends that name
    Origin  none, or this very server: a cross-site request carries the other site's (browsers cannot leave it out of a POST),
            and Sec-Fetch-Site says so too
    key     a random one, as `Authorization: Bearer KEY`, on every route but those that hold nothing of anyone's

The key is no cookie, so a browser adds it to nothing by itself. The page gets it in the fragment of the URL that is printed,
which is never sent, logged or passed on as a referrer, and sends it as a local tool does. Listening elsewhere than on loopback
needs a key of one's own, since who can reach the port is then anybody. There is no TLS: put a proxy before it, or use a tunnel.

Answers are not framed, sniffed, cached or read by other sites, and forbid scripts of every kind; a page that has some says which
by their hashes, in a policy of its own.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders

from ..errors import InputError
from .address import Address
from .wire import ApiError, error_response

OPEN = frozenset({"/healthz", "/"})
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """The ASGI application inside, for requests that may be answered."""

    def __init__(self, app: Any, address: Address, open_paths: Collection[str] = OPEN) -> None:
        self.app, self.address, self.open_paths = app, address, frozenset(open_paths)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise InputError(f"serve: got a {scope['type']} connection, wanted http")

        async def send_on(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        error = self._wrong(scope["path"], Headers(scope=scope))
        await (self.app if error is None else error_response(error))(scope, receive, send_on)

    def _wrong(self, path: str, headers: Headers) -> ApiError | None:
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_me(hosts[0]):
            return ApiError(403, "host: this server does not go by that name; ask it by its address", code="wrong_host")
        mine = {f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}"}
        if len(origins) > 1 or any(origin.lower() not in mine for origin in origins):
            return ApiError(403, "origin: pages of other sites may not ask this server anything", code="wrong_origin")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return ApiError(403, "origin: pages of other sites may not ask this server anything", code="wrong_origin")
        if path in self.open_paths or self._knows(headers.getlist("authorization")):
            return None
        said = "key: wanted the header Authorization: Bearer KEY with the key that the server printed when it started"
        return ApiError(401, said, kind="authentication_error", code="invalid_api_key")

    def _is_me(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].lower().strip("[]")
        if name.removesuffix(".") in self.address.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _knows(self, given: list[str]) -> bool:
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), self.address.key.encode())
