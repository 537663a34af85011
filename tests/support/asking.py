"""A page that is served, and a client of it that sends what a test says, byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from served import ToyStream

import build
from edgecl.device import Device
from edgecl.serve.page.server import Page, Wire
from edgecl.store.table import Role
from edgecl.unlearning.request import writing

JSON = {"Content-Type": "application/json"}


@dataclass
class Answer:
    """One answer.

    Args:
        status: Of HTTP.
        headers: Names in small letters.
        body: Its bytes.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its JSON values."""
        return json.loads(self.body)


@dataclass
class Site:
    """A served home, and who asks it; the client has the role own."""

    stream: ToyStream
    page: Page
    port: int = 0
    token: str = ""
    _open: list[HTTPConnection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token = self.page.access.session("own")
        self.port = int(self.page._socket.getsockname()[1])

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        role: str | None = "own",
    ) -> Answer:
        """Ask once; a body that is no bytes goes as JSON, a header of '' is left out."""
        connection, response = self._asked(method, path, body, headers, role)
        data = response.read()
        connection.close()  # a page takes so many at once, and these are quick
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, data)

    def open(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        role: str | None = "own",
    ) -> HTTPResponse:
        """Ask, and leave the answer to be read."""
        connection, response = self._asked(method, path, body, headers, role)
        self._open.append(connection)
        return response

    def _asked(
        self, method: str, path: str, body: Any, headers: dict[str, str] | None, role: str | None
    ) -> tuple[HTTPConnection, HTTPResponse]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=90)
        given = {"Authorization": f"Bearer {self.page.access.session(role)}"} if role else {}
        if body is not None and not isinstance(body, bytes):
            given |= JSON
            body = json.dumps(body).encode()
        given |= headers or {}
        connection.request(
            method, path, body=body, headers={k: v for k, v in given.items() if v != ""}
        )
        return connection, connection.getresponse()

    def get(self, path: str, status: int = 200) -> Any:
        """Return the JSON values of an answer of the interface."""
        found = self.ask("GET", f"/api/v1/{path}")
        assert found.status == status, found.body
        return found.json

    def post(self, path: str, body: Any, status: int = 200) -> Any:
        """Ask the interface for something."""
        found = self.ask("POST", f"/api/v1/{path}", body)
        assert found.status == status, found.body
        return found.json

    def close(self) -> None:
        for connection in self._open:
            connection.close()
        self.page.close()


@contextmanager
def opened(home: Path, place: Path, wire: Wire | None = None, **options: Any) -> Iterator[Site]:
    """Serve a copy of a home."""
    shutil.copytree(home, place / "home")
    with ToyStream(Device.open(place / "home"), fps=20.0) as stream:
        page = Page(stream.serving, wire or Wire("127.0.0.1:0"), **options)
        page.start()
        site = Site(stream, page)
        try:
            yield site
        finally:
            site.close()


def record(response: HTTPResponse) -> tuple[dict[str, Any], bytes]:
    """Read one picture with its answer."""
    head = json.loads(response.read(int.from_bytes(response.read(4), "big")))
    return head, response.read(head["jpeg"])


def event(response: HTTPResponse) -> dict[str, str]:
    """Read one server-sent event, or comment."""
    found: dict[str, str] = {}
    while line := response.readline().decode().rstrip("\n"):
        name, _, value = line.partition(": ")
        found[name] = value
    return found


def waiting(device: Device, n: int = 2) -> list[int]:
    """Put frames into the review queue; in the thread that writes."""
    with writing(device.home) as session, session.store.transaction():
        store = session.store
        guess = next(iter(store.names))
        for i in range(n):
            x = store.open_rows()[1][i]
            jpeg = build.encode(build.part_picture("gasket", 90 + i, 48))
            store.add_aside(
                Role.REVIEW, guess, x, jpeg, source="camera", frame=f"f{i}", time=1.0, score=0.5
            )
        return store.rows(Role.REVIEW)[0].tolist()
