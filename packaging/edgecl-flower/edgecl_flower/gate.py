"""`edgecl-flower-gate`: the only way from the network to a SuperLink, for nodes alone.

A SuperLink answers all at one port: nodes, who prove a registered key, and whoever starts runs,
registers keys or reads logs, who proves nothing. So it listens on loopback only, and this lets
through what nodes ask for: `POST /v1/fleet/...`.
"""

from __future__ import annotations

import argparse
import re
import ssl

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

# Files travel in pieces of 5 MiB.
_MOST_BYTES = 16 << 20
_OWN = {"host", "content-length", "connection", "transfer-encoding", "content-encoding"}


def gate(target: str, verify: ssl.SSLContext) -> Starlette:
    """Return the application that passes calls of nodes on to `target`, https://HOST:PORT."""
    client = httpx.AsyncClient(verify=verify, timeout=60, trust_env=False)

    async def pass_on(request: Request) -> Response:
        call = request.path_params["call"]
        if not re.fullmatch(r"[a-z][a-z-]{0,60}", call):
            return PlainTextResponse("no such call", 404)
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BYTES:
                return PlainTextResponse("too large", 413)
        headers = [(k, v) for k, v in request.headers.items() if k not in _OWN]
        url = f"{target}/v1/fleet/{call}"
        try:
            answer = await client.post(url, content=bytes(body), headers=headers)
        except httpx.HTTPError:
            return PlainTextResponse("the SuperLink does not answer", 502)
        kept = {k: v for k, v in answer.headers.items() if k not in _OWN}
        return Response(answer.content, answer.status_code, kept)

    return Starlette(routes=[Route("/v1/fleet/{call}", pass_on, methods=["POST"])])


def main() -> None:
    """Run the gate until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--superlink", default="127.0.0.1:8000", help="Where it listens.")
    parser.add_argument("--host", default="0.0.0.0", help="Where nodes come to.")
    parser.add_argument("--port", default=8443, type=int, help="Where nodes come to.")
    for name in ("ca", "cert", "key"):
        parser.add_argument(f"--ssl-{name}file", required=True, help="As of the SuperLink.")
    options = parser.parse_args()
    verify = ssl.create_default_context(cafile=options.ssl_cafile)
    uvicorn.run(
        gate(f"https://{options.superlink}", verify),
        host=options.host,
        port=options.port,
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
        server_header=False,
        log_level="warning",
    )
