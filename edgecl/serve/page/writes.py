"""What pages let the stream do; every write is a command for the thread that writes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.requests import Request

from edgecl.device import Device
from edgecl.errors import UsageError
from edgecl.governed import governed
from edgecl.mending import Done
from edgecl.review import label_entries
from edgecl.runtime.sinks import open_sink
from edgecl.serve.page.context import Context, Endpoint, Refusal, answer, fields_of
from edgecl.serve.page.names import checked_name
from edgecl.store.novel import drop
from edgecl.types import clean_label
from edgecl.unlearning.request import writing

_MOST_UNDONE = 500


async def teach(context: Context, request: Request) -> Any:
    """Hold a label, or release it; of two pages that hold, the first one has it."""
    fields, teacher = await fields_of(request), context.serving.teacher
    hand = fields.get("hand", str, "")[:64]
    other = teacher.label if context.hand not in ("", hand) else None
    if not fields.has("label"):
        if other is None:  # the hand that holds releases, no other
            teacher.release()
        return answer({"label": teacher.label, "alike": None, "time": time.time()}, 202)
    name = clean_label(fields.get("label", str))
    source = fields.get("source", str, "")
    if source and source not in context.serving.sources:
        raise UsageError(f"no source is called {source[:80]!r}; /api/v1/status names them")
    if other is not None and other != name:
        raise Refusal(409, f"another page teaches {other!r} just now", {"held": other})
    if name != teacher.label:
        name = await checked_name(context, name, is_new=fields.get("new", bool, False))
    context.hand = hand
    return answer(
        {"label": teacher.hold(name, source=source or None), "alike": None, "time": time.time()},
        202,
    )


async def undo(context: Context, request: Request) -> Any:
    """Take back the newest samples of this run, some by uid, or the whole last run."""
    fields, serving = await fields_of(request), context.serving
    if fields.has("uids"):
        uids = fields.uids()
        return {"undone": await context.write("undo", lambda device: serving.take_back(uids))}
    if fields.get("run", bool, False):
        done = await context.write("undo", lambda device: device.undo())
        return {"undone": sum(done.samples.values()), "receipt": done.receipt_id}
    n = fields.get("n", int)
    if not 0 < n <= _MOST_UNDONE:
        raise UsageError(f"n is {n}; expected 1 to {_MOST_UNDONE}")
    serving.teacher.undo(n)
    return answer({"asked": n}, 202)


async def relabel(context: Context, request: Request) -> dict[str, Any]:
    """Give samples another class."""
    fields = await fields_of(request)
    uids = fields.uids()
    name = await checked_name(
        context, fields.get("label", str), is_new=fields.get("new", bool, False)
    )
    done = await context.write("relabel", lambda device: device.relabel(uids, name))
    return _mended(done) | {"class": name}


async def hold_out(context: Context, request: Request) -> dict[str, Any]:
    """Hold learned samples out, to test on."""
    uids = (await fields_of(request)).uids()
    done = await context.write("hold-out", lambda device: device.hold_out(uids))
    return {"held_out": sum(done.samples.values()), "receipt": done.receipt_id}


async def merge(context: Context, request: Request) -> dict[str, Any]:
    """Make one class of two."""
    fields = await fields_of(request)
    of, to = clean_label(fields.get("of", str)), clean_label(fields.get("to", str))
    done = await context.write("merge", lambda device: device.merge_classes(of, to))
    return _mended(done) | {"class": to}


def _mended(done: Done) -> dict[str, Any]:
    return {"moved": sum(done.samples.values()), "receipt": done.receipt_id}


async def rename(context: Context, request: Request) -> dict[str, Any]:
    """Give a class another name; the old one stays as an alias."""
    fields = await fields_of(request)
    old = clean_label(fields.get("name", str))
    new = await checked_name(
        context, fields.get("to", str), is_new=fields.get("new", bool, False), of=old
    )

    def work(device: Device) -> tuple[str, ...]:
        with writing(device.home, device.options) as session:
            store = session.store
            with store.transaction():
                uid = store.rename_class(old, new)
            return store.names_of(uid)

    names = await context.write("rename", work)
    return {"name": names[0], "aliases": list(names[1:])}


async def review(context: Context, request: Request) -> dict[str, Any]:
    """Name what waits, or drop it."""
    fields = await fields_of(request)
    uids = list(dict.fromkeys(fields.uids()))
    if fields.get("drop", bool, False):

        def drop_them(device: Device) -> int:
            with writing(device.home, device.options) as session:
                with session.store.transaction(changes_head=False):
                    drop(session.store, uids)
            return len(uids)

        return {"dropped": await context.write("drop", drop_them)}
    name = await checked_name(
        context, fields.get("label", str), is_new=fields.get("new", bool, False)
    )

    def label_them(device: Device) -> tuple[int, int]:
        with writing(device.home, device.options) as session, governed(session, "label"):
            reports = label_entries(session.learner, uids, name)
        held_out = sum(report.is_held_out for report in reports)
        return len(reports) - held_out, held_out

    learned, held_out = await context.write("label", label_them)
    return {"learned": learned, "held_out": held_out, "class": name}


async def take_snapshot(context: Context, request: Request) -> dict[str, Any]:
    """Keep what is learned now."""
    await fields_of(request)
    taken = await context.write("snapshot", lambda device: device.snapshot())
    return {"uid": taken.uid, "time": taken.created, "samples": taken.samples}


async def rollback(context: Context, request: Request) -> dict[str, Any]:
    """Go back to a snapshot, or take back one change."""
    fields = await fields_of(request)
    if fields.has("snapshot"):
        uid = fields.get("snapshot", int)
        done = await context.write("rollback", lambda device: device.rollback(uid))
        return {"snapshot": done.uid, "samples": done.samples}
    number = fields.get("change", str).removeprefix("c")
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        raise UsageError("change is no name of one; expected one like c12")
    change = await context.write("rollback", lambda device: device.take_back(int(number)))
    return {"change": change.name, "state": change.state, "receipt": change.receipt}


async def mqtt_test(context: Context, request: Request) -> dict[str, Any]:
    """Send one test message to a topic."""
    url = (await fields_of(request)).get("url", str)
    if not url.startswith(("mqtt://", "mqtts://")):
        raise UsageError("url is no topic; expected mqtt://[user:password@]host[:port]/topic")

    def send() -> int:
        sink = open_sink(url)
        sink.emit({"test": "edgecl"})
        sink.close()
        return sink.n_sent

    # Not in the pool of readers: a broker that does not answer takes some seconds.
    if not await asyncio.get_running_loop().run_in_executor(None, send):
        raise Refusal(409, "the broker did not take the message; see address, account and network")
    return {"said": "The broker took the message."}


ENDPOINTS = (
    Endpoint("POST", "/api/v1/teach", teach, "teach"),
    Endpoint("POST", "/api/v1/undo", undo, "teach"),
    Endpoint("POST", "/api/v1/relabel", relabel, "teach"),
    Endpoint("POST", "/api/v1/hold-out", hold_out, "teach"),
    Endpoint("POST", "/api/v1/review", review, "teach"),
    Endpoint("POST", "/api/v1/merge", merge, "own"),
    Endpoint("POST", "/api/v1/rename", rename, "own"),
    Endpoint("POST", "/api/v1/snapshots", take_snapshot, "own"),
    Endpoint("POST", "/api/v1/rollback", rollback, "own"),
    Endpoint("POST", "/api/v1/mqtt-test", mqtt_test, "own"),
)
