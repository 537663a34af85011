"""Pictures over HTTP: a stream of JPEGs (MJPEG), or one picture that is asked for again and again.

`http://HOST/...` and `https://HOST/...`, with `USER:PASSWORD@` before the host if it asks for them
(Basic, or Digest as in RFC 7616). Nothing but that host is talked to: a redirect to another one is
refused, and no proxy is used.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from email.message import Message
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from edgecl.errors import SourceError

from ..redact import redacted
from .address import Credentials, shut, split_url
from .live import STALL_S, Counters, LiveSource, Lost, Shot
from .mjpeg import JPEG_START, Parts, jpeg_end

POLL_S = 1.0
# Longer than a stall, so that a silent peer is told as one.
_TIMEOUT_S = 1.5 * STALL_S
_MAX_REDIRECTS = 4
_PIECE = 65_536
# Of a path or query: what is escaped already, and what needs no escape.
_AS_IT_IS = "%/:=&?~+!$,;'@()*[]"
_LATER = frozenset({408, 425, 429})


def open_http(url: str, *, label: str | None, max_bytes: int, poll_s: float = POLL_S) -> LiveSource:
    """Open a picture or MJPEG stream of a web server; nothing is sent before its first frame.

    Args:
        url: Address, with user and password if it needs them.
        label: Class of all frames.
        max_bytes: Larger pictures are counted and skipped.
        poll_s: Seconds between two looks at a single picture.

    Raises:
        SourceError: No address that could be one.
    """
    address = split_url(url)
    return LiveSource(
        url,
        lambda counters: _HttpConnection(address, counters, max_bytes=max_bytes, poll_s=poll_s),
        label=label,
    )


class _HttpConnection:
    def __init__(
        self, url: SplitResult, counters: Counters, *, max_bytes: int, poll_s: float
    ) -> None:
        self._url = url
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
            raise Lost(f"the server answered what is no HTTP ({error!r})") from error
        except ssl.SSLCertVerificationError as error:
            raise SourceError(
                f"source {redacted(self._url.geturl())} has a certificate that cannot be trusted "
                f"({error.verify_message}); name the one that can with SSL_CERT_FILE"
            ) from error

    def _shots(self) -> Iterator[Shot | None]:
        headers: dict[str, str] = {}
        last = b""
        while True:
            connection, response = self._get(headers)
            try:
                kind = response.headers.get_content_type()
                if response.status == 304:
                    picture = None
                elif kind.startswith("multipart/"):
                    yield from self._parts(response)
                    raise Lost("the server ended the stream")
                elif kind.startswith("image/"):
                    picture = self._picture(response)
                    headers = _conditions(response.headers)
                else:
                    raise SourceError(
                        f"source {redacted(self._url.geturl())} sends {kind}; expected "
                        "multipart/x-mixed-replace (MJPEG) or image/jpeg"
                    )
            finally:
                response.close()
                connection.close()
            if picture is not None and picture == last:
                self._counters.add("repeated")
                picture = None
            last = picture or last
            yield None if picture is None else Shot(encoded=picture)
            if self._closed.wait(self._poll_s):
                return

    def _parts(self, response: http.client.HTTPResponse) -> Iterator[Shot]:
        boundary = str(response.headers.get_param("boundary", ""))
        parts = Parts(boundary, max_bytes=self._max_bytes, count=self._counters.add)
        try:
            while piece := response.read1(_PIECE):
                for picture in parts.feed(piece):
                    yield Shot(encoded=picture)
        finally:
            if not self._closed.is_set():
                parts.end()

    def _picture(self, response: http.client.HTTPResponse) -> bytes | None:
        said = response.length
        if said is not None and said > self._max_bytes:
            self._counters.add("oversize")
            return None
        data = response.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            self._counters.add("oversize")
            return None
        is_cut = said is not None and len(data) < said
        if is_cut or not data or (data.startswith(JPEG_START) and jpeg_end(data) < 0):
            self._counters.add("broken")
            return None
        return data

    def _get(
        self, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Ask for the picture or stream; follows redirects and answers a challenge."""
        n_redirects = 0
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
                        **headers,
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
            elif response.status == 401 and self._credentials.challenge(
                response.headers.get_all("WWW-Authenticate", [])
            ):
                continue
            elif response.status >= 500 or response.status in _LATER:
                raise Lost(f"the server answered {response.status} {response.reason}")
            else:
                raise SourceError(self._refusal(response.status, response.reason))

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
        after = urlsplit(urljoin(before.geturl(), location))
        is_safe = after.scheme == before.scheme or (before.scheme, after.scheme) == (
            "http",
            "https",
        )
        if not location or after.hostname != before.hostname or not is_safe:
            raise SourceError(
                f"source {redacted(before.geturl())} redirects to "
                f"{redacted(location) or 'nowhere'}; name that address if it is meant"
            )
        self._url = after

    def _refusal(self, status: int, reason: str) -> str:
        name = redacted(self._url.geturl())
        if status == 401 and not self._credentials.are_given:
            return (
                f"source {name} asks for a user and a password; write USER:PASSWORD@ before its "
                "host"
            )
        if status == 401:
            return f"source {name} refuses this user or password (401)"
        return f"source {name} answered {status} {reason}; check the address"


def _conditions(headers: Message) -> dict[str, str]:
    """Return what asks for the picture only if it is another one by now."""
    names = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
    return {ask: headers[name] for name, ask in names.items() if headers[name]}
