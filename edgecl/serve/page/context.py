"""What routes of the page work with, and how their answers and errors are written."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgecl.device import Device
from edgecl.errors import (
    EdgeclError,
    HomeLockedError,
    IntegrityError,
    UnknownClassError,
    UnknownSampleError,
    UsageError,
)
from edgecl.serve.page.access import Access, allows
from edgecl.serve.page.guard import Place
from edgecl.serve.page.news import News
from edgecl.serve.page.under_way import Jobs
from edgecl.serve.serving import Serving

T = TypeVar("T")
_log = logging.getLogger(__name__)
MOST_JSON = 65_536
_BODY_S = 30.0
# A command waits for the one before it, and for the frame that is just learned.
_WRITE_S = 60.0
_READERS = 2
_SHARE = 0.05
_LIGHT_S = 0.1
REPORT = "report"


class Refusal(Exception):
    """An answer other than 200, in words.

    Args:
        status: Of HTTP.
        sentence: What is wrong, and what to do.
        more: What else the answer says.
        code: Exit state that a command would have.
    """

    def __init__(
        self, status: int, sentence: str, more: dict[str, Any] | None = None, code: int = 3
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.more, self.code = status, sentence, more or {}, code


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer that is kept for a while, with what it cost."""

    value: Any
    until: float
    cost: float


@dataclass
class Context:
    """A page that is served.

    Args:
        serving: The home, and the stream.
        access: Who may do what.
        news: What pages are told.
        place: Where the page is.
        cookie: Name of the cookie of a session.
        jobs: Commands that take long.
    """

    serving: Serving
    access: Access
    news: News
    place: Place
    cookie: str
    jobs: Jobs
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_READERS, thread_name_prefix="page")
    )
    hand: str = ""
    """The page that holds a label, by the number that it gave itself."""
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def read(self, work: Callable[[Device], T]) -> T:
        """Do something that reads only, beside the event loop and beside the stream."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, work, self.serving.device)

    async def shared(self, name: str, work: Callable[[Device], T]) -> T:
        """Do what `read` does, once for all who ask meanwhile.

        What was found is kept as long as it takes to spend a twentieth of the time on it, a second
        at least, so that many pages that ask cost the stream no more than one. After a write all
        is found anew but a report that takes long: who renames a class sees its name.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            kept = self._kept.get(name)
            if kept is None or time.monotonic() > kept.until:
                begin, of = time.monotonic(), self.news.n_forgotten
                value = await self.read(work)
                cost = time.monotonic() - begin
                kept = _Kept(value, time.monotonic() + max(1.0, cost / _SHARE), cost)
                if of == self.news.n_forgotten:
                    self._kept[name] = kept
            value_: T = kept.value
            return value_

    def close(self) -> None:
        """End the threads that read, when they are through with what they are at."""
        self.pool.shutdown(wait=False, cancel_futures=True)

    def drop(self, *, everything: bool) -> None:
        """Drop what is kept of answers: all, or all but a report that took long."""
        for name, kept in list(self._kept.items()):
            if not everything and name == REPORT and kept.cost >= _LIGHT_S:
                continue
            del self._kept[name]

    async def write(self, name: str, work: Callable[[Device], T]) -> T:
        """Let the thread that writes do something, between two commits; pages hear of it."""
        asked = self.serving.do(name, work)
        asked.add_done_callback(lambda done: self.serving.live.tell("classes", {}))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked), _WRITE_S)
        except asyncio.TimeoutError:
            done = "nothing was done, try again" if asked.cancelled() else "it is still at it"
            raise HomeLockedError(
                f"the stream did not end this in {_WRITE_S:.0f} s; {done}"
            ) from None
        except (SystemExit, KeyboardInterrupt) as error:  # ends a command, not the page
            raise RuntimeError(type(error).__name__) from None
        finally:
            self.drop(everything=False)


