"""A bundle: one folder with all that prediction needs, and the loader that trusts none of it.

    backbone.onnx            the frozen backbone, as in the home (its name stands in the manifest)
    head.safetensors         arrays of the scorer, and the uids of its classes
    adapter-1.safetensors    arrays of the adapters whose features the scorer wants, if any
    backbone.engine          in a bundle of kind `tensorrt`: the backbone built for one kind of GPU
    fused.onnx               picture in, scores out, for other runtimes, if asked for
    manifest.json            what it is, names of the classes, SHA-256 of every other file

The manifest is written in one form only and ends in a hash of itself, so one changed byte of any
file is found. That finds damage and mix-ups; it is no signature, who can write a bundle can write
its hashes. A revoked bundle has a manifest that says so instead (edgecl/store/exports.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from edgecl.errors import EdgeclError, IntegrityError, RequestError

from .adapters import Adapter
from .calibration import Calibration, calibration_from
from .engines.tensorrt import Compiled
from .files import loads, read_own
from .manifest import MANIFEST_NAME, MOST_BYTES, MOST_ENGINE_BYTES, Manifest
from .mixture import load_served, plain_of
from .novelty import Novelty, novelty_from
from .scoring import Scorer

BUNDLE_SCHEMA = 1
HEAD_NAME = "head.safetensors"
ONNX, TENSORRT = "onnx", "tensorrt"
FUSED_NAME = "fused.onnx"
# Ranges of an int8 engine were measured on pictures that were learned.
_LEARNED = re.compile(
    r"head\.safetensors|adapter-\d+\.safetensors|fused\.onnx|.+\.int8-\w+\.(onnx|engine)"
)
_EXPORT_ANEW = "write the bundle anew with `edgecl export onnx --output`"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files all have the hashes that its manifest names.

    Args:
        values: The manifest, JSON values.
        manifest: The engine's part of it.
        model: Content of the engine file.
        adapters: What the engine is fed with; empty for the plain backbone.
        scorer: What was learned.
        compiled: A TensorRT engine of the same model; None in a bundle of another kind.
        calibration: How far the scores can be believed; None where nothing says it.
        novelty: What tells the unknown; None where too little was kept.
        serve_until: When one of a fleet ends to predict, seconds since the epoch; 0 for never.
    """

    values: dict[str, Any]
    manifest: Manifest
    model: bytes
    adapters: tuple[Adapter, ...]
    scorer: Scorer
    compiled: Compiled | None = None
    calibration: Calibration | None = None
    novelty: Novelty | None = None
    serve_until: float = 0.0


def adapter_name(i: int) -> str:
    """Return the file name of the i-th adapter, counted from 1."""
    return f"adapter-{i}.safetensors"


def compiled_name(model_name: str) -> str:
    """Return the file name of a TensorRT engine beside the name of its ONNX file."""
    return Path(model_name).stem + ".engine"


def holds_learned(name: str) -> bool:
    """Whether a file of this name in a bundle holds what was learned, as a head does."""
    return _LEARNED.fullmatch(name) is not None


