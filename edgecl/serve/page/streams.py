"""Answers without an end: pictures with what is said of them, news, and MJPEG for others."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from edgecl.serve.page.context import Context, Endpoint, Refusal
from edgecl.serve.page.news import MOST_WATCHERS

_BOUNDARY = "edgecl-picture"


class Endless(StreamingResponse):
    """An answer that goes on as long as somebody reads; what gives it is closed behind it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            body = self.body_iterator
            assert isinstance(body, AsyncGenerator)
            await body.aclose()


async def live(context: Context, request: Request) -> Response:
    """Pictures, each with its answer in the same record, so that they never disagree."""
    _check_room(context)
    source = request.query_params.get("source")

    async def records() -> AsyncGenerator[bytes, None]:
        async with aclosing(context.news.pictures(source)) as pictures:
            async for picture in pictures:
                yield context.news.record(picture)

    return Endless(records(), media_type="application/octet-stream")


async def video(context: Context, request: Request) -> Response:
    """Pictures as MJPEG."""
    _check_room(context)
    source = request.query_params.get("source")

    async def parts() -> AsyncGenerator[bytes, None]:
        async with aclosing(context.news.pictures(source)) as pictures:
            async for picture in pictures:
                head = (
                    f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n"
                    f"Content-Length: {len(picture.jpeg)}\r\n\r\n"
                )
                yield head.encode() + picture.jpeg + b"\r\n"

    return Endless(parts(), media_type=f"multipart/x-mixed-replace; boundary={_BOUNDARY}")


async def snapshot(context: Context, request: Request) -> Response:
    """The newest picture."""
    picture = await context.news.one(request.query_params.get("source"))
    if picture is None:
        raise Refusal(404, "no picture came in 3 s; is the camera there?")
    return Response(picture.jpeg, media_type="image/jpeg")


async def events(context: Context, request: Request) -> Response:
    """News, as server-sent events."""
    last = request.headers.get("last-event-id", "")
    return Endless(context.news.events(last), media_type="text/event-stream")


def _check_room(context: Context) -> None:
    if context.news.n_watchers >= MOST_WATCHERS:
        raise Refusal(429, f"{MOST_WATCHERS} watch already; close one")


ENDPOINTS = (
    Endpoint("GET", "/api/v1/live", live),
    Endpoint("GET", "/video", video),
    Endpoint("GET", "/snapshot.jpg", snapshot),
    Endpoint("GET", "/events", events),
)
