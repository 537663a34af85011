"""What pages ask about the home; nothing here changes it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from edgecl.device import Device
from edgecl.serve.page.context import Context, Endpoint
from edgecl.session import open_store
from edgecl.store.listing import list_samples
from edgecl.store.store import describe
from edgecl.store.table import Role


async def status(context: Context, request: Request) -> dict[str, Any]:
    """What `edgecl status --json` says, and what is going on."""
    serving = context.serving

    def values(device: Device) -> dict[str, Any]:
        with open_store(device.home, read_only=True) as store, store.snapshot():
            return describe(store)

    return await context.read(values) | {
        "role": request.scope["role"],
        "sources": [{"name": name} for name in serving.sources],
        "held": serving.teacher.label,
        "started": serving.started,
    }


async def classes(context: Context, request: Request) -> list[dict[str, Any]]:
    """The classes with their counts."""

    def values(device: Device) -> list[dict[str, Any]]:
        with open_store(device.home, read_only=True) as store, store.snapshot():
            blocked, known = store.blocked_classes(), describe(store)["classes"]
            aliases = store.aliases()
            found = []
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
                        "accuracy": None,
                        "last": newest[0].uid if newest else None,
                    }
                )
            return found

    return await context.read(values)


ENDPOINTS = (
    Endpoint("GET", "/api/v1/status", status),
    Endpoint("GET", "/api/v1/classes", classes),
)
