"""Pictures over HTTP: a stream of JPEGs (MJPEG), or one picture that is asked for again and again.

`http://HOST/...` and `https://HOST/...`, with `USER:PASSWORD@` before the host if it asks for them
(`login.py`), or with headers of a file (`headers.py`). What comes is known by its first bytes, not
by its type. Nothing but that host is talked to: a redirect to another one is refused, and no proxy
is used. Why this is the standard library's client: docs/decisions/0014-http.md.

No text of a server goes into a message: it could hold the password that it was sent, or codes that
a terminal obeys.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from email.message import Message
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from edgecl.errors import SourceError

from ..address import shut, split_url
from ..redact import redacted
from .jpeg import JPEG_START, closed_jpeg, is_picture, jpeg_end
from .live import STALL_S, Counters, LiveSource, Lost, Refused, Shot
from .login import Credentials
from .mjpeg import Parts

POLL_S = 1.0
# Longer than a stall, so that a silent peer is told as one.
_TIMEOUT_S = 1.5 * STALL_S
_MAX_REDIRECTS = 4
_PIECE = 65_536
# Enough to know a picture by.
_FIRST = 16
_TYPE = re.compile(r"[\w.+-]{1,40}/[\w.+-]{1,40}", re.ASCII)
# Of any type, since servers write all of these before pictures.
_UNTYPED = frozenset({"", "application/octet-stream", "binary/octet-stream", "text/plain"})
# Of a path or query: what is escaped already, and what needs no escape.
_AS_IT_IS = "%/:=&?~+!$,;'@()*[]"
_LATER = frozenset({408, 425, 429})


def open_http(
    url: str,
    /,
    *,
    label: str | None,
    max_bytes: int,
    poll_s: float = POLL_S,
    headers: Mapping[str, str] | None = None,
) -> LiveSource:
    """Open a picture or MJPEG stream of a web server; nothing is sent before its first frame.

    Args:
        url: Address, with user and password if it needs them.
        label: Class of all frames.
        max_bytes: Larger pictures are counted and skipped.
        poll_s: Seconds between two looks at a single picture.
        headers: Sent with every request, to this host only, and never shown.

    Raises:
        SourceError: No address that could be one.
    """
    address = split_url(url)
    return LiveSource(
        url,
        lambda counters: _HttpConnection(
            address, counters, max_bytes=max_bytes, poll_s=poll_s, headers=headers or {}
        ),
        label=label,
    )


class _HttpConnection:
    def __init__(
        self,
        url: SplitResult,
        counters: Counters,
        *,
        max_bytes: int,
        poll_s: float,
        headers: Mapping[str, str],
    ) -> None:
        self._url = url
        self._headers = headers
        self._counters = counters
        self._max_bytes = max_bytes
        self._poll_s = poll_s
        self._closed = threading.Event()
        self._socket: socket.socket | None = None
        self._credentials = Credentials(url)

    def close(self) -> None:
        self._closed.set()
        if (sock := self._socket) is not None:
            shut(sock)

    def __iter__(self) -> Iterator[Shot | None]:
        try:
            yield from self._shots()
        except http.client.HTTPException as error:
            kind = type(error).__name__
            raise Lost(f"the server answered what is no HTTP ({kind})") from error
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"{self._name} has a certificate that cannot be trusted "
                f"({error.verify_message}); name the one that can with SSL_CERT_FILE"
            ) from error

    @property
    def _name(self) -> str:
        return f"source {redacted(self._url.geturl())}"

    def _shots(self) -> Iterator[Shot | None]:
        conditions: dict[str, str] = {}
        last = b""
        while True:
            connection, response = self._get(conditions)
            n = 0
            is_alive = response.status == 304
            try:
                for picture in () if is_alive else self._pictures(response):
                    n += 1
                    if n == 1 and picture == last:
                        self._counters.add("repeated")
                        is_alive = True
                        continue
                    last = picture
                    yield Shot(encoded=picture)
            finally:
                response.close()
                connection.close()
            if n > 1:
                raise Lost("the server ended the stream")
            if is_alive:
                yield None
            if n == 1:
                conditions = _conditions(response.headers)
            if self._closed.wait(self._poll_s):
                return

    def _pictures(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """Yield what a body holds: parts, JPEG after JPEG, or one picture."""
        said = _TYPE.match(response.headers.get("Content-Type", ""))
        kind = said[0].lower() if said else ""
        first = b""
        while len(first.lstrip()) < _FIRST and (piece := response.read1(_PIECE)):
            first += piece
        self._counters.came(len(first))
        start = first.lstrip()
        is_multipart = kind.startswith("multipart/")
        if start.startswith(JPEG_START) and (is_multipart or response.length is None):
            yield from self._parts(response, first, None)
        elif is_multipart or start.startswith(b"--"):
            boundary = str(response.headers.get_param("boundary", "")) if is_multipart else ""
            yield from self._parts(response, first, boundary)
            if is_multipart:
                raise Lost("the server ended the stream")
        elif is_picture(start) or kind.startswith("image/") or (not first and kind in _UNTYPED):
            yield from self._picture(response, first)
        else:
            what = f"{kind or 'no type'} that is no picture" if kind in _UNTYPED else kind
            raise SourceError(
                f"{self._name} sends {what}; expected multipart/x-mixed-replace (MJPEG) or "
                "image/jpeg"
            )

    def _parts(
        self, response: http.client.HTTPResponse, piece: bytes, boundary: str | None
    ) -> Iterator[bytes]:
        parts = Parts(
            boundary,
            max_bytes=self._max_bytes,
            count=lambda name: self._counters.add(name, why=parts.why),
        )
        try:
            while piece:
                yield from parts.feed(piece)
                piece = response.read1(_PIECE)
                self._counters.came(len(piece))
        finally:
            rest = None if self._closed.is_set() else parts.end()
        if rest is not None:
            yield rest

    def _picture(self, response: http.client.HTTPResponse, first: bytes) -> Iterator[bytes]:
        said = response.length
        if said is not None and len(first) + said > self._max_bytes:
            return self._counters.add("oversize", why=f"more than {self._max_bytes / 1e6:g} MB")
        data = first + response.read(max(0, self._max_bytes + 1 - len(first)))
        self._counters.came(len(data) - len(first))
        if len(data) > self._max_bytes:
            return self._counters.add("oversize", why=f"more than {self._max_bytes / 1e6:g} MB")
        data = data.lstrip(b"\r\n")
        if response.length:
            return self._counters.add("broken", why="the connection ended in it")
        if data.startswith(JPEG_START) and jpeg_end(data) < 0:
            data = closed_jpeg(data) or b""
        if not data:
            return self._counters.add("broken", why="end missing" if first else "empty")
        yield data

    def _get(
        self, conditions: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Ask for the picture or stream; follows redirects and answers a challenge."""
        n_redirects = 0
        self._credentials.begin()
        while True:
            connection = self._connect()
            try:
                target = quote(self._url.path or "/", safe=_AS_IT_IS)
                if self._url.query:
                    target += f"?{quote(self._url.query, safe=_AS_IT_IS)}"
                authorization = self._credentials.answer("GET", target)
                connection.request(
                    "GET",
                    target,
                    headers={
                        "User-Agent": "edgecl",
                        "Accept": "multipart/x-mixed-replace, image/*",
                        "Connection": "close",
                        **conditions,
                        **self._headers,
                        **({"Authorization": authorization.encode()} if authorization else {}),
                    },
                )
                response = connection.getresponse()
            except BaseException:
                connection.close()
                raise
            if response.status in (200, 304):
                return connection, response
            response.close()
            connection.close()
            if response.status in (301, 302, 303, 307, 308) and n_redirects < _MAX_REDIRECTS:
                n_redirects += 1
                self._follow(response.headers.get("Location", ""))
            elif response.status == 401:
                self._take_challenge(response.headers.get_all("WWW-Authenticate", []))
            elif response.status >= 500 or response.status in _LATER:
                raise Lost(f"the server answered {_status(response)}")
            else:
                kind = Refused if response.status in (403, 407) else SourceError
                raise kind(f"{self._name} answered {_status(response)}; check the address")

    def _take_challenge(self, headers: list[str]) -> None:
        """Find the answer to a 401, or say that there is none."""
        if not self._credentials.are_given and "Authorization" in self._headers:
            raise Refused(
                f"{self._name} refuses the Authorization of the header file (401); the token may "
                "have ended"
            )
        if not self._credentials.are_given and "=***" in self._name:
            raise Refused(
                f"{self._name} refuses the token in its address (401); it may have ended, and "
                "--header-file takes one that lasts"
            )
        try:
            self._credentials.challenge(headers)
        except Refused as error:
            raise Refused(f"{self._name} {error}") from None

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=_TIMEOUT_S
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        try:
            connection.connect()
            self._socket = connection.sock
            if self._closed.is_set():
                raise Lost("closed")
        except BaseException:
            connection.close()
            raise
        return connection

    def _follow(self, location: str) -> None:
        before = self._url
        try:
            after = urlsplit(urljoin(before.geturl(), location))
            place = f"{after.scheme}://{after.hostname}" + (f":{after.port}" if after.port else "")
        except ValueError:
            after, place = SplitResult("", "", "", "", ""), "what is no address"
        is_safe = after.scheme == before.scheme or (before.scheme, after.scheme) == (
            "http",
            "https",
        )
        # Another port may be another's, who must not be sent what proves us.
        has_secret = self._credentials.are_given or self._headers
        if has_secret and after.scheme == before.scheme and after.port != before.port:
            is_safe = False
        if not location or after.hostname != before.hostname or not is_safe:
            raise SourceError(
                f"{self._name} redirects to {ascii(place)[1:-1] if location else 'nowhere'}; "
                "name that address if it is meant"
            )
        self._url = after


def _status(response: http.client.HTTPResponse) -> str:
    """Return the number and what it means, not what the server writes behind it."""
    words = http.client.responses.get(response.status, "")
    return f"{response.status} {words}".rstrip()


def _conditions(headers: Message) -> dict[str, str]:
    """Return what asks for the picture only if it is another one by now."""
    names = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
    return {ask: headers[name] for name, ask in names.items() if headers[name]}
