"""Pictures that a browser sends: the stream sees them as those of a camera, and answers."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from edgecl.device import Device
from edgecl.errors import DecodeError, HomeLockedError, UsageError
from edgecl.runtime.preprocess import decode
from edgecl.serve.page.context import Context, Endpoint, body_of
from edgecl.serve.page.names import checked_name

_ANSWER_S = 10.0


async def frames(context: Context, request: Request) -> dict[str, Any]:
    """Let the stream see a picture, and learn it if it has a label."""
    query, home = request.query_params, context.serving.device.home
    data = await body_of(request, home.max_bytes)
    label = query.get("label") or None
    if label is not None:
        label = await checked_name(context, label, is_new=query.get("new") == "1")

    def check(device: Device) -> None:
        try:
            decode(data, max_pixels=home.max_pixels, levels=home.manifest.preprocessing.levels)
        except DecodeError as error:
            raise UsageError(f"this is no picture that can be used: {error}") from error

    await context.read(check)
    try:
        return await asyncio.wait_for(
            asyncio.wrap_future(context.serving.see(data, label)), _ANSWER_S
        )
    except asyncio.TimeoutError:
        raise HomeLockedError(
            f"the stream said nothing of the picture in {_ANSWER_S:.0f} s: it is busy, or cannot "
            "use it; try again"
        ) from None


ENDPOINTS = (Endpoint("POST", "/api/v1/frames", frames, "teach"),)
