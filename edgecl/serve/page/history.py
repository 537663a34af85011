"""What was done to the home: changes, snapshots, runs, receipts, its fleet, report; settings."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgecl.device import Device
from edgecl.edited import set_value, settings_in_effect
from edgecl.errors import ConfigError, RequestError, UsageError
from edgecl.evaluation.report import report_page
from edgecl.evaluation.report.receipt import receipt_page
from edgecl.fleet.status import events_of
from edgecl.governed import way_back
from edgecl.governor.judge import judged
from edgecl.governor.words import as_json
from edgecl.serve.page.context import REPORT, Context, Endpoint, Refusal, fields_of
from edgecl.session import open_store, reading
from edgecl.settings import load_config
from edgecl.store.changes import changes_of
from edgecl.store.exports import PUBLISHED, address_of, exports_of, state_of
from edgecl.store.runs import content_of, last_run
from edgecl.store.snapshots import snapshots_of
from edgecl.unlearning.account import Account, account_with, accounts_of
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.words import parts_of, title_of, verdict_of

# A page that is made whole, for a frame or a tab of its own; nothing in it runs.
_ALONE = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox allow-popups"
}
# Of a camera; the rest is not for a page, since an address may start a program.
_SETTABLE = ("crop", "rotate", "mask", "motion", "interval", "threshold", "vote")
_NO_WAY = "there is no way back to before it, but a snapshot or forgetting"


async def changes(context: Context, request: Request) -> list[dict[str, Any]]:
    """Changes, the newest first, with whether they can be taken back."""

    def find(device: Device) -> list[dict[str, Any]]:
        with reading(device.home, device.options) as session:
            store, policy = session.store, device.home.config.governor
            blocked, found = store.blocked_classes(), []
            names = {uid: name for uid, name in store.names.items() if uid not in blocked}
            for change in reversed(changes_of(store)):
                way = way_back(session, change)
                said = as_json(change, judged(change.classes, policy), names, way)
                found.append(
                    said
                    | {
                        "id": change.name,
                        "time": change.opened,
                        "what": _what(said),
                        "can_take_back": bool(way),
                        "why_not": None if way else _why_not(said),
                    }
                )
            return found

    return await context.shared("changes", find)


def _what(said: dict[str, Any]) -> str:
    """Say what a change did, without a name of a class."""
    learned, parts = sum(said["learned"].values()), [str(said["kind"]).replace("-", " ")]
    if learned:
        parts.append(f"{learned:,} picture" + "s" * (learned != 1))
    if said["n"]:
        parts.append(f"{said['lost']} answers lost, {said['won']} won of {said['n']:,}")
    if said["state"] != "serving":
        parts.append(str(said["state"]).replace("_", " "))
    return ", ".join(parts)


def _why_not(said: dict[str, Any]) -> str:
    if said["state"] != "serving":
        return f"it is {said['state'].replace('_', ' ')}"
    return _NO_WAY


async def snapshots(context: Context, request: Request) -> list[dict[str, Any]]:
    """Snapshots, the newest first."""

    def find(device: Device) -> list[dict[str, Any]]:
        with open_store(device.home, read_only=True) as store:
            return [
                {
                    "uid": one.uid,
                    "time": one.created,
                    "classes": len(one.classes),
                    "samples": one.samples,
                    "bytes": one.size_bytes,
                }
                for one in reversed(snapshots_of(store))
            ]

    return await context.read(find)


async def exports(context: Context, request: Request) -> list[dict[str, Any]]:
    """Bundles, datasets and brokers that hold what was learned, the newest first."""

    def find(device: Device) -> list[dict[str, Any]]:
        with open_store(device.home, read_only=True) as store:
            found = exports_of(store)
        return [
            {
                "uid": one.uid,
                "kind": one.kind,
                "path": address_of(one) if one.kind == PUBLISHED else str(one.path),
                "time": one.created,
                "classes": len(one.classes),
                "state": state_of(one),
            }
            for one in reversed(found)
        ]

    return await context.read(find)


async def runs(context: Context, request: Request) -> list[dict[str, Any]]:
    """The last run, which `undo` takes back; nothing where there is none."""

    def find(device: Device) -> list[dict[str, Any]]:
        with open_store(device.home, read_only=True) as store, store.snapshot():
            run = last_run(store)
            if run is None:
                return []
            content = content_of(store, run)
            return [
                {
                    "uid": run.uid,
                    "time": run.time,
                    "kind": run.kind,
                    "source": ", ".join(content.sources),
                    "learned": sum(content.learned.values()),
                    "held_out": content.held_out,
                    "moved": sum(content.moved.values()),
                    "can_undo": not content.is_empty,
                }
            ]

    return await context.read(find)


async def receipts(context: Context, request: Request) -> list[dict[str, Any]]:
    """Receipts, the newest first."""

    def find(device: Device) -> list[dict[str, Any]]:
        with open_store(device.home, read_only=True) as store:
            known = accounts_of(Chain(device.home, store).receipts)
        return [
            one.as_json() | {"id": one.receipt_id, "time": one.entry.time, "title": title_of(one)}
            for one in reversed(known)
        ]

    return await context.read(find)


async def receipt(context: Context, request: Request) -> dict[str, Any]:
    """One receipt in words, with its signature."""
    account, public_key = await _account(context, request)
    said, how = verdict_of(account)
    lines = [title_of(account), said]
    for part in parts_of(account, public_key)[:-1]:
        lines += [*part.text, *(f"{name}: {value}" for name, value in part.rows), *part.points]
    return account.as_json() | {
        "id": account.receipt_id,
        "title": title_of(account),
        "verdict": said,
        "is_good": how == "good",
        "parts": [asdict(part) for part in parts_of(account, public_key)],
        "lines": lines,
        "signature": account.receipt.signature,
        "public_key": public_key,
    }


async def receipt_html(context: Context, request: Request) -> Response:
    """One receipt as a page to print."""
    account, public_key = await _account(context, request)
    return Response(receipt_page(account, public_key), media_type="text/html", headers=_ALONE)


async def _account(context: Context, request: Request) -> tuple[Account, str]:
    receipt_id = f"r{request.path_params['n']}"

    def find(device: Device) -> tuple[Account | None, str]:
        with open_store(device.home, read_only=True) as store:
            chain = Chain(device.home, store)
        return account_with(chain.receipts, receipt_id), chain.public_key

    account, public_key = await context.read(find)
    if account is None:
        raise Refusal(404, f"{receipt_id} is no receipt; /api/v1/receipts lists them")
    return account, public_key


async def fleet(context: Context, request: Request) -> list[dict[str, Any]]:
    """Orders of the fleet and its merged head, the newest first; nothing where there is none."""
    return await context.read(lambda device: events_of(device.home))


async def report(context: Context, request: Request) -> Response:
    """The report, as `edgecl report` writes it."""
    page = await context.shared(REPORT, lambda device: report_page(device.home))
    return Response(
        page.encode("utf-8", "backslashreplace"), media_type="text/html", headers=_ALONE
    )


async def config(context: Context, request: Request) -> dict[str, Any]:
    """The settings in the file, without passwords."""
    found = await context.read(lambda device: settings_in_effect(device.home.settings, os.environ))
    return {"values": {one.key: one.value for one in found}, "read_only": False}


async def set_config(context: Context, request: Request) -> dict[str, Any]:
    """Change a setting of a camera in the file; it counts from the next start on."""
    fields = await fields_of(request)
    key, text = fields.get("key", str), fields.get("value", str)
    name, _, field = key.removeprefix("source.").rpartition(".")
    if not key.startswith("source.") or field not in _SETTABLE:
        raise UsageError(
            f"key is {key[:80]!r}; the page sets source.NAME. and {', '.join(_SETTABLE)}, "
            "`edgecl config set` the rest"
        )

    def change(device: Device) -> None:
        path = device.home.settings
        if name not in {one.name for one in load_config(path).source}:
            raise RequestError(
                f"camera {name[:80]!r} has no table [[source]] in {path.name}; give it one"
            )
        try:
            set_value(path, key, text)
        except ConfigError as error:
            raise UsageError(str(error)) from error

    await context.write("config", change)
    return {"key": key, "needs_restart": True}


ENDPOINTS = (
    Endpoint("GET", "/api/v1/changes", changes),
    Endpoint("GET", "/api/v1/snapshots", snapshots),
    Endpoint("GET", "/api/v1/exports", exports, "own"),
    Endpoint("GET", "/api/v1/runs", runs),
    Endpoint("GET", "/api/v1/receipts", receipts),
    Endpoint("GET", "/api/v1/receipts/r{n:int}.html", receipt_html),
    Endpoint("GET", "/api/v1/receipts/r{n:int}", receipt),
    Endpoint("GET", "/api/v1/fleet", fleet),
    Endpoint("GET", "/api/v1/report.html", report),
    Endpoint("GET", "/api/v1/config", config, "own"),
    Endpoint("POST", "/api/v1/config", set_config, "own"),
)
