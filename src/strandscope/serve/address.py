"""Where a server listens, and with which key: found before anything heavy is imported, so that what is wrong is told at once.

The next free port is taken where the one asked for is somebody's. Beyond loopback a key of one's own is wanted (see `security`).
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass

from ..errors import InputError, MissingError

PORT = 8417
TRIES = 50  # ports that are tried after the one asked for
LEAST_KEY = 16
_KEY = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens; `names` are those by which requests may call it, beside IP addresses."""

    host: str
    port: int
    key: str
    names: frozenset[str]

    @property
    def url(self) -> str:
        """For a person or a tool on this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def listen(host: str, port: int | None, key: str | None) -> tuple[Address, socket.socket]:
    """A socket on the first free port from `port` on (0: any), and the address with its key.

    Raises:
        InputError: an address beyond loopback without a key, a key that is too short, a host that is none.
        MissingError: no port is free, or that address is not this machine's.
    """
    if key is not None and (len(key) < LEAST_KEY or not _KEY.fullmatch(key)):
        raise InputError(
            f"key: wanted at least {LEAST_KEY} letters, digits and signs of ASCII, without spaces; make a random one"
        )
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise InputError(f"host: {host!r} is no address of this machine; use 127.0.0.1") from None
    family, bound = found[0][0], str(found[0][4][0])
    if key is None and not all(ipaddress.ip_address(str(place[4][0]).partition("%")[0]).is_loopback for place in found):
        raise InputError(
            f"host: {host} can be reached from other machines, where anyone could use this network; give a key of your own "
            "(--key or STRANDSCOPE_KEY), or leave the host out"
        )
    sock = _bound(family, bound, PORT if port is None else port)
    names = {"localhost", host.lower(), socket.gethostname().lower()}
    return Address(bound, sock.getsockname()[1], key or secrets.token_urlsafe(32), frozenset(names)), sock


def _bound(family: int, host: str, port: int) -> socket.socket:
    last = OSError("no such port")
    for number in range(port, min(65536, port + TRIES)) if port else (0,):
        # The protocol by its name: asyncio lets packets go without delay (40 ms each otherwise) only where a socket names it.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that ended just now, never of one that listens
        try:
            sock.bind((host, number))
            sock.listen(128)
        except OSError as error:
            sock.close()
            last = error
            continue
        return sock
    raise MissingError(f"port: none from {port} on is free on {host} ({last.strerror}); name another with --port")