def manifest_text(values: dict[str, Any]) -> str:
    """Return the one form of a bundle's manifest, with a `digest` over the rest of it."""
    rest = {key: value for key, value in values.items() if key != "digest"}
    digest = hashlib.sha256(_dump(rest).encode()).hexdigest()
    return _dump(rest | {"digest": digest})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a bundle's manifest, also a revoked one's.

    Raises:
        RequestError: There is no such folder.
        IntegrityError: Missing, changed, of a newer schema, or not of a bundle.
    """
    if not folder.is_dir():
        raise RequestError(
            f"there is no bundle at {folder}; write one with `edgecl export onnx "
            f"--output {quote(str(folder))}`"
        )
    path = folder / MANIFEST_NAME
    try:
        text = read_own(path, MOST_BYTES).decode()
        values = loads(text)
        schema = int(values["bundle"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise IntegrityError(
            f"{path} cannot be read as a bundle's ({error}); {_EXPORT_ANEW}"
        ) from error
    if schema > BUNDLE_SCHEMA:
        raise IntegrityError(
            f"{path} has schema {schema}, this edgecl reads up to {BUNDLE_SCHEMA}; upgrade edgecl"
        )
    if text != manifest_text(values):
        raise IntegrityError(
            f"{path} was changed: its hash does not fit its content; {_EXPORT_ANEW}"
        )
    return dict(values)


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle; the bytes that were hashed are the bytes that are used.

    Raises:
        RequestError: There is no such folder.
        IntegrityError: A file is missing, changed or not listed, the bundle is of a newer schema,
            or it was revoked because something in it was unlearned.
    """
    values = read_manifest(folder)
    if "stale" in values:
        raise IntegrityError(
            f"the bundle {folder} was revoked by receipt {values['stale']}: it held what was "
            "unlearned since; run `edgecl export --rebuild-stale` in its home"
        )
    try:
        files = _checked_files(folder, values["files"])
        manifest = Manifest.from_json(values["engine"], folder / MANIFEST_NAME)
        n_adapters = len(values["adapters"])
        adapters = tuple(_arrays(files, adapter_name(i)) for i in range(1, n_adapters + 1))
        labels = tuple(str(entry["name"]) for entry in values["classes"])
        head = _arrays(files, HEAD_NAME)
        scorer = load_served(head, labels)
        return Bundle(
            values=values,
            manifest=manifest,
            model=files[manifest.engine],
            adapters=adapters,
            scorer=scorer,
            compiled=_compiled(values, manifest, files),
            calibration=calibration_from(head, labels),
            novelty=novelty_from(head, labels, plain_of(scorer)),
            serve_until=float(values.get("serve_until", 0)),
        )
    except EdgeclError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise _incomplete(folder, error) from error
    except SafetensorError as error:
        raise _incomplete(folder, error) from error


def _incomplete(folder: Path, error: Exception) -> IntegrityError:
    what = f"{type(error).__name__}: {error}"[:200]
    return IntegrityError(f"the bundle {folder} is incomplete ({what}); {_EXPORT_ANEW}")


def _arrays(files: dict[str, bytes], name: str) -> dict[str, npt.NDArray[Any]]:
    """Read arrays; one with what is no number would make every answer none."""
    arrays: dict[str, npt.NDArray[Any]] = load_arrays(files[name])
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise IntegrityError(f"{key} in {name} holds what is no number; {_EXPORT_ANEW}")
    return arrays


def _compiled(
    values: dict[str, Any], manifest: Manifest, files: dict[str, bytes]
) -> Compiled | None:
    """Return the TensorRT engine of a bundle; only a listed file can be one."""
    if values["kind"] != TENSORRT:
        return None
    return Compiled.from_json(files[compiled_name(manifest.engine)], values["tensorrt"])


def _checked_files(folder: Path, digests: dict[str, str]) -> dict[str, bytes]:
    """Return the content of every listed file; the folder must hold these and no others."""
    found = {path.name for path in folder.iterdir()} - {MANIFEST_NAME}
    if found != set(digests):
        wrong = [f"{name} is missing" for name in sorted(set(digests) - found)]
        wrong += [f"{name} is not listed" for name in sorted(found - set(digests))]
        raise IntegrityError(
            f"the bundle {folder} is not as its manifest says: {', '.join(wrong)}; {_EXPORT_ANEW}"
        )
    files = {}
    for name, digest in sorted(digests.items()):
        try:
            files[name] = read_own(folder / name, MOST_ENGINE_BYTES)
        except OSError as error:
            raise IntegrityError(
                f"{folder / name} cannot be read ({error.strerror}); {_EXPORT_ANEW}"
            ) from error
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise IntegrityError(
                f"{folder / name} was changed: its hash is not the manifest's; {_EXPORT_ANEW}"
            )
    return files


def _dump(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
