"""The frozen backbone as ONNX, once per home.

Opset 18, one file, dynamic batch. The exporter is told batch 2 because a batch of one may be baked
in, and the result is read back and run at three batch sizes on real-range pictures, since wrong
exports have shipped (docs/walkthrough.md, walk 4).
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecl.adapters.bottleneck import RANK, adapt
from edgecl.adapters.recipes import recipe_of
from edgecl.backbones import Backbone
from edgecl.config import Config
from edgecl.errors import EdgeclError, MissingPackageError, ParityError, RequestError
from edgecl.heads import spec_of
from edgecl.heads.codebook import default_codebook
from edgecl.home import ADAPTED_FOLDER, Home, make_home
from edgecl.runtime.codebook import Keys
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.faults import in_words
from edgecl.runtime.files import flush, write_whole
from edgecl.runtime.manifest import ENGINE_NAME, Manifest, checked_engine
from edgecl.runtime.pretrained import PRETRAINED_NAME, Pretrained
from edgecl.store.store import create_store

from .graph import import_onnx, opset_of, versions, without_notes
from .parity import compare
from .shipped import Shipped

if TYPE_CHECKING:
    from edgecl.adapters.bottleneck import AdaptedNetwork

OPSET = 18


def export_backbone(
    backbone: Backbone,
    folder: Path,
    *,
    adapter_rank: int = 0,
    active: int = 0,
    keys: tuple[str, ...] = (),
) -> Manifest:
    """Write the backbone as ONNX and its `manifest.json` into a folder.

    Args:
        backbone: A frozen backbone.
        folder: An existing folder.
        adapter_rank: Let the engine take adapters up to this rank, as required inputs, and give
            plain and adapted features (N, 2 D); 0 for none, and plain features (N, D).
        active: Let each picture choose so many rows of an adapter whose gate is open; 0 for none.
        keys: Hashes of the pictures that made the home's keys, if it has them already.

    Returns:
        Manifest: Also written to the folder.

    Raises:
        MissingPackageError: onnx or onnxscript is not installed.
        ParityError: The export differs from torch by more than 1e-4, or lost its dynamic batch.
        RequestError: The folder cannot be written; nothing half-written is left.
        UsageError: Adapters are not known for this backbone.
    """
    path = folder / ENGINE_NAME
    network = adapt(backbone, rank=adapter_rank, active=active) if adapter_rank else None
    try:
        manifest = _exported(backbone, network, path)
        manifest = replace(manifest, keys=keys, adapter_rank=adapter_rank, adapter_active=active)
        if backbone.pretrained is not None and not adapter_rank:
            manifest = add_pretrained(folder, manifest, backbone.pretrained)
    except BaseException as error:
        path.unlink(missing_ok=True)  # on a full disk half an engine takes what is left of it
        if isinstance(error, OSError) and not isinstance(error, EdgeclError):
            raise RequestError(
                f"the engine cannot be written to {folder} {in_words(error)}"
            ) from error
        raise
    manifest.save(folder)
    return manifest


def add_pretrained(folder: Path, manifest: Manifest, pretrained: Pretrained) -> Manifest:
    """Write the classifier of the weights beside an engine; the manifest with it is returned."""
    data = pretrained.as_bytes()
    write_whole(folder / PRETRAINED_NAME, data)
    return replace(manifest, pretrained=hashlib.sha256(data).hexdigest())


def _exported(backbone: Backbone, network: AdaptedNetwork | None, path: Path) -> Manifest:
    """Write the engine and return its manifest, which is not written yet."""
    _export(backbone, network, path)
    opset = _checked_opset(path)
    data = path.read_bytes()
    engine = OnnxEngine(data, provider="cpu")
    parity = compare(backbone, engine, network)
    if not parity.max_abs <= parity.most_fp32:  # so that NaN is refused too
        raise ParityError(
            f"the ONNX export of {backbone.name} differs from torch by {parity.max_abs:.2g}; at "
            f"most {parity.most_fp32:g} is accepted; try other versions of torch and onnxscript"
        )
    flush(path)  # before the manifest names it
    return Manifest(
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        weights_source=backbone.weights_source,
        weights_licence=backbone.weights_licence,
        taps=backbone.taps,
        num_features=backbone.num_features,
        preprocessing=backbone.preprocessing,
        engine_sha256=hashlib.sha256(data).hexdigest(),
        opset=opset,
        parity=parity.as_json(),
        made_with=versions(("torch", "timm", "onnx", "onnxscript", "onnxruntime")),
        engine=path.name,
        tap_pool=backbone.tap_pool,
        stages=backbone.stages,
        directions=backbone.directions,
    )


def init_home(
    path: Path,
    backbone: Backbone | Shipped,
    config: Config,
    *,
    adapter_rank: int = 0,
    force: bool = False,
    encrypt: bool = False,
    make_keys: Callable[[Manifest, OnnxEngine, str], tuple[Keys, tuple[str, ...]]] | None = None,
) -> Home:
    """Make a device home around a frozen backbone; see `make_home` and `export_backbone`.

    Args:
        path: Where it will be.
        backbone: A frozen backbone, or the engine that ships with edgecl.
        config: Settings.
        adapter_rank: Also make an engine that takes adapters up to this rank; 0 for none, which is
            all that an engine without a network can have.
        force: Replace a home that is there.
        encrypt: Seal pictures, features and statistics, every class with a key of its own.
        make_keys: Makes keys or a map for a head of this name with the new engine, and says of
            which pictures; None takes what no data made: plain keys, or no map.
    """

    def fill(engine_folder: Path, database: Path) -> None:
        if isinstance(backbone, Shipped):
            manifest = backbone.write(engine_folder)
        else:
            manifest = export_backbone(backbone, engine_folder)
        statistic = spec_of(config.head.name).statistic
        codebook: Keys | None = None
        if make_keys is not None:
            engine = OnnxEngine(checked_engine(engine_folder, manifest), provider="cpu")
            codebook, made_of = make_keys(manifest, engine, config.head.name)
            manifest = replace(manifest, keys=made_of)
            manifest.save(engine_folder)
        elif statistic.needs_keys:
            codebook = default_codebook(manifest.num_features)
        if adapter_rank and not isinstance(backbone, Shipped):
            adapted = engine_folder / ADAPTED_FOLDER
            adapted.mkdir()
            active = recipe_of(config.consolidation.recipe).active
            export_backbone(
                backbone, adapted, adapter_rank=adapter_rank, active=active, keys=manifest.keys
            )
        create_store(
            database,
            feature_map=manifest.feature_map,
            num_features=manifest.num_features,
            second_moment=statistic.name,
            codebook=codebook,
            sealed=encrypt,
        )

    return make_home(path, config, fill, force=force, encrypt=encrypt)


def add_adapter_inputs(
    home: Home, backbone: Backbone, *, rank: int = RANK, active: int = 0
) -> None:
    """Give a home an engine that takes adapters, beside its own, whole or not at all.

    One that is there is replaced in one step, by its manifest, which names the file.
    """
    part = home.adapted_folder.with_name(f".{ADAPTED_FOLDER}.part")
    shutil.rmtree(part, ignore_errors=True)  # of one that was killed
    part.mkdir()
    try:
        keys = home.manifest.keys
        made = export_backbone(backbone, part, adapter_rank=rank, active=active, keys=keys)
        if home.has_adapters:
            before = home.engine_manifest(has_adapters=True).engine
            made = replace(made, engine=f"backbone-{made.engine_sha256[:12]}.onnx")
            (part / ENGINE_NAME).replace(home.adapted_folder / made.engine)
            made.save(home.adapted_folder)
            if before != made.engine:
                (home.adapted_folder / before).unlink()
            shutil.rmtree(part)
        else:
            part.replace(home.adapted_folder)
        flush(home.adapted_folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _export(backbone: Backbone, network: AdaptedNetwork | None, path: Path) -> None:
    import torch

    onnx = import_onnx()
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"exporting needs onnxscript ({error}); run `pip install 'edgecl[torch]'`"
        ) from error
    size = backbone.preprocessing.image_size
    example = torch.rand(2, 3, size, size) * 2 - 1
    batch = {0: torch.export.Dim("batch", min=1, max=1024)}
    shapes = {} if network is None else network.shapes
    adapter = [torch.zeros(shape) for shape in shapes.values()]
    with _silence():
        torch.onnx.export(
            backbone.model if network is None else network,
            (example,) if network is None else (example, adapter),
            str(path),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["pixels", *shapes],
            output_names=["features"],
            dynamic_shapes={"pixels": batch}
            if network is None
            else {"pixels": batch, "adapter": [None] * len(adapter)},
        )
    onnx.save(without_notes(onnx.load(str(path))), str(path))


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what torch's exporter prints, warns and logs from people: none of it is about them."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _checked_opset(path: Path) -> int:
    onnx = import_onnx()
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path))
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    if not batch.dim_param:
        raise ParityError(
            f"the export has a fixed batch of {batch.dim_value}; expected a dynamic one; try "
            "another version of torch"
        )
    return opset_of(model)
