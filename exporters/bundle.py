"""A bundle of engine, head and adapters, whole in its folder or not there, and registered.

What leaves the home: the frozen engine, the scorer's arrays, adapters, names and uids of classes,
and in an int8 engine the ranges of activations on some kept pictures.
What never does: pictures, features, statistics, the store, the device key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_arrays

import edgecl
from edgecl.errors import EdgeclError, RequestError
from edgecl.home import Home
from edgecl.novelty import open_novelty
from edgecl.runtime.adapters import Adapter, digest_of
from edgecl.runtime.bundle import (
    BUNDLE_SCHEMA,
    FUSED_NAME,
    HEAD_NAME,
    ONNX,
    TENSORRT,
    adapter_name,
    compiled_name,
    holds_learned,
    manifest_text,
    open_bundle,
    read_manifest,
)
from edgecl.runtime.engines.tensorrt import Compiled
from edgecl.runtime.files import flush
from edgecl.runtime.manifest import MANIFEST_NAME, Manifest
from edgecl.runtime.scoring import Arrays, Scorer
from edgecl.session import Session
from edgecl.store.adapters import adapter_rows
from edgecl.store.exports import Export, exports_of, finish_exports
from edgecl.store.store import Store
from edgecl.types import Say

from .precision import Content, Options, content_of
from .registered import write_registered


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Args:
        export: Its row in the registry.
        manifest: The engine's manifest.
        size_bytes: Of all files.
        report: JSON values: how it was made and judged.
    """

    export: Export
    manifest: Manifest
    size_bytes: int
    report: dict[str, Any] = field(default_factory=dict)


def export_bundle(
    home: Home,
    store: Store,
    scorer: Scorer,
    adapters: Sequence[Adapter],
    output: Path,
    options: Options | None = None,
    *,
    build: Callable[[bytes], Compiled] | None = None,
    say: Say = lambda what, done, of: None,
) -> Exported:
    """Write a bundle into a folder, whole or not at all, and note it in the registry.

    Args:
        home: The home, whose lock the caller holds.
        store: Its open store.
        scorer: What predicts; at least one class.
        adapters: What makes its features, as `learner.served` gives them.
        output: A new or empty folder, or one that holds a bundle of this home, which is replaced.
        options: How it is made; None takes the engine as it is.
        build: Builds a TensorRT engine, to put beside the ONNX file, from its content.
        say: Told about progress.

    Raises:
        RequestError: Something else is there, or see `content_of`.
        IntegrityError: The engine was changed, or see `content_of`.
    """
    options, place = options or Options(), Path(os.path.realpath(output))
    finish_exports(store)
    replaces = _check_place(home, store, place)
    content = content_of(home, store, scorer, adapters, options, say)
    manifest = replace(content.manifest, pretrained="")
    uids = {name: uid for uid, name in store.names.items()}
    classes = {uids[label]: label for label in content.scorer.labels}
    sources = [row.uid for row in adapter_rows(store) if row.is_served] if adapters else []
    files = _files(home, store, content, list(classes), adapters)
    about: dict[str, Any] = {"kind": ONNX, "precision": options.precision}
    if build is not None:
        about |= _compiled(files, manifest.engine, build)
    values = about | {
        "bundle": BUNDLE_SCHEMA,
        "home": public_id(home),
        "created": time.time(),
        "edgecl": edgecl.__version__,
        "feature_map": manifest.feature_map,
        "classes": [{"uid": uid, "name": name} for uid, name in classes.items()],
        "adapters": [digest_of(adapter) for adapter in adapters],
        "adapter_uids": sources,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "engine": replace(manifest, keys=()).as_json(),  # of no use to who predicts
        "report": content.report,
    }
    export = write_registered(
        store,
        place,
        "the bundle",
        lambda uid: manifest_text(values | {"version": uid}),
        lambda part, text: _write(files | {MANIFEST_NAME: text.encode()}, part),
        kind=about["kind"],
        feature_map=manifest.feature_map,
        # An engine that was calibrated on a class's pictures holds the class.
        classes=sorted({*classes, *content.calibrated_on}),
        adapters=sources,
        body=about | options.as_json() | {"replaces": replaces},
    )
    n_bytes = sum(path.stat().st_size for path in place.iterdir())
    return Exported(export, manifest, n_bytes, content.report)


def _compiled(
    files: dict[str, bytes], engine: str, build: Callable[[bytes], Compiled]
) -> dict[str, Any]:
    """Put an engine that is built for this GPU beside the ONNX file; returns what is said of it."""
    built = build(files[engine])
    files[compiled_name(engine)] = built.plan
    return {"kind": TENSORRT, TENSORRT: built.as_json()}


def _files(
    home: Home, store: Store, content: Content, classes: list[int], adapters: Sequence[Adapter]
) -> dict[str, bytes]:
    """Return what a bundle holds beside its manifest, by name."""
    head = content.scorer.arrays() | {"classes": np.array(classes, dtype=np.int64)}
    head |= _left_out(home, store, content.scorer.labels)
    files = {
        content.manifest.engine: content.model,
        HEAD_NAME: save_arrays({name: np.ascontiguousarray(a) for name, a in head.items()}),
    }
    if content.fused is not None:
        files[FUSED_NAME] = content.fused
    return files | {adapter_name(i): save_arrays(a) for i, a in enumerate(adapters, start=1)}


def _write(files: dict[str, bytes], folder: Path) -> None:
    """Write a bundle's files, and open it as who predicts will."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
        flush(folder / name)
    flush(folder)
    open_bundle(folder)


def public_id(home: Home) -> str:
    """Return what stands for a home outside of it; says nothing of its key."""
    return hmac.new(home.key, b"public id of this home", hashlib.sha256).hexdigest()[:32]


def _left_out(home: Home, store: Store, labels: tuple[str, ...]) -> Arrays:
    """Return what kept samples that were left out say: how sure answers are, what is unknown."""
    session = Session(home, store)
    found: Arrays = {}
    calibration = session.calibration()
    if calibration is not None:
        found |= calibration.only(labels).arrays()
    with suppress(RequestError):  # too little is kept
        found |= open_novelty(store, session.learner.head).among(labels).arrays()
    return found


def _check_place(home: Home, store: Store, place: Path) -> int | None:
    """Check that a bundle can be written here; returns the uid of the export that it replaces."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return None
    try:
        found = read_manifest(place)
        is_ours = found.get("home") == public_id(home)
    except EdgeclError:
        is_ours = False
    if not is_ours:
        raise RequestError(
            f"{place} is there and is no bundle of this home; name a new folder with --output"
        )
    known = {MANIFEST_NAME, *found["files"]}
    foreign = [p.name for p in place.iterdir() if p.name not in known and not holds_learned(p.name)]
    if foreign:
        raise RequestError(
            f"{place} also holds {', '.join(sorted(foreign))}, which replacing the bundle would "
            "delete; move it away, or name a new folder with --output"
        )
    digests = (found["digest"], found.get("was"))
    return next((e.uid for e in exports_of(store) if e.digest in digests), None)
