"""What every request passes before any route: host, origin, content type, session.

Plain ASGI, since layers that wrap requests break endless answers. What is refused here costs no
route anything, and what a route raises ends here: never in the thread of the stream.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any

from edgecl.serve.page.access import Access

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SEND_S = 30.0
"""A client that takes nothing for so long is given up."""
_OPEN = ("/login", "/healthz", "/favicon.ico")
_STATIC = "/static/"
_LONGEST_PATH = 1000
_PICTURES = ("/api/v1/frames",)
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; frame-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page is found by browsers.

    Args:
        scheme: `http` or `https`, as browsers see it.
        host: Address that it listens on.
        port: Its port.
        proxy: Host and perhaps port of the proxy before it, or ''.
    """

    scheme: str
    host: str
    port: int
    proxy: str = ""

    @property
    def origin(self) -> str:
        """The address to give to people."""
        if self.proxy:
            return f"{self.scheme}://{self.proxy}"
        name = f"[{self.host}]" if ":" in self.host else self.host
        if self.host in ("0.0.0.0", "::"):
            name = socket.gethostname()
        return f"{self.scheme}://{name}:{self.port}"

    def is_ours(self, host: str) -> bool:
        """Whether a request for a host is for this page: a foreign name may point here, too."""
        if self.proxy and host.lower() == self.proxy:
            return True
        name, port = _split(host)
        default = 443 if self.scheme == "https" else 80
        if (port or default) != self.port:
            return False
        address = _address(name)
        listens = _address(self.host)
        if address is not None and listens is not None:
            return address == listens or (
                address.is_loopback if listens.is_loopback else listens.is_unspecified
            )
        own = {"localhost", self.host.lower()}
        if listens is None or not listens.is_loopback:
            machine = socket.gethostname().lower()
            own |= {machine, f"{machine}.local"}
        return name in own

    def is_same(self, origin: str) -> bool:
        """Whether a page of an origin is this one."""
        scheme, _, host = origin.partition("://")
        if self.proxy and host.lower() == self.proxy:
            return scheme == "https"
        own = self.scheme if not self.proxy else "http"
        return scheme == own and self.is_ours(host)


def cookie_of(place: Place) -> str:
    """Return the name of the cookie of a session: cookies do not tell ports apart."""
    return f"edgecl_{place.port}"


class Guard:
    """Lets through what may pass.

    Args:
        app: The routes; they find the role at `scope["role"]`.
        access: Who may do what.
        place: Where the page is.
    """

    def __init__(self, app: App, access: Access, place: Place) -> None:
        self._app, self._access, self._place = app, access, place
        self._cookie = cookie_of(place)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        is_started = False

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                given = {name for name, _ in message.get("headers", ())}
                more = [pair for pair in _HEADERS if pair[0] not in given]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            elif message.get("more_body") and scope["role"] and not self._role(_headers(scope)):
                raise ConnectionError("logged out while an answer without an end goes on")
            await asyncio.wait_for(send(message), SEND_S)

        try:
            refused = self._refusal(scope)
            if refused is not None:
                await _refuse(sent, scope, *refused)
            else:
                await self._app(scope, receive, sent)
        except (OSError, asyncio.TimeoutError):
            _log.debug("a client of the page has gone")
        except Exception as error:
            _log.error("the page failed at %s (%s)", scope["path"], type(error).__name__)
            if not is_started:
                await _refuse(sent, scope, 500, "the page failed; its log says where")

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and sentence of a refusal, or None."""
        headers = _headers(scope)
        path, writes = scope["path"], scope["method"] not in ("GET", "HEAD")
        if len(path) > _LONGEST_PATH:
            return 414, f"a path of {len(path)} characters; at most {_LONGEST_PATH:,}"
        if not self._place.is_ours(headers.get(b"host", "")):
            return 421, "this page is not for that host; use the address that was printed"
        if writes:
            origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "same-origin")
            if (origin is not None and not self._place.is_same(origin)) or site not in (
                "same-origin",
                "none",
            ):
                return 403, "another site asked for this; nothing was done"
            kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
            fits = kind.startswith("image/") if path in _PICTURES else kind == "application/json"
            if not fits:
                wanted = "image/jpeg or image/png" if path in _PICTURES else "application/json"
                return 415, f"content of type {kind or 'nothing'}; expected {wanted}"
        role = self._role(headers)
        scope["role"] = role
        is_open = path in _OPEN or (path.startswith(_STATIC) and not writes)
        if role is None and not is_open:
            return 401, "log in first: open the link that `edgecl serve` printed"
        return None

    def _role(self, headers: dict[bytes, str]) -> str | None:
        kind, _, value = headers.get(b"authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._access.session_role(value.strip())
        try:
            found = SimpleCookie(headers.get(b"cookie", "")).get(self._cookie)
        except CookieError:
            return None
        return self._access.session_role(found.value) if found is not None else None


async def _refuse(send: Send, scope: Scope, status: int, sentence: str) -> None:
    """Answer with an error; a browser that wants a page is shown where to log in."""
    headers = _headers(scope)
    if status == 401 and "text/html" in headers.get(b"accept", "") and scope["method"] == "GET":
        start: dict[str, Any] = {"status": 303, "headers": [(b"location", b"/login")]}
        body = b""
    else:
        body = json.dumps({"error": sentence, "exit": 3}).encode()
        start = {"status": status, "headers": [(b"content-type", b"application/json")]}
    start["headers"].append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", **start})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Scope) -> dict[bytes, str]:
    return {name: value.decode("latin-1") for name, value in scope["headers"]}


def _split(host: str) -> tuple[str, int | None]:
    """Return name, without brackets and in small letters, and port of a Host header."""
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        name, port = host, ""
    if (port and not (port.isascii() and port.isdigit() and len(port) < 6)) or not name:
        return "", -1
    return name.strip("[]").lower(), int(port) if port else None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
