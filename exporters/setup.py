"""A new home from a few settings: they are checked, and the backbone is taken or exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgecl.backbones import Backbone, load_backbone
from edgecl.config import Config, StoreConfig
from edgecl.errors import UsageError
from edgecl.heads import HEADS, head_config, spec_of
from edgecl.heads.keys import FEWEST_PICTURES, keys_of, too_few
from edgecl.home import Home, check_place, is_damaged, is_home
from edgecl.runtime.levels import check_levels
from edgecl.runtime.manifest import AVG, CATAVGMAX
from edgecl.runtime.preprocess import WHOLE, Preprocessing, check_decoding
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.base import Source
from edgecl.types import Skipped

from .shipped import Shipped, shipped

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a new home is made of.

    Args:
        backbone: timm name.
        weights: A .safetensors or .pth file, `random`, or None for the published ones.
        image_size: Side of the input, pixels; None takes the backbone's.
        taps: Stages whose pooled features are added; None takes the usual ones.
        features: Project the features on so many fixed directions; None keeps them.
        head: Name of the head.
        profile: How it weighs and replays; None takes the head's usual one.
        seed: Seed of all random choices.
        capacity: Most pictures kept for replay.
        capacity_mb: Most megabytes of them.
        keys: Source of pictures, labels ignored, for keys or a whitening map.
        levels: Black and white of 16-bit grey pictures.
        decoding: How large JPEGs are decoded: `whole` or `scaled`.
        adapters: Make an engine that takes adapters at once.
        encrypt: Seal pictures, features and statistics, a key for every class.
    """

    backbone: str = "tf_efficientnet_lite0"
    weights: str | None = None
    image_size: int | None = None
    taps: tuple[int, ...] | None = None
    features: int | None = None
    head: str = "ridge"
    profile: str | None = None
    seed: int = 0
    capacity: int = 2000
    capacity_mb: float = 200.0
    keys: str | None = None
    levels: str = "auto"
    decoding: str = WHOLE
    adapters: bool = False
    encrypt: bool = False


def set_up(
    path: Path,
    setup: Setup,
    *,
    force: bool = False,
    tell: Tell = lambda text: None,
    tell_skipped: Callable[[Sequence[Skipped]], None] = lambda skipped: None,
) -> Home:
    """Make a home, whole or not at all.

    Args:
        path: Where it will be.
        setup: What it is made of.
        force: Replace a home that is there, with all that it learned.
        tell: Told what is going on.
        tell_skipped: Told of the pictures for keys that cannot be used.

    Raises:
        UsageError: A setting is none.
        RequestError: Something else is there.
        MissingPackageError: The extra `torch` is not installed.
    """
    keys = _checked_keys(setup)
    check_place(path, force=force)  # before the time that an export takes
    check_levels(setup.levels)
    check_decoding(setup.decoding)
    config = Config(
        store=StoreConfig(capacity_samples=setup.capacity, capacity_mb=setup.capacity_mb),
        head=head_config(setup.head, seed=setup.seed, profile=setup.profile),
    )
    from edgecl.adapters.bottleneck import RANK

    from .onnx import init_home

    max_pixels = int(config.picture.max_megapixels * 1e6)
    return init_home(
        path,
        _backbone(setup, tell),
        config,
        adapter_rank=RANK if setup.adapters else 0,
        encrypt=setup.encrypt,
        force=force,
        make_keys=None
        if keys is None
        else partial(keys_of, keys.frames(), max_pixels=max_pixels, tell_skipped=tell_skipped),
    )


def _backbone(setup: Setup, tell: Tell) -> Backbone | Shipped:
    """Return the engine that ships with edgecl where it is what is asked for, or a network."""
    # Keys weigh all features alike, and maxima cost them half a point (docs/decisions/0003).
    tap_pool = AVG if HEADS[setup.head].statistic.needs_keys else CATAVGMAX
    if setup.weights is None and setup.features is None and not setup.adapters:
        found = shipped(
            setup.backbone, image_size=setup.image_size, taps=setup.taps, tap_pool=tap_pool
        )
        if found is not None:
            tell(f"taking {setup.backbone} as it ships with edgecl")
            seen = _seen(found.manifest.preprocessing, setup)
            return replace(found, manifest=replace(found.manifest, preprocessing=seen))
    tell(f"loading {setup.backbone}")
    network = load_backbone(
        setup.backbone,
        weights=setup.weights,
        image_size=setup.image_size,
        taps=setup.taps,
        tap_pool=tap_pool,
        features=setup.features,
    )
    tell("exporting it to ONNX and comparing both (about 15 s)")
    return replace(network, preprocessing=_seen(network.preprocessing, setup))


def _seen(how: Preprocessing, setup: Setup) -> Preprocessing:
    """Return a backbone's preprocessing as a home reads pictures."""
    return replace(how, levels=setup.levels, decoding=setup.decoding)


def open_or_set_up(
    path: Path,
    setup: Setup,
    *,
    check: Callable[[], object] = lambda: None,
    tell: Tell = lambda text: None,
) -> Home:
    """Open a home, or make one where there is none.

    Args:
        path: Where it is or will be.
        setup: What a new one is made of.
        check: Called before one is made: what it raises costs no time.
        tell: Told what is going on.
    """
    if is_home(path) or is_damaged(path):
        return Home(path)
    check_place(path)
    check()
    tell(f"there is no home at {path} yet, making one with the default backbone")
    return set_up(path, setup, tell=tell)


def _checked_keys(setup: Setup) -> Source | None:
    """Check the head and open the pictures that make its keys."""
    head = setup.head
    spec_of(head)
    if setup.keys is None:
        return None
    if not HEADS[head].takes_keys:
        known = " and ".join(name for name, spec in HEADS.items() if spec.takes_keys)
        raise UsageError(f"--keys is for the heads {known}, not for {head}; leave it out")
    found = open_source(setup.keys, shuffle_seed=0, wants_classes=False)
    if 0 < len(found) < FEWEST_PICTURES:
        raise too_few(len(found))
    return found
