"""What pages let the stream do; every write is a command for the thread that writes."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from edgecl.device import Device
from edgecl.serve.page.context import Context, Endpoint, Refusal, answer, fields_of
from edgecl.session import open_store
from edgecl.types import alike, clean_label


async def teach(context: Context, request: Request) -> Any:
    """Hold a label, or release it."""
    fields, teacher = await fields_of(request), context.serving.teacher
    if not fields.has("label"):
        teacher.release()
        return answer({"label": None, "alike": None}, 202)
    name = clean_label(fields.get("label", str))
    if name != teacher.label:
        name = await checked_name(context, name, is_new=fields.get("new", bool, False))
    return answer({"label": teacher.hold(name), "alike": None}, 202)


async def checked_name(context: Context, name: str, *, is_new: bool) -> str:
    """Return the name of a class as it is learned.

    Raises:
        Refusal: It is new and looks like a known one, and is not said to be meant.
    """

    def find(device: Device) -> tuple[str, str | None]:
        with open_store(device.home, read_only=True) as store:
            if store.has_class(name):
                return store.canonical(name), None
            return name, alike(name, store.aliases().keys())

    found, near = await context.read(find)
    if near is not None and not is_new:
        sentence = f"class {name!r} is new and looks like {near!r}, which is known; which is meant?"
        raise Refusal(409, sentence, {"alike": near}, code=2)
    return found


ENDPOINTS = (Endpoint("POST", "/api/v1/teach", teach, "teach"),)
