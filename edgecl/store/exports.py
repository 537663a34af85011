"""The registry of exports: what left the home, what it holds, and how it is revoked.

A row is committed before its folder appears, as `writing`, so no bundle is ever without one;
`finish_exports` settles what a killed export left. `fresh` bundles hold what the home knew at their
time (older is not stale). `stale` ones hold something that was unlearned since, and stay so until
they are `replaced` by a new bundle in the same folder.

A dataset (exporters/dataset.py) holds pictures, each of one class: revoking takes out those that
were unlearned and leaves the rest, which is fresh again. One out of reach stays stale.

A contribution, or a merger's probes (edgecl/fleet/), is one file, which goes as a whole.

A broker (published.py) may keep the name of any class, so it is part of every unlearning.

What was copied elsewhere, or moved, cannot be reached from here: revoking says so.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from edgecl.errors import EdgeclError
from edgecl.runtime.bundle import BUNDLE_SCHEMA, holds_learned, manifest_text, read_manifest
from edgecl.runtime.files import aside_of, flush
from edgecl.runtime.manifest import MANIFEST_NAME
from edgecl.runtime.sources.listed import EDGECL_INDEX
from edgecl.store.folders import erase_file, erase_folder, hash_at, replace_text
from edgecl.store.moves import may_hold
from edgecl.store.store import Store
from edgecl.store.text import holds_name

WRITING, FRESH, STALE, REPLACED = "writing", "fresh", "stale", "replaced"
DATASET, PUBLISHED, CONTRIBUTION, PROBES = "dataset", "homeassistant", "contribution", "probes"
# What is fresh again once that which was unlearned is out of it, and what is one file.
_MENDED, WHOLE = (DATASET, PUBLISHED), (CONTRIBUTION, PROBES)


@dataclass(frozen=True, slots=True)
class Export:
    """One bundle or dataset that was written.

    Args:
        uid: Its number, also its version: later ones are larger.
        kind: What it is for: `onnx`, `tensorrt`, or one of those above.
        path: Its folder or file, absolute, when it was written; of a broker its address
            (`address_of`).
        created: Wall clock, seconds since the epoch.
        digest: The hash that its manifest carries.
        feature_map: The map of the head in it.
        classes: Uids of the classes whose rows and names it holds.
        adapters: Uids of the adapters that its arrays come from.
        status: `writing`, `fresh`, `stale` or `replaced`.
        body: Its options, JSON values.
    """

    uid: int
    kind: str
    path: Path
    created: float
    digest: str
    feature_map: str
    classes: tuple[int, ...]
    adapters: tuple[int, ...]
    status: str
    body: dict[str, Any]


def exports_of(store: Store) -> list[Export]:
    """Return all exports, oldest first."""
    rows = store.connection.execute(
        "SELECT uid, kind, path, created, digest, feature_map, classes, adapters, status, body "
        "FROM exports ORDER BY uid"
    )
    return [
        Export(
            uid, kind, Path(path), created, digest, feature_map,
            tuple(json.loads(classes)), tuple(json.loads(adapters)), status, json.loads(body),
        )
        for uid, kind, path, created, digest, feature_map, classes, adapters, status, body in rows
    ]  # fmt: skip


def add_export(
    store: Store,
    *,
    kind: str,
    path: Path,
    feature_map: str,
    classes: Sequence[int],
    adapters: Sequence[int],
    body: dict[str, Any],
) -> int:
    """Add an export that is about to be written, inside a transaction; returns its uid."""
    cursor = store.connection.execute(
        "INSERT INTO exports(kind, path, created, digest, feature_map, classes, adapters, status, "
        "body) VALUES (?, ?, ?, '', ?, ?, ?, ?, ?)",
        (
            kind,
            str(path),
            time.time(),
            feature_map,
            json.dumps(list(classes)),
            json.dumps(list(adapters)),
            WRITING,
            json.dumps(body),
        ),
    )
    return int(cursor.lastrowid or 0)


def set_digest(store: Store, uid: int, digest: str) -> None:
    """Note the hash that an export's manifest carries; inside the transaction of `add_export`."""
    store.connection.execute("UPDATE exports SET digest = ? WHERE uid = ?", (digest, uid))


def holding(store: Store, classes: Collection[int], adapters: Collection[int]) -> list[Export]:
    """Return the exports that hold one of these classes or adapters; of bundles no stale ones.

    One from before samples of one class were moved to another holds that one, too.
    """
    until = may_hold(store, classes, "export")
    return [
        export
        for export in exports_of(store)
        if (
            export.status in (WRITING, FRESH) or (export.kind in _MENDED and export.status == STALE)
        )
        and (
            export.kind == PUBLISHED
            or any(export.uid <= until.get(c, -1) for c in export.classes)
            or set(export.adapters) & set(adapters)
        )
    ]


