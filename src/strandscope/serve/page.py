"""The bench as a page: one answer that holds its script and style, with a policy that names both; it may ask this server alone.

It holds nothing of anyone's, so it is given without a key; the key is in the fragment of the address that is printed, from which
the page's script takes it. Where the page was not built (no Node), it says so.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..report.page.inline import built, source

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
    script, style = built("bench.js"), built("bench.css")
    policy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    policy += f"; script-src {source(script)}; style-src {source(style)}"
    body = f"<noscript><p>The bench needs scripts.</p></noscript><script>{script}</script>" if script else f"<p>{_NOT_BUILT}</p>"
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">',
        f"<title>Strandscope bench</title><style>{style}</style></head>",
        f'<body><div id="app"></div>{body}</body></html>',
    ]
    return "\n".join(lines) + "\n", policy
