"""The manifest beside an engine: what it is, what it expects, and hashes to prove it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgecl.errors import IntegrityError

from .files import loads, read_own, write_whole
from .preprocess import Preprocessing

SCHEMA = 1
MOST_BYTES, MOST_ENGINE_BYTES = 64 * 2**20, 2 * 2**30
MANIFEST_NAME = "manifest.json"
ENGINE_NAME = "backbone.onnx"
FP32 = "fp32"
# How taps are pooled, in timm's words.
AVG, CATAVGMAX = "avg", "catavgmax"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description of one exported backbone.

    Args:
        backbone: timm name.
        weights_sha256: Hash over all weight tensors, hex.
        weights_source: Where the weights came from, for people.
        weights_licence: Licence of the weights as their source states it, or `unknown`.
        taps: Intermediate stages whose pooled features stand before the last ones.
        num_features: Width D of the feature.
        preprocessing: How a picture becomes the input.
        engine_sha256: Hash of the engine file, hex.
        opset: ONNX opset, read back from the file.
        parity: Largest and mean absolute difference to torch, and on how many inputs.
        made_with: Versions of the packages that made the engine.
        engine: Name of the engine file.
        adapter_rank: Largest rank of the adapters that the engine takes; 0 if it takes none.
        adapter_active: Most rows of an adapter that count for one picture where its gate is open; 0
            if the engine has no gates.
        precision: `fp32`, `fp16`, `int8-cpu` or `int8-trt`.
        tap_pool: How taps are pooled: `avg`, or `catavgmax`, mean and maximum.
        stages: Widths of the blocks of the feature, one for every stage and way of pooling, in
            their order; their sum is D. A manifest that does not say counts as one block.
        keys: SHA-256 of every picture that made the head's keys or map, or the directions: what
            these hold of it outlives any unlearning. In the order of the hashes, so that they tell
            no order either; no names, which could be those of classes.
        directions: Hash of the fixed directions that the feature is projected on, hex, or nothing.
        pretrained: SHA-256 of the file with the classifier that the weights came with, or nothing;
            no part of the feature map.
    """

    backbone: str
    weights_sha256: str
    weights_source: str
    weights_licence: str
    taps: tuple[int, ...]
    num_features: int
    preprocessing: Preprocessing
    engine_sha256: str
    opset: int
    parity: dict[str, float]
    made_with: dict[str, str] = field(default_factory=dict)
    engine: str = ENGINE_NAME
    adapter_rank: int = 0
    adapter_active: int = 0
    precision: str = FP32
    tap_pool: str = AVG
    stages: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    directions: str = ""
    pretrained: str = ""

    def __post_init__(self) -> None:
        if not self.stages:
            object.__setattr__(self, "stages", (self.num_features,))
        if sum(self.stages) != self.num_features or min(self.stages) < 1:
            raise ValueError(f"stages {self.stages} do not add up to {self.num_features} features")
        if self.tap_pool not in (AVG, CATAVGMAX):
            raise ValueError(f"taps pooled by {self.tap_pool!r}; expected {AVG} or {CATAVGMAX}")

    @property
    def feature_map(self) -> str:
        """Hash of the frozen map: weights, architecture, taps and preprocessing, no adapter.

        The engine file is not part of it: the same map exported by two torch versions is the same
        map, and every stored feature, statistic and export carries this hash. An engine of another
        precision is a map of its own: there the file counts, since its rounding came with it.
        """
        what: dict[str, Any] = {
            "backbone": self.backbone,
            "weights": self.weights_sha256,
            "taps": list(self.taps),
            "num_features": self.num_features,
            "adapter": None,  # once a map had one, and its hash stays as it was
            "preprocessing": self.preprocessing.as_json(),
        }
        # Maps that an older edgecl made say nothing of this, and keep their hash.
        if self.tap_pool != AVG:
            what |= {"tap_pool": self.tap_pool, "stages": list(self.stages)}
        if self.directions:
            what["directions"] = self.directions
        if self.precision != FP32:
            what |= {"precision": self.precision, "engine": self.engine_sha256}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Return what is written: JSON values, with the schema and the feature map."""
        return asdict(self) | {"schema": SCHEMA, "feature_map": self.feature_map}

    @classmethod
    def from_json(cls, values: Any, where: Path) -> Manifest:
        """Read what `as_json` returned; `where` is the file that an error names.

        Raises:
            IntegrityError: Of a newer schema, incomplete, or its feature map hash differs.
        """
        try:
            schema = int(values["schema"])
            if schema > SCHEMA:
                raise IntegrityError(
                    f"{where} has schema {schema}, this edgecl reads up to {SCHEMA}; upgrade edgecl"
                )
            manifest = cls(
                backbone=str(values["backbone"]),
                weights_sha256=str(values["weights_sha256"]),
                weights_source=str(values["weights_source"]),
                weights_licence=str(values["weights_licence"]),
                taps=tuple(int(t) for t in values["taps"]),
                num_features=int(values["num_features"]),
                preprocessing=Preprocessing.from_json(values["preprocessing"]),
                engine_sha256=str(values["engine_sha256"]),
                opset=int(values["opset"]),
                parity={str(k): float(v) for k, v in values["parity"].items()},
                made_with={str(k): str(v) for k, v in values["made_with"].items()},
                engine=_file_name(values.get("engine", ENGINE_NAME)),
                adapter_rank=int(values.get("adapter_rank", 0)),
                adapter_active=int(values.get("adapter_active", 0)),
                precision=str(values.get("precision", FP32)),
                tap_pool=str(values.get("tap_pool", AVG)),
                stages=tuple(int(n) for n in values.get("stages", ())),
                keys=tuple(str(digest) for digest in values.get("keys", ())),
                directions=str(values.get("directions", "")),
                pretrained=str(values.get("pretrained", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise _unreadable(where, error) from error
        if values.get("feature_map") != manifest.feature_map:
            raise IntegrityError(
                f"{where} was changed: its feature map hash does not fit its content; "
                "restore the file from a backup of this home"
            )
        return manifest

    def save(self, folder: Path) -> None:
        """Write `manifest.json` into the engine's folder, in one step."""
        text = json.dumps(self.as_json(), indent=2, sort_keys=True)
        write_manifest(folder, text + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read `manifest.json` from an engine's folder.

        Raises:
            IntegrityError: Missing, of a newer schema, incomplete, or its feature map hash differs.
        """
        path = folder / MANIFEST_NAME
        try:
            values = loads(read_own(path, MOST_BYTES))
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        return cls.from_json(values, path)


def checked_engine(folder: Path, manifest: Manifest) -> bytes:
    """Return the engine's bytes after their hash was compared with the manifest.

    The bytes that were hashed are the bytes that run: the file is read once.

    Raises:
        IntegrityError: The file is missing or its hash differs.
    """
    path = folder / manifest.engine
    try:
        data = read_own(path, MOST_ENGINE_BYTES)
    except OSError as error:
        raise IntegrityError(
            f"engine {path} cannot be read ({error}); restore it from a backup of this home"
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != manifest.engine_sha256:
        raise IntegrityError(
            f"engine {path} has SHA-256 {digest[:12]}..., its manifest says "
            f"{manifest.engine_sha256[:12]}...; restore the file from a backup"
        )
    return data


def write_manifest(folder: Path, text: str) -> None:
    """Put a text in the place of a folder's `manifest.json`, in one step."""
    write_whole(folder / MANIFEST_NAME, text.encode())


def _unreadable(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(f"{path} cannot be read ({error}); restore it from a backup of this home")


def _file_name(value: Any) -> str:
    """Return a plain file name; a path would let a manifest name files outside of its folder."""
    name = str(value)
    if name != Path(name).name or not name.endswith(".onnx"):
        raise ValueError(f"engine {name!r} is no file name ending in .onnx")
    return name
