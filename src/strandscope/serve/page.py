"""The bench as a page: one answer that holds its script and style, with a policy that names both; it may ask this server alone.

It holds nothing of anyone's, so it is given without a key; the key is in the fragment of the address that is printed, from which
the page's script takes it. Where the page was not built (no Node), it says so.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import InputError

PATH = "/"
_NOT_BUILT = "The page was not built when this was installed (no Node); the server answers its protocol all the same."


def routes() -> list[Route]:
    text, policy = bench()

    async def page(_request: Request) -> Response:
        headers = {"Content-Security-Policy": policy, "Content-Type": "text/html; charset=utf-8"}
        return Response(text, headers=headers)

    return [Route(PATH, page, methods=["GET"])]


def bench() -> tuple[str, str]:
    """The page and its policy."""
    built = resources.files("strandscope.report.page") / "static"
    files = [built / name for name in ("bench.js", "bench.css")]
    script, style = [file.read_text(encoding="utf-8") if file.is_file() else "" for file in files]
    if "</script" in script.lower() or "</style" in style.lower():
        raise InputError("bench.js, bench.css: the build holds a closing tag of its own; build the page again")
    policy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    policy += f"; script-src {_source(script)}; style-src {_source(style)}"
    body = f"<noscript><p>The bench needs scripts.</p></noscript><script>{script}</script>" if script else f"<p>{_NOT_BUILT}</p>"
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">',
        f"<title>Strandscope bench</title><style>{style}</style></head>",
        f'<body><div id="app"></div>{body}</body></html>',
    ]
    return "\n".join(lines) + "\n", policy


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