def reachable(store: Store) -> list[tuple[Export, dict[str, Any]]]:
    """Return the exports that are still in their folders and may be used, with their manifests."""
    return [
        (export, manifest)
        for export in exports_of(store)
        if (export.status in (WRITING, FRESH) or export.kind == DATASET)
        and export.kind not in (PUBLISHED, *WHOLE)
        if (manifest := _manifest_at(export)) is not None
    ]


def naming(
    found: Iterable[tuple[Export, dict[str, Any]]], names: Collection[str]
) -> tuple[int, ...]:
    """Return the uids of the datasets in reach whose index says one of these names in a source.

    A picture of another class may come from a place that is called like this one.
    """
    uids = []
    for export, _ in found:
        if export.kind != DATASET or export.status == REPLACED:
            continue
        try:
            rows = _index_rows(export)
            if any(holds_name(row["source"], name) for row in rows for name in names):
                uids.append(export.uid)
        except (OSError, ValueError, KeyError, TypeError):
            uids.append(export.uid)  # not as it was written: it may hold anything
    return tuple(uids)


def mark_stale(store: Store, uids: Collection[int], receipt_id: str) -> None:
    """Mark exports as stale because of a receipt; inside the caller's transaction."""
    for export in exports_of(store):
        if export.uid in uids:
            why: dict[str, Any] = {"receipt": receipt_id}
            if export.kind in _MENDED:
                why = {"receipts": [*export.body.get("receipts", ()), receipt_id]}
            set_status(store, export, STALE, export.body | why)


def is_stale_by(export: Export, receipt_id: str) -> bool:
    """Whether an export is stale because of a receipt, alone or with others."""
    body = export.body
    return export.status == STALE and receipt_id in (body.get("receipt"), *body.get("receipts", ()))


def note_erased(store: Store, export: Export, receipt_id: str) -> None:
    """Note that what a receipt names is gone from a dataset or a broker: then it is fresh again.

    Inside the caller's transaction; a bundle stays stale, a contribution is gone as a whole.
    """
    if export.kind in WHOLE:
        set_status(store, export, REPLACED, export.body)
    if export.kind in _MENDED:
        left = [other for other in export.body["receipts"] if other != receipt_id]
        body = export.body | {"receipts": left}
        set_status(store, export, STALE if left else FRESH, body)


def address_of(export: Export) -> str:
    """Return the address of a broker; as a path it lost a slash."""
    return str(export.path).replace(":/", "://", 1)


def set_status(store: Store, export: Export, status: str, body: dict[str, Any]) -> None:
    """Change what an export is, inside a transaction."""
    store.connection.execute(
        "UPDATE exports SET status = ?, body = ? WHERE uid = ?",
        (status, json.dumps(body), export.uid),
    )


def part_of(export: Export) -> Path:
    """Return the folder beside an export's own in which it is made."""
    return export.path.parent / f".{export.path.name}-export-{export.uid}"


def is_reachable(export: Export) -> bool:
    """Whether the export, whole or revoked, is still in its folder."""
    return _manifest_at(export) is not None


def state_of(export: Export) -> str:
    """Return its status; `revoked` where it is stale, and useless by now; looks into its folder."""
    if export.status != STALE or export.kind in _MENDED:
        return export.status
    found = _manifest_at(export)
    return "revoked" if found is not None and "stale" in found else STALE


def names_in(found: Iterable[tuple[Export, dict[str, Any]]]) -> list[tuple[int, str]]:
    """Return uid and name of the classes in exports that are in reach."""
    return [
        (int(entry["uid"]), str(entry["name"]))
        for _, manifest in found
        for entry in manifest.get("classes", ())
    ]


def disown(store: Store) -> None:
    """Empty the register in a copy of a home: the bundles belong to the home that was copied."""
    with store.transaction(changes_head=False):
        store.connection.execute("DELETE FROM exports")


def finish_exports(store: Store) -> None:
    """Settle exports that were being written: they are in place, or nothing is left of them.

    The caller holds the home's lock. Must run before anything asks what an export holds.
    """
    for export in exports_of(store):
        # A folder on a disk that is away may be either; it stays as it is until the disk is back.
        if export.status != WRITING or not export.path.parent.is_dir():
            continue
        aside = aside_of(part_of(export))
        if aside.exists() and not export.path.exists():
            aside.replace(export.path)
        erase_folder(aside)
        _erase_part(export)
        is_written = is_reachable(export)
        with store.transaction(changes_head=False):
            if is_written:
                store.connection.execute(
                    "UPDATE exports SET status = ? WHERE uid = ?", (FRESH, export.uid)
                )
                store.connection.execute(
                    "UPDATE exports SET status = ? WHERE uid = ?",
                    (REPLACED, export.body.get("replaces")),
                )
            else:
                store.connection.execute("DELETE FROM exports WHERE uid = ?", (export.uid,))


