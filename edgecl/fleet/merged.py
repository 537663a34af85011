"""The merged head as it travels: a signed description, and the scorer's arrays in one file.

A device has the engine already, so a class costs 14 KB; `install` puts both together as a bundle
(runtime/bundle.py) in its home, `fleet/merged`, which `edgecl predict --bundle` takes.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_arrays

import edgecl
from edgecl.errors import IntegrityError
from edgecl.fleet.carriers.folder import MERGED, Folder, number_of
from edgecl.fleet.identity import is_hex, opened
from edgecl.fleet.plant import Fleet
from edgecl.home import Home
from edgecl.runtime.bundle import BUNDLE_SCHEMA, HEAD_NAME, ONNX, manifest_text, open_bundle
from edgecl.runtime.faults import telling
from edgecl.runtime.files import flush, put_in_place, wipe
from edgecl.runtime.manifest import MANIFEST_NAME
from edgecl.runtime.scoring import Scorer


@dataclass(frozen=True)
class Merged:
    """What all know together.

    Args:
        fleet: Id of the fleet.
        version: Larger ones replace smaller ones.
        order: Number of the newest order that it obeys.
        time: When it was made, seconds since the epoch.
        serve_until: When it predicts no longer; 0 for never.
        devices: Key of each device that counts, with its generation.
        classes: Id, name and number of samples of each class, by id.
        state: Digest of the sums (`Summed.digest`).
        head: SHA-256 of the arrays; '' while there is no class.
    """

    fleet: str
    version: int
    order: int
    time: int
    serve_until: int
    devices: tuple[tuple[str, int], ...]
    classes: tuple[tuple[str, str, int], ...]
    state: str
    head: str

    @property
    def generations(self) -> dict[str, int]:
        """Generation of each device that counts, by key."""
        return dict(self.devices)

    def body(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def head_bytes(scorer: Scorer) -> bytes:
    """Return a scorer's arrays as they travel, and the places of its classes."""
    arrays = scorer.arrays() | {"classes": np.arange(1, len(scorer.labels) + 1)}
    return save_arrays({name: np.ascontiguousarray(a) for name, a in arrays.items()})


def read_merged(data: bytes, fleet: Fleet, what: str) -> Merged:
    """Read a description that the fleet's merger signed.

    Raises:
        IntegrityError: It is none.
    """
    body = opened(data, fleet.merger, what)
    try:
        lists = {name: tuple(map(tuple, body[name])) for name in ("devices", "classes")}
        found = Merged(**body | lists)
        numbers = (found.version, found.order, found.time, found.serve_until)
        is_right = all(type(n) is int for n in (*numbers, *found.generations.values()))
        is_right &= all(is_hex(i, 64) and isinstance(name, str) for i, name, _ in found.classes)
        if (
            not is_right
            or found.fleet != fleet.id
            or not (not found.head or is_hex(found.head, 64))
        ):
            raise ValueError("a value is none")
    except (TypeError, ValueError, LookupError) as error:
        raise IntegrityError(f"{what} says of a merged head what is not to be ({error})") from error
    return found


def newest_merged(folder: Folder, fleet: Fleet) -> tuple[Merged, Path] | None:
    """Return the newest description of a folder with its file; None if there is none.

    Raises:
        IntegrityError: It is damaged, or not signed by the fleet's merger.
    """
    files = sorted(folder.files(MERGED, suffix="json"), key=number_of)
    if not files:
        return None
    return read_merged(folder.read(files[-1]), fleet, str(files[-1])), files[-1]


def arrays_file(folder: Folder, merged: Merged) -> Path | None:
    """Return the file of a merged head's arrays in a folder; None if it is not there."""
    for path in folder.files(MERGED, suffix="efb"):
        if number_of(path) == merged.version and merged.head[:16] in path.name:
            return path
    return None


def install(home: Home, merged: Merged, data: bytes, place: Path) -> None:
    """Make a bundle of a home's engine and a merged head, whole or not at all.

    Args:
        home: A home with the fleet's feature map.
        merged: The description.
        data: The arrays.
        place: Folder of the bundle; one that is there is replaced and wiped.

    Raises:
        IntegrityError: The arrays are not those of the description.
    """
    if hashlib.sha256(data).hexdigest() != merged.head:
        raise IntegrityError("the merged head is not the one that its description names")
    manifest = replace(home.manifest, pretrained="")
    files = {
        manifest.engine: home.engine_bytes(has_adapters=False),
        HEAD_NAME: data,
    }
    values: dict[str, Any] = {
        "kind": ONNX,
        "bundle": BUNDLE_SCHEMA,
        "version": merged.version,
        "fleet": merged.fleet,
        "home": merged.fleet,
        "created": time.time(),
        "edgecl": edgecl.__version__,
        "feature_map": manifest.feature_map,
        "classes": [
            {"uid": i, "name": name, "id": class_}
            for i, (class_, name, _) in enumerate(merged.classes, 1)
        ],
        "adapters": [],
        "adapter_uids": [],
        "serve_until": merged.serve_until,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "engine": replace(manifest, keys=()).as_json(),
        "report": {"precision": "fp32"},
    }
    part = place.with_name(f".{place.name}.part")
    with telling(f"the merged head {place} cannot be written"):
        if part.exists() or part.is_symlink():
            wipe(part)
        part.mkdir(mode=0o700)
        for name, content in (files | {MANIFEST_NAME: manifest_text(values).encode()}).items():
            (part / name).write_bytes(content)
            flush(part / name)
        open_bundle(part)
        put_in_place(part, place)
        if part.exists():
            wipe(part)
