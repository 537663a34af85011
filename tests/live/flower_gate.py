"""What the gate passes on, call by call; run in the carrier's own environment.

Prints one JSON line: of each call its status and whether it reached the SuperLink, a fake one.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any
from urllib.parse import unquote

import httpx

from edgecl_flower.gate import gate

PASSED: list[tuple[str, bytes, dict[str, str]]] = []
CALLS = [
    ("POST", "/v1/fleet/pull-messages", b"\x00body"),
    ("GET", "/v1/fleet/pull-messages", b""),
    ("POST", "/v1/control/start-run", b"x"),
    ("POST", "/v1/runtime/pull-task-input", b"x"),
    ("POST", "/v1/fleet/../control/start-run", b"x"),
    ("POST", "/v1/fleet/%2e%2e%2fcontrol%2fstart-run", b"x"),
    ("POST", "/v1/fleet/..%2Fcontrol", b"x"),
    ("POST", "/v1/fleet//control/start-run", b"x"),
    ("POST", "/v1/fleet/a?x=/../../control/start-run", b"x"),
    ("POST", "/v1/fleet/x@evil", b"x"),
    ("POST", "/docs", b""),
    ("POST", "/v1/fleet/push-object", bytes(17 << 20)),
]


async def post(self: Any, url: str, *, content: bytes, headers: Any) -> httpx.Response:
    PASSED.append((url, content, dict(headers)))
    return httpx.Response(412, content=b"answer", headers={"x-of": "link", "connection": "close"})


async def raw(app: Any, method: str, path: str, body: bytes) -> int:
    """Call the application as uvicorn does, with the path as it was sent."""
    where, _, query = path.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "https", "path": unquote(where), "raw_path": where.encode(),
        "query_string": query.encode(), "root_path": "", "server": ("gate", 1), "client": ("c", 1),
        "headers": [(b"host", b"gate"), (b"flwr-signature", b"s"), (b"connection", b"close")],
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])


async def main() -> None:
    app, told = gate("https://127.0.0.1:1", ssl.create_default_context()), []
    for method, path, body in CALLS:
        before = len(PASSED)
        told.append((path, await raw(app, method, path, body), len(PASSED) > before))
    print(json.dumps({"calls": told, "passed": [(u, len(c), h) for u, c, h in PASSED]}))


httpx.AsyncClient.post = post  # type: ignore[assignment,method-assign]
asyncio.run(main())