def revoke(
    export: Export,
    receipt_id: str,
    receipt: Mapping[str, Any] | None = None,
    sources: Mapping[int, str] = MappingProxyType({}),
) -> Literal["erased", "unreachable"]:
    """Make a stale export useless: its head, adapters and names go, its manifest says why.

    Of a dataset only what was unlearned goes, with its lines in the index and its names. Bytes are
    overwritten before they are deleted; what a flash disk makes of that is its own business. Can be
    repeated after it was cut off.

    Args:
        export: What is revoked.
        receipt_id: Why.
        receipt: Body of that receipt; it says what is taken out of a dataset.
        sources: Texts of the store's sources by uid; a dataset says no other ones from then on.

    Returns:
        `unreachable` when the folder is gone, another export's, or cannot be written: whoever has
        that copy can go on using it.
    """
    try:
        _erase_part(export)
        found = _manifest_at(export)
        if found is None:
            return "unreachable"
        if export.kind in WHOLE:
            erase_file(export.path, is_learned=True)
            flush(export.path.parent)
            return "erased"
        if export.kind == DATASET:
            _take_out(export, found, receipt or {}, sources)
        else:
            _revoke_bundle(export, found, receipt_id)
        flush(export.path)
    except OSError:
        return "unreachable"
    except (ValueError, KeyError, TypeError):  # an index that is not as it was written
        return "unreachable"
    return "erased"


def _erase_part(export: Export) -> None:
    """Erase what a killed export left beside its place."""
    part = part_of(export)
    if export.kind in WHOLE and part.is_file():
        erase_file(part, is_learned=True)
    erase_folder(part, is_learned=export.kind == DATASET)


def _revoke_bundle(export: Export, found: dict[str, Any], receipt_id: str) -> None:
    if "stale" not in found:
        kept = {n: h for n, h in found["files"].items() if not holds_learned(n)}
        mark = {
            "bundle": BUNDLE_SCHEMA,
            "version": export.uid,
            "home": found["home"],
            "stale": receipt_id,
            "was": export.digest,
            "files": kept,
        }
        # First the mark, so that no loader takes a bundle that is half erased.
        replace_text(export.path / MANIFEST_NAME, manifest_text(mark))
    for path in export.path.iterdir():
        if holds_learned(path.name):
            erase_file(path, is_learned=True)


def _take_out(
    export: Export,
    found: dict[str, Any],
    receipt: Mapping[str, Any],
    sources: Mapping[int, str],
) -> None:
    """Erase from a dataset what a receipt names; pictures first, so that it can be repeated."""
    classes = set(receipt.get("classes_gone", ()))
    # What was moved to one of them since it was written.
    moved = {uid for uid, to in export.body.get("moved", ()) if to in classes}
    kept = []
    for row in _index_rows(export):
        is_gone = (
            row["class_uid"] in classes
            or row["sample_uid"] in (receipt.get("sample_uid"), *moved)
            or row["source_uid"] == receipt.get("source_uid")
            or row["time"] < receipt.get("before", float("-inf"))
        )
        if not is_gone:
            # The store has emptied what says a name of the class; it knows all of them.
            kept.append(index_line(row | {"source": sources.get(row["source_uid"], "")}))
            continue
        path = export.path / row["path"]
        # The index may have been changed; a name that leads elsewhere is not ours.
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(export.path)):
            continue
        if path.exists():
            erase_file(path, is_learned=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
    replace_text(export.path / EDGECL_INDEX, "".join(kept))
    left = [entry for entry in found["classes"] if entry["uid"] not in classes]
    values = found | {"classes": left, "was": export.digest}
    replace_text(export.path / MANIFEST_NAME, manifest_text(values))


def _index_rows(export: Export) -> list[dict[str, Any]]:
    text = (export.path / EDGECL_INDEX).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def index_line(row: dict[str, Any]) -> str:
    """Return the line of one picture in a dataset's index."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def _manifest_at(export: Export) -> dict[str, Any] | None:
    """Return the manifest in an export's folder if it is this export's, whole or revoked."""
    try:
        if export.kind in WHOLE:
            return {"digest": export.digest} if hash_at(export.path) == export.digest else None
        found = read_manifest(export.path)
    except EdgeclError:
        return None
    return found if export.digest in (found["digest"], found.get("was")) else None
