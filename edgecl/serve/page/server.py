"""The page of `edgecl serve`: in a thread and an event loop of its own, beside the stream.

Nothing that happens here reaches the thread of the stream: the port is bound before this thread
starts, commands go through a queue, news of the stream is taken over without waiting.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecl.config import WebConfig
from edgecl.errors import MissingPackageError, RequestError, UsageError
from edgecl.serve.page.access import Access
from edgecl.serve.page.guard import Place
from edgecl.serve.serving import Serving

if TYPE_CHECKING:
    from uvicorn import Config, Server

    from edgecl.serve.page.guard import App, Guard
    from edgecl.serve.page.news import News

_log = logging.getLogger(__name__)
_PATIENCE_S = 5.0
_LOOK_S = 0.1
_MOST_CONNECTIONS = 512
_MOST_HEADER_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Wire:
    """How a page is reached.

    Args:
        listen: Address and port; port 0 takes a free one.
        certificate: File of its certificate, and
        key: file of the key to it: TLS.
        proxy: `https://host` of the proxy before it, which does TLS.
    """

    listen: str = WebConfig().listen
    certificate: Path | None = None
    key: Path | None = None
    proxy: str = ""


class Page:
    """The page of a home that is served.

    Args:
        serving: The home, and its stream.
        wire: How it is reached.
        passwords: Hash of the password of each role that has one.

    Raises:
        MissingPackageError: The extra `web` is not installed.
        UsageError: The address is none, or may not be used like this.
        RequestError: The port is taken, or a certificate cannot be used.
    """

    def __init__(
        self, serving: Serving, wire: Wire | None = None, passwords: Mapping[str, str] | None = None
    ) -> None:
        wire = wire or Wire()
        app_of = _imported()
        self.access = Access(serving.device.home.key, passwords)
        host, port = _address(wire, has_password=bool(self.access.passwords))
        self._socket = _bound(host, port)
        try:
            self._place = _place(wire, host, self._socket.getsockname()[1])
            app, self._news, self._close_app = app_of(serving, self.access, self._place)
            self._config = _config(app, wire)
        except BaseException:
            self._socket.close()
            raise
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address with a token that lets one browser in, once."""
        return f"{self._place.origin}/login?token={self.access.token()}"

    @property
    def address(self) -> str:
        """The address without a token."""
        return self._place.origin

    def start(self) -> None:
        """Answer from now on, in a thread of its own."""
        from uvicorn import Server

        self._server = Server(self._config)
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more; waits a moment for what is on its way."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_PATIENCE_S)
        self._socket.close()

    def _run(self) -> None:
        assert self._server is not None
        try:
            asyncio.run(self._serve(self._server))
        except Exception as error:  # the stream goes on without a page
            _log.error("the page has ended (%s)", type(error).__name__)
        self._socket.close()  # or who asks would wait for an answer

    async def _serve(self, server: Server) -> None:
        self._news.begin()
        serving = asyncio.ensure_future(server.serve(sockets=[self._socket]))
        try:
            while not server.should_exit and not serving.done():
                await asyncio.sleep(_LOOK_S)
        finally:
            self._news.end()  # ends the answers without an end, which it would wait for
            await serving
            self._close_app()


def _imported() -> Callable[[Serving, Access, Place], tuple[Guard, News, Callable[[], None]]]:
    """Return what makes the application; all that imports the extra `web` is behind it."""
    try:
        import uvicorn  # noqa: F401

        from edgecl.serve.page.app import app_of
    except ImportError as error:
        raise MissingPackageError(
            f"the page needs {error.name}, which is not installed: `pip install 'edgecl[web]'`"
        ) from error
    return app_of


def _address(wire: Wire, *, has_password: bool) -> tuple[str, int]:
    """Return host and port, if they may be used like this."""
    host, _, port = wire.listen.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdigit() or int(port) > 65_535 or not port.isascii():
        raise UsageError(f"--listen {wire.listen} is no address; expected HOST:PORT")
    if (wire.certificate is None) != (wire.key is None):
        raise UsageError("--tls-cert and --tls-key belong together; give both files")
    if wire.proxy and not re.fullmatch(r"https://[\w.-]+(:\d{1,5})?/?", wire.proxy):
        raise UsageError(f"--behind-proxy {wire.proxy} is no address of it; expected https://HOST")
    if _is_loopback(host) and not wire.proxy:
        return host, int(port)
    if wire.certificate is None and not wire.proxy:
        raise UsageError(
            f"--listen {wire.listen} can be reached from elsewhere, where anybody could read along;"
            " add --tls-cert and --tls-key, or --behind-proxy https://HOST"
        )
    if not has_password:
        raise UsageError(
            f"--listen {wire.listen} can be reached from elsewhere; set a password first: "
            "`edgecl serve --set-password own`"
        )
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that a taken port is known before anything starts."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise RequestError(f"--listen {host} cannot be found ({error.strerror})") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise RequestError(
            f"the page cannot listen on {host}:{port} ({error.strerror}); another process may be "
            "there: take another port with --listen"
        ) from error
    bound.setblocking(False)
    return bound


def _place(wire: Wire, host: str, port: int) -> Place:
    is_safe = bool(wire.proxy or wire.certificate)
    proxy = wire.proxy.removeprefix("https://").rstrip("/").lower()
    return Place("https" if is_safe else "http", host, port, proxy)


def _config(app: App, wire: Wire) -> Config:
    from uvicorn import Config

    config = Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,  # what it would log is who asked for what
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
        timeout_graceful_shutdown=1,
        ssl_certfile=wire.certificate,
        ssl_keyfile=wire.key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise RequestError(
            f"the certificate {wire.certificate} with the key {wire.key} cannot be used ({error})"
        ) from error
    return config
