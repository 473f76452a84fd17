"""The server as a process: uvicorn around the application, on a socket that is bound already, with logs that are its own.

What is logged are errors of the server's own. A message of several lines has all but its first indented, and characters that a
terminal would obey are written as escapes, so that no client's words can pass for a line of the log.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from ..report.text import visible
from .address import Address
from .app import application
from .completions import Bench

GRACE = 3  # seconds that open connections have when the server is stopped


class Lines(logging.Formatter):
    """One message, one line that begins at the margin."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record)).replace("\n", "\n    ")


class Server(uvicorn.Server):
    """Tells when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def server(bench: Bench, address: Address, ready: Callable[[], None]) -> Server:
    """An HTTP server of the bench, to be run on its socket; `ready` is called when it answers."""
    limits = bench.limits
    config: Any = {
        "log_config": None,
        "access_log": False,
        "lifespan": "on",
        "ws": "none",
        "server_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": GRACE,
        "limit_concurrency": 2 * (limits.rows + limits.waiting) + 64,
    }
    return Server(uvicorn.Config(application(bench, address), **config), ready)


def log_to(stream: Any) -> None:
    """Send the server's errors to a stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines("%(levelname)s %(message)s"))
    for name in ("uvicorn.error", "strandscope.serve"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