Handler = Callable[[Context, Request], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route of the interface.

    Args:
        method: GET or POST.
        path: As Starlette writes it.
        handler: Returns JSON values, or a response.
        role: Who may ask.
    """

    method: str
    path: str
    handler: Handler
    role: str = "look"

    def route(self, context: Context) -> Route:
        """Return what Starlette calls."""

        async def endpoint(request: Request) -> Response:
            try:
                role = request.scope["role"]
                if self.role and not allows(role or "", self.role):
                    raise Refusal(403, f"the role {role} may not do this; {self.role} may")
                found = await self.handler(context, request)
            except (EdgeclError, Refusal) as error:
                return refused(error)
            except Exception as error:  # its text may hold a name, which is not for a log
                _log.error("%s %s failed (%s)", self.method, self.path, type(error).__name__)
                return refused(Refusal(500, "the page failed at this; its log names the fault"))
            return found if isinstance(found, Response) else answer(found)

        return Route(self.path, endpoint, methods=[self.method])


def answer(value: Any, status: int = 200) -> Response:
    """Return JSON values as an answer."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = text.encode("utf-8", "replace")
    return Response(body, status, media_type="application/json")


def refused(error: EdgeclError | Refusal) -> Response:
    """Return an error as an answer: `{"error", "exit"}`, as `--json` prints it."""
    if isinstance(error, Refusal):
        return answer({"error": error.sentence, "exit": error.code, **error.more}, error.status)
    status = 409  # it cannot be done as things are
    if isinstance(error, UsageError):
        status = 400
    elif isinstance(error, (UnknownClassError, UnknownSampleError)):
        status = 404
    elif isinstance(error, IntegrityError):
        status = 500
    return answer({"error": str(error), "exit": error.exit_code}, status)


async def body_of(request: Request, most: int) -> bytes:
    """Return the body of a request.

    Raises:
        Refusal: It is larger than that, or does not come.
    """
    too_large = Refusal(413, f"a body of more than {most:,} bytes; send less")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise too_large

    async def read() -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise too_large
        return bytes(body)

    try:
        return await asyncio.wait_for(read(), _BODY_S)
    except asyncio.TimeoutError:
        raise Refusal(408, f"the body did not come in {_BODY_S:.0f} s; send it again") from None


class Fields:
    """The JSON object of a request, checked as it is read.

    Args:
        values: What came.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def get(self, name: str, kind: type[T], default: T | None = None) -> T:
        """Return a value of a type; the default stands for one that is missing.

        Raises:
            UsageError: It is of another type, or missing and there is no default.
        """
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            given = "nothing" if value is None else type(value).__name__
            raise UsageError(f"{name} is {given}; expected {kind.__name__}")
        return value

    def uids(self, most: int = 1000) -> list[int]:
        """Return the uids that are named.

        Raises:
            UsageError: There are none, too many, or no whole numbers.
        """
        found = self.get("uids", list)
        fits = all(type(uid) is int and 0 < uid < 2**53 for uid in found)
        if not fits or not 0 < len(found) <= most:
            raise UsageError(f"uids is no list of 1 to {most:,} whole numbers from 1 on")
        return found

    def has(self, name: str) -> bool:
        """Whether something is said of it."""
        return self._values.get(name) is not None


async def fields_of(request: Request) -> Fields:
    """Return the JSON object of a request.

    Raises:
        Refusal: It is too large.
        UsageError: It is none.
    """
    try:
        values = json.loads(await body_of(request, MOST_JSON))
        json.dumps(values, ensure_ascii=False).encode()  # "\\ud800" is no text
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UsageError('the body is no JSON object; expected one as {"label": "cup"}')
    return Fields(values)


def number_of(request: Request, name: str, default: int, most: int) -> int:
    """Return a number of the query.

    Raises:
        UsageError: It is none, or not from 1 to most.
    """
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= most):
        raise UsageError(f"{name}={text[:20]} is no whole number from 1 to {most:,}")
    return int(text)
