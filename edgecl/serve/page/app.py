"""The routes of the page, put together behind its guard."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from edgecl.serve.page import forgetting, frames, history, reads, screens, streams, writes
from edgecl.serve.page.access import Access
from edgecl.serve.page.context import Context, Refusal, refused
from edgecl.serve.page.guard import Guard, Place, cookie_of
from edgecl.serve.page.news import News
from edgecl.serve.page.under_way import Jobs
from edgecl.serve.serving import Serving

ENDPOINTS = tuple(
    endpoint
    for part in (screens, streams, reads, history, writes, frames, forgetting)
    for endpoint in part.ENDPOINTS
)


def app_of(
    serving: Serving, access: Access, place: Place
) -> tuple[Guard, News, Callable[[], None]]:
    """Return the page as an ASGI application, what tells it news, and what ends its threads.

    Args:
        serving: The home, and its stream.
        access: Who may do what.
        place: Where it will be.
    """
    news = News(serving.live)
    context = Context(serving, access, news, place, cookie_of(place), Jobs(serving.live))
    news.on_forgotten = lambda: context.drop(everything=True)
    news.on_changed = lambda: context.drop(everything=False)

    app = Starlette(
        routes=[endpoint.route(context) for endpoint in ENDPOINTS],
        exception_handlers={HTTPException: _as_json},
    )
    app.router.redirect_slashes = False
    return Guard(app, access, place), news, context.close


async def _as_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "there is nothing at this address", 405: "this address takes another method"}
    return refused(
        Refusal(error.status_code, sentence.get(error.status_code, error.detail), code=2)
    )
