"""Kept pictures as a folder a class, with an index: what other tools read as ImageFolder.

    CLASS/UID.jpg     the picture of a sample, byte for byte as the store keeps it
    edgecl.jsonl      one object a picture: path, label, source, time, and the uids that a later
                      unlearning looks for
    manifest.json     which export of which home this is, and the uids and names of its classes

The folder of a class has its name, with bytes that some file system refuses as `%XX` (UTF-8). A
name that is too long is cut, and one that another differs from in case only is marked, both with
`~UID` behind, as is one of the two files' names; the index has the exact names.

It is registered like a bundle, and holds pictures in the plain: an unlearning erases what it has to
in it, as long as it lies where it was written (edgecl/store/exports.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgecl
from edgecl.errors import RequestError
from edgecl.home import Home
from edgecl.runtime.bundle import BUNDLE_SCHEMA, manifest_text
from edgecl.runtime.files import flush, private, write_whole
from edgecl.runtime.manifest import MANIFEST_NAME
from edgecl.runtime.sources.listed import EDGECL_INDEX
from edgecl.store.exports import (
    DATASET,
    Export,
    finish_exports,
    index_line,
)
from edgecl.store.samples import Origin
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import clean_label

from .bundle import public_id
from .registered import write_registered

# Of a name in most file systems; room for `~UID`.
_MAX_NAME_BYTES = 255 - 24
_REFUSED = frozenset('%/\\:*?"<>|')
# Names of devices, which Windows refuses as files.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))]
)


@dataclass(frozen=True, slots=True)
class ExportedDataset:
    """What was written.

    Args:
        export: Its row in the registry.
        classes: Pictures of each class, by name.
        size_bytes: Of all pictures.
    """

    export: Export
    classes: dict[str, int]
    size_bytes: int


def export_dataset(
    home: Home,
    store: Store,
    output: Path,
    *,
    is_plain: bool = False,
    classes: Sequence[str] = (),
    held_out: bool = False,
) -> ExportedDataset:
    """Write the kept pictures into a folder, whole or not at all, and note it in the registry.

    Args:
        home: The home, whose lock the caller holds.
        store: Its open store.
        output: A new or empty folder.
        is_plain: Whether pictures of a sealed store may be written unencrypted.
        classes: Names or aliases of the only classes to write; empty for all.
        held_out: Whether pictures that are held out to test on are written, too.

    Raises:
        UnknownClassError: No class has one of the names.
        RequestError: The folder holds something, no picture is kept, or the store is sealed and
            that was not asked for.
    """
    place = Path(os.path.realpath(output))
    finish_exports(store)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise RequestError(f"{place} is there and not empty; name a new folder with --output")
    if store.is_sealed and not is_plain:
        raise RequestError(
            "the store is sealed, and a dataset would hold its pictures unencrypted; add --plain "
            "if that is meant"
        )
    origins = _chosen(store, classes, held_out=held_out)
    names = {uid: store.names[uid] for uid in sorted({origin.class_uid for origin in origins})}
    folders = folder_names(names)
    counts: dict[str, int] = {}
    size_bytes = 0

    def write(part: Path, manifest: str) -> None:
        nonlocal counts, size_bytes
        counts, size_bytes = _write(store, origins, folders, part)
        write_whole(part / MANIFEST_NAME, manifest.encode(), mode=0o600)
        flush(part / MANIFEST_NAME)
        flush(part)

    export = write_registered(
        store,
        place,
        "the dataset",
        lambda uid: _manifest(home, uid, names),
        write,
        mode=0o700,
        kind=DATASET,
        feature_map=store.feature_map,
        classes=sorted(folders),
        adapters=(),
        body={"kind": DATASET, "replaces": None},
    )
    return ExportedDataset(export, counts, size_bytes)


def _chosen(store: Store, classes: Sequence[str], *, held_out: bool) -> list[Origin]:
    """Return the samples of the classes that are asked for, of all if none is, at least one."""
    wanted = {store.class_uid(clean_label(name)) for name in classes} or set(store.names)
    wanted.difference_update(store.lost_classes())
    origins = [
        origin
        for role in (Role.REPLAY, Role.HELD_OUT)[: 1 + held_out]
        for origin in store.origins(role)
        if origin.class_uid in wanted
    ]
    if not origins:
        which = f" of {', '.join(classes)}" if classes else ""
        raise RequestError(
            f"no picture{which} is kept, so there is nothing to write"
            + ("" if held_out else "; what is held out to test on is written with --held-out")
        )
    return origins


def _manifest(home: Home, version: int, names: dict[int, str]) -> str:
    return manifest_text(
        {
            "bundle": BUNDLE_SCHEMA,
            "kind": DATASET,
            "version": version,
            "home": public_id(home),
            "created": time.time(),
            "edgecl": edgecl.__version__,
            "classes": [{"uid": uid, "name": name} for uid, name in names.items()],
            "files": {},
        }
    )


def folder_names(names: dict[int, str]) -> dict[int, str]:
    """Return a name that every usual file system takes, for each class; no two are alike.

    Args:
        names: Class names by uid.
    """
    found: dict[int, str] = {}
    taken = {EDGECL_INDEX, MANIFEST_NAME}
    for uid, name in names.items():
        safe = "".join(_escaped(c) if c in _REFUSED else c for c in name)
        if safe[0] == "." or safe.split(".")[0].casefold() in _DEVICES:
            safe = _escaped(safe[0]) + safe[1:]
        if safe[-1] in " .":
            safe = safe[:-1] + _escaped(safe[-1])
        data = safe.encode()
        if len(data) > _MAX_NAME_BYTES:
            safe = f"{data[:_MAX_NAME_BYTES].decode(errors='ignore')}~{uid}"
        if safe.casefold() in taken:
            safe = f"{safe}~{uid}"
        taken.add(safe.casefold())
        found[uid] = safe
    return found


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def _write(
    store: Store, origins: Sequence[Origin], folders: dict[int, str], part: Path
) -> tuple[dict[str, int], int]:
    """Write pictures and index; returns pictures by class name, and their bytes."""
    counts = {store.names[uid]: 0 for uid in folders}
    size_bytes = 0
    with open(part / EDGECL_INDEX, "w", encoding="utf-8", opener=private) as index:
        for origin in origins:
            uid, class_uid = origin.uid, origin.class_uid
            picture = store.picture(uid)
            path = Path(folders[class_uid]) / f"{uid}.{_suffix(picture)}"
            (part / path).parent.mkdir(mode=0o700, exist_ok=True)
            with open(part / path, "wb", opener=private) as file:
                file.write(picture)
                file.flush()
                os.fsync(file.fileno())
            row: dict[str, Any] = {
                "path": path.as_posix(),
                "label": store.names[class_uid],
                "source": origin.source,
                "time": origin.time,
                "sample_uid": uid,
                "class_uid": class_uid,
                "source_uid": origin.source_uid,
            }
            index.write(index_line(row))
            counts[store.names[class_uid]] += 1
            size_bytes += len(picture)
        index.flush()
        os.fsync(index.fileno())
    for folder in folders.values():
        flush(part / folder)
    return counts, size_bytes


def _suffix(picture: bytes) -> str:
    """Return the usual suffix of a picture file, by its first bytes."""
    if picture.startswith(b"\xff\xd8"):
        return "jpg"
    if picture.startswith(b"\x89PNG"):
        return "png"
    if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        return "webp"
    known = {b"BM": "bmp", b"GIF8": "gif", b"II*\0": "tif", b"MM\0*": "tif"}
    return next((name for head, name in known.items() if picture.startswith(head)), "ppm")
