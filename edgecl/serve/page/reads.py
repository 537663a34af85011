"""What pages ask about what is learned and what waits; nothing here changes it."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from edgecl.device import Device
from edgecl.errors import StoreError, UsageError
from edgecl.evaluation.status import status_of
from edgecl.mistakes import find_mistakes
from edgecl.review import alike_groups
from edgecl.runtime.redact import redacted
from edgecl.serve.page.context import Context, Endpoint, Refusal, number_of
from edgecl.session import open_store, reading
from edgecl.store.listing import Listed, list_samples
from edgecl.store.moves import classes_with
from edgecl.store.novel import entries, feature
from edgecl.store.store import describe
from edgecl.store.table import Role

_ROLES = {"learned": Role.REPLAY, "held_out": Role.HELD_OUT, "waiting": Role.REVIEW}
_WORDS = {role: word for word, role in _ROLES.items()}
_MOST = 1000


async def status(context: Context, request: Request) -> dict[str, Any]:
    """What `edgecl status --json` says, and what is going on."""
    serving = context.serving
    known = await context.shared("status", lambda device: status_of(device.home))
    home = serving.device.home
    tables = {one.name: one for one in home.config.source}
    return known | {
        "role": request.scope["role"],
        "sources": [
            {
                "name": name,
                "url": redacted(tables[name].url) if name in tables else None,
                "crop": (tables[name].crop or None) if name in tables else None,
                "rotate": tables[name].rotate if name in tables else 0,
            }
            for name in serving.sources
        ],
        "looks_at": home.manifest.preprocessing.crop_pct,
        "held": serving.teacher.label,
        "started": serving.started,
    }


async def classes(context: Context, request: Request) -> list[dict[str, Any]]:
    """The classes with their counts and their accuracy."""
    found = await context.shared("classes", _classes)
    known = await context.shared("status", lambda device: status_of(device.home))
    accuracy = {name: one.get("accuracy") for name, one in known["classes"].items()}
    return [one | {"accuracy": accuracy.get(one["name"])} for one in found]


def _classes(device: Device) -> list[dict[str, Any]]:
    with open_store(device.home, read_only=True) as store, store.snapshot():
        blocked, known = store.blocked_classes(), describe(store)["classes"]
        aliases, found = store.aliases(), []
        for uid, name in store.names.items():
            if uid in blocked:
                continue
            newest, _ = list_samples(store, label=name, role=Role.REPLAY, limit=1)
            counts = known.get(name, {})
            found.append(
                {
                    "uid": uid,
                    "name": name,
                    "aliases": [a for a, of in aliases.items() if of == name and a != name],
                    "seen": counts.get("seen", 0),
                    "kept": counts.get("stored", 0),
                    "held_out": counts.get("held_out", 0),
                    "last": newest[0].uid if newest and newest[0].has_picture else None,
                }
            )
        return found


async def samples(context: Context, request: Request) -> list[dict[str, Any]]:
    """Samples, the newest first, or those first that are perhaps taught wrong."""
    query = request.query_params
    label, source = query.get("class") or None, query.get("source") or None
    role, limit = query.get("role") or None, number_of(request, "limit", 200, _MOST)
    if role is not None and role not in _ROLES:
        raise UsageError(f"role={role[:20]} is none; expected one of {', '.join(_ROLES)}")

    def find(device: Device) -> list[dict[str, Any]]:
        wanted = None if role is None else _ROLES[role]
        with reading(device.home, device.options) as session:
            odd = {}
            if query.get("odd") == "1":
                odd = {m.uid: m for m in find_mistakes(session, label=label).found}
            found, _ = list_samples(
                session.store, label=label, source=source, role=wanted, limit=None if odd else limit
            )
        order = {uid: i for i, uid in enumerate(odd)}
        found.sort(key=lambda one: order.get(one.uid, len(order)))
        return [_sample(one, odd.get(one.uid)) for one in found[:limit]]

    return await context.read(find)


def _sample(one: Listed, mistake: Any) -> dict[str, Any]:
    return {
        "uid": one.uid,
        "class": one.label,
        "role": _WORDS[one.role],
        "source": one.source,
        "frame": one.frame,
        "time": one.time,
        "has_picture": one.has_picture,
        "odd": mistake is not None,
        "guess": mistake.guess if mistake is not None else None,
    }


async def sample_picture(context: Context, request: Request) -> Response:
    """The kept picture of a sample."""
    return await _picture(context, request, waits=False)


async def review_picture(context: Context, request: Request) -> Response:
    """The picture of a frame that waits for a name."""
    return await _picture(context, request, waits=True)


async def _picture(context: Context, request: Request, *, waits: bool) -> Response:
    uid = request.path_params["uid"]

    def find(device: Device) -> bytes | None:
        with open_store(device.home, read_only=True) as store, store.snapshot():
            class_uid, role = classes_with(store, [uid]).get(uid, (0, None))
            hidden = {*store.blocked_classes(), *store.lost_classes()}
            if role is None or class_uid in hidden or (waits and role is not Role.REVIEW):
                return None
            with suppress(StoreError):  # learned, and not kept
                return _for_browsers(store.picture(uid))
        return None

    data = await context.read(find) if uid < 2**63 else None
    if data is None:
        raise Refusal(404, f"no picture of sample {uid} is kept")
    return Response(data, media_type="image/png" if data[:4] == b"\x89PNG" else "image/jpeg")


def _for_browsers(data: bytes) -> bytes:
    """Return a picture as JPEG or PNG."""
    if data[:4] == b"\x89PNG" or data[:2] == b"\xff\xd8":
        return data
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").save(out, "JPEG")
    return out.getvalue()


async def review(context: Context, request: Request) -> list[dict[str, Any]]:
    """What waits for a name, in groups of what looks alike."""
    limit = number_of(request, "limit", 200, _MOST)

    def find(device: Device) -> list[dict[str, Any]]:
        with open_store(device.home, read_only=True) as store, store.snapshot():
            waiting = entries(store)[:limit]
            x = np.array([feature(store, entry.uid) for entry in waiting], np.float32)
            groups = alike_groups(x)
            return [
                {
                    "uid": entry.uid,
                    "guess": store.names[entry.guess],
                    "score": entry.score,
                    "time": entry.time,
                    "source": entry.source,
                    "frame": entry.frame,
                    "group": group,
                }
                for entry, group in zip(waiting, groups, strict=True)
            ]

    return await context.shared(f"review {limit}", find)


ENDPOINTS = (
    Endpoint("GET", "/api/v1/status", status),
    Endpoint("GET", "/api/v1/classes", classes),
    Endpoint("GET", "/api/v1/samples", samples),
    Endpoint("GET", "/api/v1/samples/{uid:int}.jpg", sample_picture),
    Endpoint("GET", "/api/v1/review", review),
    Endpoint("GET", "/api/v1/review/{uid:int}.jpg", review_picture),
)
